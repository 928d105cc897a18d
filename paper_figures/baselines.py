"""PostDiff among other methods, quality against cost: `python paper_figures/baselines.py`.

Every row of `postdiff/baselines` and `postdiff/main_table`; settings that stand in both are drawn once.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from measured import rows_of
from style import COLOURS, DOUBLE, FRECHET, LABELS, TEXT, log_if_wide, number_points, program, save

from postdiff.engine.errors import UsageError
from postdiff.lab.records.record import find
from postdiff.lab.tables.rows import FlatRow

EXPERIMENTS = ("postdiff/baselines", "postdiff/main_table")
METRICS = (FRECHET, TEXT)
LOOKS = {"fewer": ("o", COLOURS[0]), "other": ("s", COLOURS[2]), "postdiff": ("^", COLOURS[1])}


def points() -> list[tuple[str, FlatRow]]:
    """Kind ("fewer", "other" or "postdiff") and row of every setting, the most expensive first.

    Raises:
        UsageError: no records, or records whose figures are not measured alike.
    """
    found: dict[str, tuple[str, FlatRow]] = {}
    measured: dict[str, object] = {}
    for experiment in EXPERIMENTS:
        for row in rows_of(experiment, "macs_g", *METRICS):
            record = find(experiment, row["row"])
            assert record is not None
            for metric in METRICS:
                identity = record.metrics[metric].identity
                if measured.setdefault(metric, identity) != identity:
                    raise UsageError(f"{experiment}: row '{row['row']}' was measured otherwise; run it again")
            own = "postdiff" if "postdiff" in row["row"] or "mixed" in row["row"] else "other"
            found.setdefault(record.run_id, (own if record.config["methods"] else "fewer", row))
    return sorted(found.values(), key=lambda point: -point[1]["macs_g"])


def draw(settings: list[tuple[str, FlatRow]]) -> plt.Figure:
    """Frechet distance left, text score right, over the cost; numbers are explained below."""
    drawn, axes = plt.subplots(1, len(METRICS), figsize=(DOUBLE, 3.8), layout="constrained")
    for metric, panel in zip(METRICS, axes, strict=True):
        for kind, row in settings:
            marker, colour = LOOKS[kind]
            panel.errorbar(
                row["macs_g"], row[metric], yerr=row.get(f"{metric}_spread"), fmt=marker, color=colour,
                markersize=4, elinewidth=0.7, capsize=1.5,
            )  # fmt: skip
        panel.set_xlabel("MACs of the denoiser, G an image")
        panel.set_ylabel(LABELS[metric])
        panel.margins(0.1)
        log_if_wide(panel)
    handles = [Line2D([], [], linestyle="", marker=LOOKS[kind][0], color=LOOKS[kind][1]) for kind, _ in settings]
    names = [f"{number}  {row['label']}" for number, (_, row) in enumerate(settings, 1)]
    drawn.legend(handles, names, loc="outside lower center", ncols=3, fontsize=6.5, handletextpad=0.2)
    for metric, panel in zip(METRICS, axes, strict=True):
        spreads = [row.get(f"{metric}_spread") or 0.0 for _, row in settings]
        number_points(panel, [(row["macs_g"], row[metric]) for _, row in settings], spreads)
    return drawn


def main() -> None:
    """Draw from records and save."""
    save(draw(points()), "baselines")


if __name__ == "__main__":
    program(main)
