"""`postdiff profile`: where the time of an experiment's rows goes, beside where their MACs go, by group of modules.

Printed as a table, and written as a chart and a CSV file below `outputs/profiles`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from postdiff.cost import macs
from postdiff.cost.latency import TimeLimit, seconds
from postdiff.cost.macs import GROUPS
from postdiff.cost.time_profile import DRIVER, PIPELINE, SOLVER, Place, touched, watch
from postdiff.engine.errors import UsageError
from postdiff.lab.bench.speed import limit_of, naming_rows
from postdiff.lab.config.experiment import Experiment
from postdiff.lab.devices import provenance
from postdiff.lab.files import folders
from postdiff.lab.generate.pipelines import Pipelines
from postdiff.lab.plan.plan import Plan, plan_rows, same_weights
from postdiff.lab.progress import bar
from postdiff.lab.tables.rows import FlatRow
from postdiff.lab.tables.table import Column, draw, plain

__all__ = ["PLACES", "WHOLE", "RowProfile", "values", "measure", "profile", "render"]

# Where time goes, in the order of tables and charts: in the loop, and around it (grey).
# Colours are Okabe and Ito's, which remain apart for colour-blind readers.
_HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#000000", "#e69f00", "#808080", "#b0b0b0", "#d9d9d9")
AROUND = {"text_encoder": "text encoder", "vae": "VAE"}
PLACES = (*GROUPS, DRIVER, SOLVER, PIPELINE, *AROUND.values())
COLOURS = dict(zip(PLACES, _HUES, strict=True))
WHOLE = "whole call"


@dataclass
class RowProfile:
    """One row.

    Attributes:
        plan: the row.
        batch_size: images of one call.
        macs: of a call, convention `all`, by part and group.
        times: seconds of every call under the stopwatch, likewise.
        bare: seconds of as many calls without it.
    """

    plan: Plan
    batch_size: int
    macs: Mapping[Place, int]
    times: list[dict[Place, float]] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> dict[Place, float]:
        """The median of every place; the sum of medians is not quite the median of sums."""
        names = dict.fromkeys(name for one in self.times for name in one)
        return {name: median(one.get(name, 0.0) for one in self.times) for name in names}

    def by_place(self, amounts: Mapping[Place, float]) -> dict[str, float]:
        """{one of `PLACES`: the sum for one image}; those without any are left out."""
        found: dict[str, float] = {}
        for (part, group), amount in amounts.items():
            place = AROUND.get(part.partition(":")[0], group)  # a denoiser by its groups, other networks whole
            found[place] = found.get(place, 0.0) + amount / self.batch_size
        return found


def profile(experiment: Experiment, style: str) -> tuple[str, list[Path]]:
    """Profile an experiment; gives the table in one of `tables.FORMATS`, and the chart and CSV file written.

    Raises:
        UsageError: as `measure` does.
    """
    rows = measure(experiment)
    folder = folders.outputs() / "profiles"
    chart, table = folder / f"{experiment.name}.png", folder / f"{experiment.name}.csv"
    _draw(rows, chart)
    with folders.atomic_write(table) as temporary:
        temporary.write_text(render(rows, "csv"))
    return render(rows, style), [chart, table]


def measure(experiment: Experiment) -> list[RowProfile]:
    """Profile all rows whose `bench.repeats` is not 0; rows on the same weights in turns, so that drift hits all alike.

    Raises:
        UsageError: a mistake in the experiment, nothing to time, a network that is compiled, or not one whole round in
            `bench.seconds`.
    """
    folders.writable_outputs()
    plans = [plan for plan in plan_rows(experiment) if plan.config.bench.repeats]
    if not plans:
        raise UsageError("bench.repeats=0 leaves nothing to time; use bench.repeats=5")
    if compiled := [plan.name for plan in plans if plan.config.network.compile]:
        raise UsageError(
            f"row '{compiled[0]}': inside compiled blocks no module can be timed; use network.compile=false"
        )
    limit, groups = limit_of(plans), same_weights(plans)
    found: dict[str, RowProfile] = {}
    for place, group in enumerate(groups):
        with naming_rows(group, limit, len(groups) - place):
            found |= {one.plan.name: one for one in _in_turns(group, limit.part(len(groups) - place))}
    return [found[plan.name] for plan in plans]


def _in_turns(plans: Sequence[Plan], limit: TimeLimit) -> list[RowProfile]:
    repeats = max(plan.config.bench.repeats for plan in plans)
    warmup = max(plan.config.bench.warmup for plan in plans)
    # A pipeline is shared, and a call hands it the row's own scheduler: right before a row is counted or watched, it is
    # called. So the first two calls of each row warm it up, however little is asked for.
    with bar("profile", len(plans) * (2 + warmup + 2 * repeats), "call") as shown:
        rows, calls = [], []
        held: dict[object, Pipelines] = {}
        for plan in plans:
            sampler, size = held.setdefault(plan.variant, Pipelines()).sampler(plan), plan.config.bench.batch_size
            call = partial(sampler.call, list(itertools.islice(itertools.cycle(plan.samples), size)))
            calls.append((sampler.pipe, call, touched(sampler.pipe, call)))
            work: Counter[Place] = Counter()
            for (part, _, group), done in macs.tally(sampler.pipe, call).cells.items():
                work[part, group] += done.all
            rows.append(RowProfile(plan, size, work))
            shown.update(2)
            limit.need(limit.gone / len(rows) * (len(plans) - len(rows)))
        for turn in range(warmup + repeats):
            if turn > warmup and limit.left < 0:
                break
            for row, (pipe, call, modules) in zip(rows, calls, strict=True):
                spent = seconds(call, pipe)
                if turn >= warmup:
                    row.bare.append(spent)
                    row.times.append(watch(pipe, call, modules))
                shown.update(1 + (turn >= warmup))
    return rows


def values(rows: Sequence[RowProfile]) -> list[FlatRow]:
    """One flat row for every place in every row of the experiment, the whole call first.

    Keys: row, label, model, place, seconds, macs_g (both of one image; convention `all`), time_share, macs_share (of
    the whole call). Against the first row of the same model: time_saving and macs_saving (times less), lost_s (seconds
    more than if its time had fallen as its MACs did; where there are none, seconds more than there). Null where a
    value has no meaning.
    """
    firsts: dict[tuple[str, str], tuple[float, float]] = {}
    found = []
    for one in rows:
        times, work = one.by_place(one.seconds), one.by_place(one.macs)
        times[WHOLE], work[WHOLE] = sum(times.values()), sum(work.values())
        names = {"row": one.plan.name, "label": one.plan.row.label, "model": one.plan.config.model}
        for place in (WHOLE, *PLACES):
            spent, done = times.get(place, 0.0), work.get(place, 0.0)
            first_spent, first_done = firsts.setdefault((names["model"], place), (spent, done))
            if spent or done:
                found.append({
                    **names, "place": place, "seconds": spent, "macs_g": done / 1e9,
                    "time_share": spent / times[WHOLE], "macs_share": done / work[WHOLE],
                    "time_saving": first_spent / spent if first_spent and spent else None,
                    "macs_saving": first_done / done if first_done and done else None,
                    "lost_s": spent - first_spent * (done / first_done if first_done else 1.0),
                })  # fmt: skip
    return found


def render(rows: Sequence[RowProfile], style: str) -> str:
    """The table of profiled rows, in one of `tables.FORMATS`."""

    def scaled(heading: str, key: str, scale: float, digits: int, unit: str = "") -> Column:
        return Column(heading, lambda row: f"{scale * row[key]:.{digits}f}{unit}" if row[key] else "-")

    found = values(rows)
    columns = [Column("Row", lambda row: row["label"] if row["place"] == WHOLE else f"  {row['place']}")]
    if len({row["model"] for row in found}) > 1:
        columns.append(Column("Model", lambda row: row["model"]))
    columns += [scaled("Time (ms)", "seconds", 1e3, 2), scaled("share", "time_share", 100, 1, "%")]
    columns += [scaled("MACs (G)", "macs_g", 1, 3), scaled("share", "macs_share", 100, 1, "%")]
    columns += [Column("less time", plain("time_saving", 2, "x")), Column("less work", plain("macs_saving", 2, "x"))]
    columns.append(scaled("lost (ms)", "lost_s", 1e3, 2))
    device, size = rows[0].plan.config.device, rows[0].batch_size
    slower = max(median(sum(time.values()) for time in one.times) / median(one.bare) for one in rows)
    waiting = ", which are events in the GPU's queue," if device.startswith("cuda") else ""
    calls = f"{len(rows[0].times)} calls with {size} image{'s' if size > 1 else ''} each"
    notes = [
        "time and MACs of one image, all convention; less time, less work: against the first row",
        "lost: time beyond what it would be if it fell as MACs do (where there are none: beyond the first row's)",
        "driver: our methods and what carries them; pipeline: the rest of diffusers, the solver apart",
        f"median of {calls}, on {provenance.device_name(device)}",
        f"hooks{waiting} make a call up to {slower:.2f} times as long",
    ]
    return draw(found, columns, notes, style)


def _draw(rows: Sequence[RowProfile], file: Path) -> None:
    """Write the chart as PNG: a bar a row, of time and of MACs, stacked by place."""
    with matplotlib.rc_context({"font.size": 8, "legend.frameon": False}):
        value = Figure(figsize=(7.0, 1.2 + 0.3 * len(rows)), layout="constrained")
        panels = value.subplots(1, 2, sharey=True)
        labels = [one.plan.row.label for one in rows]
        times, work = [one.by_place(one.seconds) for one in rows], [one.by_place(one.macs) for one in rows]
        for panel, found, unit, scale in ((panels[0], times, "ms", 1e3), (panels[1], work, "GMACs", 1e-9)):
            left = [0.0] * len(rows)
            for place, colour in COLOURS.items():
                widths = [scale * each.get(place, 0.0) for each in found]
                panel.barh(range(len(rows)), widths, left=left, color=colour)
                left = [low + width for low, width in zip(left, widths, strict=True)]
            panel.set(xlabel=f"{unit} an image", yticks=range(len(rows)), yticklabels=labels)
        panels[0].invert_yaxis()
        handles = [Patch(color=colour, label=place) for place, colour in COLOURS.items()]
        value.legend(handles=handles, loc="outside upper center", ncols=5, handlelength=1)
        with folders.atomic_write(file) as temporary:
            value.savefig(temporary, dpi=200)
