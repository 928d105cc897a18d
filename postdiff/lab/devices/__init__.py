"""What computes a run: one device or many, and what is told of them."""
