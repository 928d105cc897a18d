"""What runs leave behind, and the figures and tables made of it."""
