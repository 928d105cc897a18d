"""What methods claim beside modules, by name: two that claim one thing cannot stand in one stack."""

from __future__ import annotations

__all__ = ["DRAWS", "IMAGES_APART", "ROWS", "WHOLE_CALLS"]

WHOLE_CALLS = "whole calls of the network"
ROWS = "the rows of a network call"  # claimed by whoever hands the network some images alone, or several steps at once
DRAWS = "one random draw for all rows of a network call"  # depends on how often it is called, and so on who is beside
IMAGES_APART = (WHOLE_CALLS, ROWS, DRAWS)  # claimed by whoever leaves whole calls out image by image
