"""Options of a whole network, each held for the length of a call."""
