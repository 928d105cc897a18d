"""A row made ready: what the cards fill in, every check that needs no weights, and its identities."""
