"""One look for all figures: one column wide, readable in black and white, vector output."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

__all__ = ["COLUMN", "FOLDER", "MARKERS", "figure", "save"]

FOLDER = Path(__file__).parent
COLUMN = 3.4  # inches, the width of one column
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

plt.rcParams.update(
    {
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "0.9",
        "legend.frameon": False,
        "legend.fontsize": 7,
        "lines.markersize": 5,
        "pdf.fonttype": 42,
        "svg.fonttype": "none",
        "svg.hashsalt": "postdiff",
    }
)


def figure(height: float = 2.6) -> tuple[plt.Figure, plt.Axes]:
    """A figure one column wide; `height` in inches."""
    return plt.subplots(figsize=(COLUMN, height), layout="constrained")


def save(drawn: plt.Figure, name: str) -> None:
    """Write `<name>.svg` (vector) and `<name>.png` (for the README) beside the scripts."""
    for ending, options in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 200})):
        drawn.savefig(FOLDER / f"{name}.{ending}", **options)
        print(f"wrote {FOLDER.name}/{name}.{ending}")
    plt.close(drawn)
