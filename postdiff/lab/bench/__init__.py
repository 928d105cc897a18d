"""How long rows take beside reference implementations, and where the time goes."""
