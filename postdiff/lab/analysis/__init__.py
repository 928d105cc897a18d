"""Looking at a denoiser from inside: how its features change, and what follows for methods."""
