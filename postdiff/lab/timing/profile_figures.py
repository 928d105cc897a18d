"""Flat figures of profiled rows: seconds, MACs and their shares by group of modules, or by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from postdiff.lab.bench.profiling import Profiled

from postdiff.cost.groups import GROUPS
from postdiff.cost.stopwatch import BEFORE, DRIVER, PIPELINE, SOLVER
from postdiff.cost.tally import Cell
from postdiff.lab.tables.rows import Row

__all__ = ["LOOP", "PLACES", "WHOLE", "group_figures", "place_key", "seconds", "step_figures", "work"]

# Where time goes, in the order of tables and charts: in the loop, and around it.
LOOP = (*GROUPS, DRIVER, SOLVER, PIPELINE)
AROUND = {"text_encoder": "text encoder", "vae": "VAE"}
PLACES = (*LOOP, *AROUND.values())
WHOLE = "whole call"


def place_key(place: str) -> str:
    """How a place is called in the names of figures: "self-attention" -> "self_attention"."""
    return place.lower().replace("-", "_").replace(" ", "_")


def seconds(one: Profiled, step: int | None = None) -> dict[str, float]:
    """{place: seconds of one picture} at one step, or in the whole call; places that took none are left out."""
    return _by_place(one.time.cells, one.pictures, step)


def work(one: Profiled, step: int | None = None) -> dict[str, float]:
    """{place: MACs of one picture}, likewise."""
    return _by_place(one.work, one.pictures, step)


def group_figures(rows: Sequence[Profiled]) -> list[Row]:
    """One flat row for every place in every row of the experiment, the whole call first.

    Keys: row, label, model, place, seconds, macs_g (both of one picture; convention `all`), time_share, macs_share (of
    the whole call). Against the first row of the same model: time_saving and macs_saving (times less), ms_per_gmac and
    its ratio to that row's (above 1: the place saves less time than work), lost_s (seconds more than if its time had
    fallen as its MACs did; where there are none, seconds more than there). Null where a figure has no meaning.
    """
    firsts: dict[tuple[str, str], tuple[float, float]] = {}
    found = []
    for one in rows:
        times, macs = seconds(one), work(one)
        whole = (sum(times.values()), sum(macs.values()))
        model = one.plan.config.model
        names = {"row": one.plan.name, "label": one.plan.row.label, "model": model}
        for place in (WHOLE, *PLACES):
            spent, done = whole if place == WHOLE else (times.get(place, 0.0), macs.get(place, 0.0))
            first = firsts.setdefault((model, place), (spent, done))
            if spent or done:
                shares = {"time_share": spent / whole[0], "macs_share": done / whole[1]}
                figures = {"place": place, "seconds": spent, "macs_g": done / 1e9, **shares}
                found.append(names | figures | _against(first, spent, done))
    return found


def step_figures(rows: Sequence[Profiled]) -> list[Row]:
    """One flat row for every step of every row of the experiment.

    Keys: row, label, model, step (-1: before the first network call; as many as there are steps: after the last solver
    call), steps (the same in words), seconds and macs_g of all places together, and of each <place>_s and <place>_g.
    """
    found = []
    for one in rows:
        names = {"row": one.plan.name, "label": one.plan.row.label, "model": one.plan.config.model}
        last = one.time.steps
        for step in range(BEFORE, last + 1):
            times, macs = seconds(one, step), work(one, step)
            figures: Row = {"step": step, "steps": {BEFORE: "before", last: "after"}.get(step, str(step))}
            figures |= {"seconds": sum(times.values()), "macs_g": sum(macs.values()) / 1e9}
            for place in PLACES:
                figures[f"{place_key(place)}_s"] = times.get(place, 0.0)
                figures[f"{place_key(place)}_g"] = macs.get(place, 0.0) / 1e9
            found.append(names | figures)
    return found


def _by_place(cells: Mapping[Cell, float], pictures: int, step: int | None) -> dict[str, float]:
    found: dict[str, float] = {}
    for (part, at, group), amount in cells.items():
        if step in (None, at) and amount:
            place = AROUND.get(part.partition(":")[0], group)  # a denoiser by its groups, other networks whole
            found[place] = found.get(place, 0.0) + amount / pictures
    return found


def _against(first: tuple[float, float], spent: float, done: float) -> Row:
    first_spent, first_done = first
    found: Row = dict.fromkeys(("time_saving", "macs_saving", "ms_per_gmac", "ratio"))
    if first_spent and spent:
        found["time_saving"] = first_spent / spent
    if done:
        found["ms_per_gmac"] = 1e12 * spent / done
    if first_done and done:
        found["macs_saving"] = first_done / done
        found["ratio"] = (spent / done) / (first_spent / first_done)
    found["lost_s"] = spent - first_spent * (done / first_done if first_done else 1.0)
    return found
