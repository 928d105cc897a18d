"""How long rows take, and where the time goes."""
