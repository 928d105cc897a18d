"""What a plan would begin with, and what that costs: `postdiff plan --dry-run`."""

from __future__ import annotations

from postdiff.lab.planner.planning import Planning
from postdiff.lab.tables.rows import FlatRow
from postdiff.lab.tables.table import Column, draw, plain

__all__ = ["costs"]


def costs(planning: Planning, style: str) -> str:
    """The table of predicted costs.

    Args:
        planning: nothing of it is run.
        style: one of the formats of tables.

    Raises:
        Beyond: nothing is within the budget.
    """
    contenders, full = planning.costs(), planning.full
    heading, unit = ("Time (s)", 1.0) if planning.budget.kind == "seconds" else ("MACs (G)", 1e9)
    rows: list[FlatRow] = [
        {
            "row": each.name,
            "label": each.setting.label,
            "steps": each.setting.steps,
            "cost": each.cost / unit,
            "share": each.cost / full,
            "saving": full / each.cost,
        }
        for each in contenders
    ]
    columns = [
        Column("Setting", lambda row: row["label"]),
        Column(heading, plain("cost", 3)),
        Column("of the full run", plain("share", 3, "x")),
        Column("saving", plain("saving", 2, "x")),
    ]
    space, pace = planning.space, planning.pace
    notes = [
        f"{len(space)} settings in space '{space.name}'; these are plain fewer steps and each choice alone, with as "
        f"many steps as {planning.budget.text} allows",
        f"a race begins with them on {pace.counts[0]} prompts, tries {pace.waves * pace.wave} combinations, and ends "
        f"on {pace.counts[-1]} prompts",
    ]
    return draw(rows, columns, notes, style)
