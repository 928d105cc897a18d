"""The reproduction's tables, in Markdown and LaTeX: `python paper_figures/tables.py`.

One file of each kind for an experiment, in `paper_figures/tables`, with the rows that have records.
"""

from __future__ import annotations

from measured import rows_of
from style import program, save_text

from postdiff.engine.errors import UsageError
from postdiff.lab.config.experiment import load
from postdiff.lab.tables.table import render

EXPERIMENTS = (
    *("comparison", "mixed_axes", "whole_network"),
    *(f"postdiff/{name}" for name in ("main_table", "baselines", "cross_attention_ablation", "unknowns")),
    *(f"faster_diffusion/table_{number}" for number in (5, 6, 11, 14)),
)
STYLES = {"md": "markdown", "tex": "latex"}


def write(name: str) -> None:
    """Write both files of one experiment.

    Raises:
        UsageError: it has no records.
    """
    measured = load(name).select([row["row"] for row in rows_of(name)])
    for ending, style in STYLES.items():
        save_text(render(measured, style), f"tables/{name.removeprefix('postdiff/').replace('/', '_')}.{ending}")


def main() -> None:
    """Write all that can be written, then name what could not.

    Raises:
        UsageError: an experiment has no records.
    """
    missing = []
    for name in EXPERIMENTS:
        try:
            write(name)
        except UsageError as error:
            missing.append(str(error))
    if missing:
        raise UsageError("; ".join(missing))


if __name__ == "__main__":
    program(main)
