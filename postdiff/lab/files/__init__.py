"""Where files are: folders that are written to, weights in folders or on the hub."""
