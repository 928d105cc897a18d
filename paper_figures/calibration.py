"""How well a few prompts rank settings: `python paper_figures/calibration.py`.

Spearman's rank correlation between the settings' figures from few prompts, drawn once, and those from all prompts
and seeds. Records of `postdiff/calibration`.
"""

from __future__ import annotations

import math
import re

import matplotlib.pyplot as plt
import torch
from measured import rows_of
from style import COLOURS, FRECHET, LABELS, MARKERS, PSNR, TEXT, figure, program, save
from torchmetrics.functional import spearman_corrcoef

from postdiff.engine.errors import UsageError
from postdiff.lab.tables.rows import FlatRow

EXPERIMENT = "postdiff/calibration"
LEAST = 3  # settings, fewer have no order worth a correlation


def rank_correlations(rows: list[FlatRow] | None = None) -> dict[str, dict[int, float]]:
    """Rank correlation by metric and number of prompts; what fewer than three settings have is left out.

    Args:
        rows: flat rows of the experiment; None reads them.

    Raises:
        UsageError: nothing can be correlated.
    """
    by_name = {row["row"]: row for row in (rows_of(EXPERIMENT, TEXT) if rows is None else rows)}
    few = {name: match for name in by_name if (match := re.fullmatch(r"(t\d+_s[\d.]+)_n(\d+)", name))}
    found: dict[str, dict[int, float]] = {}
    for metric in (FRECHET, TEXT, PSNR):
        for count in sorted({int(match[2]) for match in few.values()}):
            pairs = [
                (by_name[name].get(metric), by_name.get(match[1], {}).get(metric))
                for name, match in few.items() if int(match[2]) == count
            ]  # fmt: skip
            pairs = [pair for pair in pairs if None not in pair]
            ranked = len(pairs) >= LEAST
            value = float(spearman_corrcoef(*torch.tensor(pairs, dtype=torch.float64).T)) if ranked else math.nan
            if math.isfinite(value):
                found.setdefault(metric, {})[count] = value
    if not found:
        raise UsageError(f"experiment {EXPERIMENT} has too few rows to rank; run it with model=emoji data=emoji")
    return found


def draw(correlations: dict[str, dict[int, float]]) -> plt.Figure:
    """Correlation over the number of prompts, one line for each metric."""
    drawn, axes = figure()
    counts = sorted({count for by_count in correlations.values() for count in by_count})
    lowest = min(value for by_count in correlations.values() for value in by_count.values())
    for (metric, by_count), colour, marker in zip(correlations.items(), COLOURS[1:], MARKERS, strict=False):
        label = LABELS[metric].rstrip("↓↑ ").removesuffix(", dB")
        axes.plot(by_count.keys(), by_count.values(), f"-{marker}", color=colour, label=label, linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xlabel("prompts in the calibration set, one seed")
    axes.set_ylabel("rank correlation with the full set")
    axes.set_ylim(min(0.5, lowest - 0.05), 1.02)
    axes.legend()
    return drawn


def main() -> None:
    """Draw from records, save, and print the correlations."""
    correlations = rank_correlations()
    save(draw(correlations), "calibration")
    for metric, by_count in correlations.items():
        print(f"{metric}: " + ", ".join(f"{value:.3f} with {count} prompts" for count, value in by_count.items()))


if __name__ == "__main__":
    program(main)
