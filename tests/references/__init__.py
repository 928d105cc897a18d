"""Slow references: every cache written down once more, in the symbols of its paper, without speed and without state."""
