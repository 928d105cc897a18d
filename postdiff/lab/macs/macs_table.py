"""`postdiff macs`: rows counted without weights, as flat figures and tables, beside what a paper prints."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict

from postdiff.cost.macs import GROUPS
from postdiff.cost.structures import MetaPipeline
from postdiff.cost.tally import CONVENTIONS, Tally
from postdiff.engine.errors import unknown
from postdiff.lab.config.experiment import Experiment
from postdiff.lab.config.experiment import Row as ExperimentRow
from postdiff.lab.macs.row_macs import Counted, counted
from postdiff.lab.pipelines import cards
from postdiff.lab.progress import bar
from postdiff.lab.tables.rows import FlatRow
from postdiff.lab.tables.table import FORMATS, Column, draw, plain

__all__ = ["BRANCHES", "VIEWS", "count_rows", "render", "reported_convention", "row_values", "step_values"]

# How a group of modules begins its values' names: "self-attention" -> "self_attention_t".
GROUP_KEYS = {group: group.replace("-", "_") + "_t" for group in GROUPS}
BRANCHES = {"all": "all guidance branches", "one": "one guidance branch"}


def render(experiment: Experiment, convention: str | None, style: str, by: str = "row", branches: str = "all") -> str:
    """Count an experiment and draw one view of it.

    Args:
        experiment: its rows are counted.
        convention: one of `postdiff.cost.macs.CONVENTIONS`; that of the experiment's reported MACs if None.
        style: one of `postdiff.lab.tables.table.FORMATS`; csv and json hold all conventions and groups.
        by: one of `VIEWS`.
        branches: one of `BRANCHES`.

    Raises:
        UsageError: a name that is not known, or what `count_rows` raises.
    """
    convention = convention or reported_convention(experiment)
    given = {"convention": (convention, CONVENTIONS), "format": (style, FORMATS)}
    given |= {"view": (by, VIEWS), "choice of branches": (branches, BRANCHES)}
    for kind, (name, known) in given.items():
        if name not in known:
            raise unknown(kind, name, known)
    values = step_values if by == "step" else row_values
    rows = values(count_rows(experiment), convention, branches)
    if by == "step" and style not in ("csv", "json"):
        rows = _runs_of_like_steps(rows)
    columns, notes = VIEWS[by](rows, _Values(rows, convention))
    notes[0] += f", {BRANCHES[branches]}, as executed; norm layers are not counted"
    names = [Column("Row", lambda row: row["label"] + ("*" if row["note"] else ""))]
    if len({row["model"] for row in rows}) > 1:
        names.append(Column("Model", lambda row: row["model"]))
    return draw(rows, names + columns, notes + _row_notes(rows), style)


class _Values:
    """Columns of MACs in one unit: T, or G where a small model's work would vanish behind three decimals."""

    def __init__(self, rows: list[FlatRow], convention: str) -> None:
        self.convention = convention
        self._scale, self.unit = (1000, "G") if max((row["macs_t"] for row in rows), default=1) < 1 else (1, "T")

    def column(self, heading: str, key: str) -> Column:
        return Column(heading, lambda row: "-" if row.get(key) is None else f"{self._scale * row[key]:.3f}")

    def groups(self) -> list[Column]:
        total = self.column(f"MACs ({self.unit})", "macs_t")
        short = [group.replace("attention", "attn") for group in GROUPS]
        keys = [f"{GROUP_KEYS[group]}_{self.convention}" for group in GROUPS]
        return [total, *(self.column(heading, key) for heading, key in zip(short, keys, strict=True))]


View = tuple[list[Column], list[str]]


def _by_row(rows: list[FlatRow], values: _Values) -> View:
    columns = [
        Column("Steps", plain("steps", 0)),
        values.column(f"MACs ({values.unit})", "macs_t"),
        Column("saving", plain("macs_saving", 2, "x")),
    ]
    notes = [f"MACs of the denoiser for one image, {values.convention} convention"]
    if any(row.get("paper_macs_t", row["macs_t"]) != row["macs_t"] for row in rows):
        columns.append(values.column("paper's way", "paper_macs_t"))
        notes.append(
            "paper's way: all cross-attention is taken off a cheap step after the gate, also what it does not contain"
        )
    if any(row.get("reported_macs_t") is not None for row in rows):
        columns.append(values.column("reported", "reported_macs_t"))
        columns.append(Column("gap (%)", plain("gap_percent", 2, signed=True)))
    return columns, notes


def _by_step(rows: list[FlatRow], values: _Values) -> View:
    columns = [
        Column("Steps", lambda row: str(row.get("steps"))),
        Column("Branches", plain("computed", 0)),
        *values.groups(),
    ]
    return columns, [f"MACs of the denoiser at each step for one image, {values.convention} convention"]


def _by_group(rows: list[FlatRow], values: _Values) -> View:
    return values.groups(), [f"MACs of the denoiser for one image, {values.convention} convention"]


def _by_part(rows: list[FlatRow], values: _Values) -> View:
    parts = {
        "text encoder": "text_encoder_t",
        "denoiser": "macs_t",
        "VAE": "vae_t",
        f"total ({values.unit})": "total_t",
    }
    columns = [values.column(heading, f"{key}_{values.convention}") for heading, key in parts.items()]
    encoders = "text encoders: each prompt once; VAE: one latent decoded"
    return columns, [f"MACs of a pipeline call for one image, {values.convention} convention", encoders]


VIEWS: dict[str, Callable[[list[FlatRow], _Values], View]] = {
    "row": _by_row,
    "step": _by_step,
    "group": _by_group,
    "part": _by_part,
}


def _runs_of_like_steps(rows: list[FlatRow]) -> list[FlatRow]:
    """Neighbouring steps that cost the same as one line, "steps" telling which: "3-7"."""
    merged: list[FlatRow] = []
    for row in rows:
        last = merged[-1] if merged else {}
        if last and {**last, "step": 0, "steps": ""} == {**row, "step": 0, "steps": ""}:
            last["steps"] = f"{last['step']}-{row['step']}"
        else:
            merged.append(row | {"steps": str(row["step"])})
    return merged


def _row_notes(rows: list[FlatRow]) -> list[str]:
    noted: dict[str, list[str]] = {}
    for row in rows:
        if row["note"] and row["label"] not in noted.setdefault(row["note"], []):
            noted[row["note"]].append(row["label"])
    return [f"* {note}: {', '.join(labels)}" for note, labels in noted.items()]


def count_rows(experiment: Experiment) -> list[Counted]:
    """Count every row as it is executed.

    Raises:
        UsageError: a model without a structure file, or a method that does not fit.
    """
    twins: dict[str, MetaPipeline] = {}
    card = functools.cache(cards.card)  # rows mostly share their cards
    found = []
    with bar("counting", len(experiment.rows), "row") as shown:
        for row in experiment.rows:
            found.append(counted(row, card(row.config.model), twins))
            shown.update()
    return found


def row_values(rows_counted: Sequence[Counted], convention: str, branches: str) -> list[FlatRow]:
    """One flat row each.

    Keys: row, label, note, model, convention, branches, steps. For one image, in 10^12 and by convention (macs_t_dense,
    macs_t_fvcore, macs_t_all): macs_t_ (denoiser), resnets_t_, self_attention_t_, cross_attention_t_, feed_forward_t_,
    other_t_ (its groups of modules), text_encoder_t_, vae_t_ (null where the structure file has none), total_t_. In the
    chosen convention: macs_t, macs_saving (over the first row of the same model). For all branches also paper_macs_t
    (`paper_accounting`) and, where the experiment reports MACs in the same convention, reported_macs_t and gap_percent
    of paper_macs_t to it. An experiment reports them as macs_t_dense, macs_g_fvcore and so on, in 10^12 or 10^9; macs_t
    and macs_g, as tables of records have them, are dense. A cascade's steps and values are those of all its stages;
    macs_t_<stage>_dense and so on are one stage's denoiser alone.
    """
    firsts: dict[str, FlatRow] = {}  # a saving compares settings of one model
    rows = []
    for one in rows_counted:
        tally = one.shared(branches)
        row = _names(one.row, convention, branches) | {"steps": one.steps} | _denoiser(tally)
        for stage in one.stages:
            macs = tally.macs(f"denoiser:{stage}")
            row |= {f"macs_t_{stage}_{name}": value / 1e12 for name, value in macs.items()}
        for part in ("text_encoder", "vae"):
            row |= {f"{part}_t_{name}": macs / 1e12 if macs else None for name, macs in tally.macs(part).items()}
        row |= {f"total_t_{name}": macs / 1e12 for name, macs in tally.macs().items()}
        row["macs_t"] = row[f"macs_t_{convention}"]
        row["macs_saving"] = firsts.setdefault(row["model"], row)["macs_t"] / row["macs_t"]
        if branches == "all":
            row["paper_macs_t"] = asdict(one.paper)[convention] / 1e12
            if (reported := _reported(one.row).get(convention)) is not None:
                row |= {"reported_macs_t": reported, "gap_percent": 100 * (row["paper_macs_t"] / reported - 1)}
        rows.append(row)
    return rows


def step_values(rows_counted: Sequence[Counted], convention: str, branches: str) -> list[FlatRow]:
    """One flat row for every step (solver call) of every row.

    Keys: row, label, note, model, convention, branches, step, computed (guidance branches in it), macs_t, and by
    convention macs_t_ and the groups as in `row_values`.
    """
    rows = []
    for one in rows_counted:
        tally, names = one.shared(branches), _names(one.row, convention, branches)
        for step in range(tally.steps):
            row = names | {"step": step, "computed": one.seen.branches.get(step, 0)} | _denoiser(tally, step)
            rows.append(row | {"macs_t": row[f"macs_t_{convention}"]})
    return rows


def _names(row: ExperimentRow, convention: str, branches: str) -> FlatRow:
    names = {"row": row.name, "label": row.label, "note": row.note, "model": row.config.model}
    return names | {"convention": convention, "branches": branches}


def _denoiser(tally: Tally, step: int | None = None) -> FlatRow:
    found = {f"macs_t_{name}": macs / 1e12 for name, macs in tally.macs("denoiser", step).items()}
    for group in GROUPS:
        macs = tally.macs("denoiser", step, group)
        found |= {f"{GROUP_KEYS[group]}_{name}": value / 1e12 for name, value in macs.items()}
    return found


def _reported(row: ExperimentRow) -> dict[str, float]:
    """{convention: MACs in 10^12 that a paper reports}."""
    found: dict[str, float] = {}
    for unit, scale in (("t", 1), ("g", 1e3)):
        for convention in CONVENTIONS:
            plain = [f"macs_{unit}"] if convention == "dense" else []
            for name in (f"macs_{unit}_{convention}", *plain):
                if name in row.reported:
                    found[convention] = row.reported[name] / scale
    return found


def reported_convention(experiment: Experiment) -> str:
    """The convention in which its reported MACs are, the first if there are several; dense if there are none."""
    named = (name for row in experiment.rows for name in _reported(row))
    return next(named, "dense")
