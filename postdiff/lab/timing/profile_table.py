"""The tables of `postdiff profile`, and the files beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from postdiff.lab.bench.profile_figures import PLACES, WHOLE, group_figures, place_key, step_figures
from postdiff.lab.bench.profiling import Profiled

from postdiff.engine.errors import unknown
from postdiff.lab.bench import profile_chart, profiling
from postdiff.lab.config.experiment import Experiment
from postdiff.lab.devices import provenance
from postdiff.lab.files import folders
from postdiff.lab.tables.rows import Row
from postdiff.lab.tables.table import FORMATS, Column, draw, plain

__all__ = ["VIEWS", "profile", "render"]


def profile(experiment: Experiment, style: str, by: str) -> tuple[str, list[Path]]:
    """Profile an experiment.

    Args:
        experiment: its rows are run.
        style: one of `postdiff.lab.tables.table.FORMATS`; csv and json hold all figures.
        by: one of `VIEWS`.

    Returns:
        The table; and the chart and the JSON file with every cell, below `outputs/profiles`.

    Raises:
        UsageError: a name that is not known, or what `profiling.profile` raises.
    """
    for kind, name, known in (("format", style, FORMATS), ("view", by, VIEWS)):
        if name not in known:
            raise unknown(kind, name, known)
    rows = profiling.profile(experiment)
    folder = folders.outputs() / "profiles"
    chart, cells = folder / f"{experiment.name}.png", folder / f"{experiment.name}.json"
    profiling.write(experiment, rows, cells)
    profile_chart.draw(rows, chart)
    return render(rows, style, by), [chart, cells]


def render(rows: Sequence[Profiled], style: str, by: str) -> str:
    """One view of profiled rows."""
    figures, columns, notes = VIEWS[by](rows, style)
    names = [Column("Row", _name)]
    if len({row["model"] for row in figures}) > 1:
        names.append(Column("Model", lambda row: row["model"]))
    return draw(figures, names + columns, notes + _about(rows), style)


View = tuple[list[Row], list[Column], list[str]]


def _by_group(rows: Sequence[Profiled], style: str) -> View:
    columns = [
        Column("Time (ms)", _scaled("seconds", 1e3, 2)),
        Column("share", _scaled("time_share", 100, 1, "%")),
        Column("MACs (G)", _scaled("macs_g", 1, 3)),
        Column("share", _scaled("macs_share", 100, 1, "%")),
        Column("less time", plain("time_saving", 2, "x")),
        Column("less work", plain("macs_saving", 2, "x")),
        Column("ms per GMAC", plain("ms_per_gmac", 2)),
        Column("to first", plain("ratio", 2, "x")),
        Column("lost (ms)", _scaled("lost_s", 1e3, 2)),
    ]
    notes = [
        "time and MACs of one picture, all convention; less time, less work, to first: against the first row",
        "lost: time beyond what it would be if it fell as MACs do (where there are none: beyond the first row's)",
        "driver: our methods and what carries them; pipeline: the rest of diffusers, the solver apart",
    ]
    return group_figures(rows), columns, notes


def _by_step(rows: Sequence[Profiled], style: str) -> View:
    figures = step_figures(rows)
    if style not in ("csv", "json"):
        figures = _runs_of_like_steps(figures)
    columns = [Column("Steps", lambda row: row["steps"]), Column("Time (ms)", _scaled("seconds", 1e3, 2))]
    for place in PLACES:
        heading = place.replace("attention", "attn")
        columns.append(Column(heading, _scaled(f"{place_key(place)}_s", 1e3, 2)))
    columns.append(Column("MACs (G)", _scaled("macs_g", 1, 3)))
    notes = ["time of each step of one picture in ms; neighbours of like work share a line, which is their mean"]
    return figures, columns, notes


def _name(row: Row) -> str:
    """A row of the experiment where the whole of it is told, and below it its places."""
    return row["label"] if row.get("place", WHOLE) == WHOLE else f"  {row['place']}"


VIEWS: dict[str, Callable[[Sequence[Profiled], str], View]] = {"group": _by_group, "step": _by_step}


def _scaled(key: str, scale: float, digits: int, unit: str = "") -> Callable[[Row], str]:
    return lambda row: f"{scale * row[key]:.{digits}f}{unit}" if row[key] else "-"


def _runs_of_like_steps(rows: list[Row]) -> list[Row]:
    """Neighbouring steps with the same MACs everywhere as one line of mean times, "steps" telling which: "3-7"."""
    runs: list[list[Row]] = []
    for row in rows:
        if runs and _alike(runs[-1][-1], row):
            runs[-1].append(row)
        else:
            runs.append([row])
    return [_mean(run) if len(run) > 1 else run[0] for run in runs]


def _alike(one: Row, other: Row) -> bool:
    keys = ["row", *(f"{place_key(place)}_g" for place in PLACES)]
    in_loop = one["steps"].isdigit() and other["steps"].isdigit()
    return in_loop and all(one[key] == other[key] for key in keys)


def _mean(run: list[Row]) -> Row:
    times = ["seconds", *(f"{place_key(place)}_s" for place in PLACES)]
    means = {key: sum(row[key] for row in run) / len(run) for key in times}
    return {**run[0], **means, "steps": f"{run[0]['steps']}-{run[-1]['steps']}"}


def _about(rows: Sequence[Profiled]) -> list[str]:
    device, pictures = rows[0].plan.config.device, rows[0].pictures
    slower = max(one.time.wall_s / one.bare_s for one in rows)
    waiting = ", which are events in the GPU's queue," if device.startswith("cuda") else ""
    calls = f"{len(rows[0].times)} calls with {pictures} picture{'s' if pictures > 1 else ''} each"
    return [
        f"median of {calls}, on {provenance.device_name(device)}",
        f"hooks{waiting} make a call up to {slower:.2f} times as long",
    ]
