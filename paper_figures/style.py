"""One look for all figures: one or two columns wide, readable in black and white, vector output."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib import ticker

from postdiff.engine.errors import UsageError
from postdiff.lab.tables.rows import FlatRow

__all__ = [
    "COLOURS", "COLUMN", "DOUBLE", "FOLDER", "FRECHET", "LABELS", "MARKERS", "PSNR", "SAVING", "TEXT",
    "figure", "legend", "line", "log_if_wide", "number_points", "panels", "program", "save", "save_text",
]  # fmt: skip

FOLDER = Path(__file__).parent
COLUMN = 3.4  # inches, the width of one column
DOUBLE = 7.0  # inches, the width of a page
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# Okabe and Ito's colours, which remain apart for colour-blind readers; without their yellow, too pale for a line.
COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

FRECHET, TEXT, PSNR = "emoji_frechet_distance", "emoji_text_score", "paired_psnr"
LABELS = {FRECHET: "Frechet distance ↓", TEXT: "text score ↑", PSNR: "PSNR to 50 steps, dB ↑"}
SAVING = "MACs saving (times fewer than 20 steps)"

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


def panels(metrics: Sequence[str], label: str, height: float = 4.4) -> tuple[plt.Figure, dict[str, plt.Axes]]:
    """One panel for each metric, or for what else is given, one below the other; the x axis bears `label`."""
    drawn, axes = plt.subplots(len(metrics), 1, figsize=(COLUMN, height), layout="constrained", sharex=True)
    for panel, metric in zip(axes, metrics, strict=True):
        panel.set_ylabel(LABELS.get(metric, metric))
    axes[-1].set_xlabel(label)
    return drawn, dict(zip(metrics, axes, strict=True))


def line(axes: plt.Axes, rows: Sequence[FlatRow], metric: str, x: str = "macs_saving", **look: object) -> None:
    """The rows in their order, error bars for the spread over seeds; rows that lack one of the figures are left out."""
    known = [row for row in rows if row.get(x) is not None and row.get(metric) is not None]
    if known:
        spreads = [row.get(f"{metric}_spread") or 0.0 for row in known]
        look = {"markersize": 4, "linewidth": 1, "capsize": 1.5, "elinewidth": 0.7} | look
        axes.errorbar([row[x] for row in known], [row[metric] for row in known], yerr=spreads, **look)


def log_if_wide(axes: plt.Axes, ratio: float = 8.0) -> None:
    """A logarithmic y axis where the largest value is more than `ratio` times the smallest."""
    low, high = axes.dataLim.intervaly
    if low > 0 and ratio * low < high < math.inf:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axes.yaxis.set_minor_locator(ticker.NullLocator())


def legend(drawn: plt.Figure, axes: plt.Axes, order: Sequence[str], columns: int = 2, title: str | None = None) -> None:
    """One legend for all panels, above them: those labels of `order` that `axes` has, down the columns."""
    handles, labels = axes.get_legend_handles_labels()
    found = {label: handles[labels.index(label)] for label in order if label in labels}
    drawn.legend(
        found.values(), found.keys(), loc="outside upper center", ncols=columns, title=title, title_fontsize=7,
        handlelength=2.4, columnspacing=1.2,
    )  # fmt: skip


def number_points(axes: plt.Axes, points: Sequence[tuple[float, float]], spreads: Sequence[float]) -> None:
    """Write 1, 2, ... beside the points, each where it touches no point, no error bar and no other number."""
    axes.figure.draw_without_rendering()
    bars = [[(x, y + part * spread) for (x, y), spread in zip(points, spreads, strict=True)] for part in (-1, 1)]
    drawn = axes.transData.transform([*points, *bars[0], *bars[1]]) / axes.figure.dpi * 72
    (left, bottom), (right, top) = axes.bbox.get_points() / axes.figure.dpi * 72
    taken: list[tuple[float, float]] = []
    for number, (x, y) in enumerate(drawn[: len(points)], 1):
        turns = [turn / 6 * math.pi for turn in range(12)]
        places = [(far * math.cos(turn), far * math.sin(turn)) for far in range(8, 60, 4) for turn in turns]
        free = (
            (dx, dy) for dx, dy in places
            if left + 4 < x + dx < right and bottom + 4 < y + dy < top
            and all(math.dist((x + dx, y + dy), other) > 7 for other in drawn)
            and all(math.dist((x + dx, y + dy), other) > 10 for other in taken)
        )  # fmt: skip
        place = next(free, places[0])
        taken.append((x + place[0], y + place[1]))
        leader = {"arrowstyle": "-", "linewidth": 0.4, "color": "0.4", "shrinkA": 0, "shrinkB": 0}
        written = axes.annotate(
            str(number), points[number - 1], place, textcoords="offset points", ha="center", va="center", fontsize=6.5,
            arrowprops=leader if math.hypot(*place) > 10 else None, zorder=1.9,
        )  # fmt: skip
        written.set_in_layout(False)


def save(drawn: plt.Figure, name: str) -> None:
    """Write `<name>.svg` (vector) and `<name>.png` (for the README) beside the scripts."""
    for ending, options in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 200})):
        drawn.savefig(FOLDER / f"{name}.{ending}", **options)
        print(f"wrote {FOLDER.name}/{name}.{ending}")
    plt.close(drawn)


def save_text(text: str, name: str) -> None:
    """Write a text file, `name` with folder and ending, beside the scripts."""
    file = FOLDER / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")
    print(f"wrote {FOLDER.name}/{name}")


def program(main: Callable[[], None]) -> None:
    """Run a script's `main`; a mistake that can be mended is told in one line, and the script exits with 2."""
    try:
        main()
    except UsageError as error:
        print(f"postdiff: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
