"""What to keep between key steps, and where to put them (Faster Diffusion): `python paper_figures/propagation.py`.

Rows of Tables 5, 6, 11 and 14 over their cost: fewer steps, uniform, hand-made and measured key steps, ablations.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from measured import named, rows_of
from style import COLOURS, FRECHET, TEXT, legend, line, log_if_wide, panels, program, save

from postdiff.engine.errors import UsageError
from postdiff.lab.tables.rows import FlatRow

EXPERIMENTS = tuple(f"faster_diffusion/table_{number}" for number in (5, 6, 11, 14))
METRICS = (FRECHET, TEXT)
# Label, names of rows, look. A row of equal settings in two tables has one place.
SERIES = (
    ("50 steps or fewer", r"original|steps_\d+", {"marker": "o", "color": COLOURS[0], "linestyle": "-"}),
    (
        "fewer steps, prior noise",
        r"steps_\d+_noise",
        {"marker": "o", "color": COLOURS[0], "mfc": "w", "linestyle": ":"},
    ),
    ("uniform keys", r"uniform_\d+", {"marker": "s", "color": COLOURS[1], "linestyle": "-"}),
    ("hand-made keys I to III", r"nonuniform_[123]", {"marker": "^", "color": COLOURS[4], "linestyle": ""}),
    ("hand-made keys IV", r"nonuniform_4", {"marker": "^", "color": COLOURS[2], "linestyle": ""}),
    ("the same without noise", r"propagation", {"marker": "^", "color": COLOURS[2], "mfc": "w", "linestyle": ""}),
    ("measured keys", r"measured.*", {"marker": "*", "color": COLOURS[3], "markersize": 7, "linestyle": ""}),
    ("decoder kept", r"decoder", {"marker": "v", "color": COLOURS[5], "linestyle": ""}),
    ("both kept", r"both", {"marker": "D", "color": COLOURS[5], "linestyle": ""}),
    ("nothing computed", r"nothing", {"marker": "X", "color": COLOURS[5], "linestyle": ""}),
)


def rows() -> list[FlatRow]:
    """Measured rows of all tables.

    Raises:
        UsageError: no table has any.
    """
    found: list[FlatRow] = []
    missing = []
    for experiment in EXPERIMENTS:
        try:
            found += rows_of(experiment, "macs_g", *METRICS)
        except UsageError as error:
            missing.append(error)
    if not found:
        raise missing[0]
    return found


def draw(measured: Sequence[FlatRow]) -> plt.Figure:
    """Frechet distance above, text score below, over the work of one image."""
    drawn, axes = panels(METRICS, "MACs of the denoiser, G an image", height=5.0)
    for metric, panel in axes.items():
        for label, pattern, look in SERIES:
            line(
                panel,
                sorted(named(measured, pattern), key=lambda row: row["macs_g"]),
                metric,
                "macs_g",
                label=label,
                **look,
            )
        log_if_wide(panel)
    legend(drawn, axes[FRECHET], [label for label, *_ in SERIES])
    return drawn


def main() -> None:
    """Draw from records and save."""
    save(draw(rows()), "propagation")


if __name__ == "__main__":
    program(main)
