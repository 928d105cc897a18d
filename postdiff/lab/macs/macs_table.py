"""The tables of `postdiff macs`: by row, by step, by group of modules, by part of the pipeline."""

from __future__ import annotations

from collections.abc import Callable

from postdiff.cost.groups import GROUPS
from postdiff.cost.tally import CONVENTIONS
from postdiff.engine.errors import unknown
from postdiff.lab.config.experiment import Experiment
from postdiff.lab.macs.counting import convention_of, count, group_key, row_figures, step_figures
from postdiff.lab.tables.rows import Row
from postdiff.lab.tables.table import FORMATS, Column, draw, plain

__all__ = ["BRANCHES", "VIEWS", "render"]

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
        UsageError: a name that is not known, or what `count` raises.
    """
    convention = convention or convention_of(experiment)
    given = {"convention": (convention, CONVENTIONS), "format": (style, FORMATS)}
    given |= {"view": (by, VIEWS), "choice of branches": (branches, BRANCHES)}
    for kind, (name, known) in given.items():
        if name not in known:
            raise unknown(kind, name, known)
    figures = step_figures if by == "step" else row_figures
    rows = figures(count(experiment), convention, branches)
    if by == "step" and style not in ("csv", "json"):
        rows = _runs_of_like_steps(rows)
    columns, notes = VIEWS[by](rows, _Figures(rows, convention))
    notes[0] += f", {BRANCHES[branches]}, as executed; norm layers are not counted"
    names = [Column("Row", lambda row: row["label"] + ("*" if row["note"] else ""))]
    if len({row["model"] for row in rows}) > 1:
        names.append(Column("Model", lambda row: row["model"]))
    return draw(rows, names + columns, notes + _row_notes(rows), style)


class _Figures:
    """Columns of MACs in one unit: T, or G where a small model's work would vanish behind three decimals."""

    def __init__(self, rows: list[Row], convention: str) -> None:
        self.convention = convention
        self._scale, self.unit = (1000, "G") if max((row["macs_t"] for row in rows), default=1) < 1 else (1, "T")

    def column(self, heading: str, key: str) -> Column:
        return Column(heading, lambda row: "-" if row.get(key) is None else f"{self._scale * row[key]:.3f}")

    def groups(self) -> list[Column]:
        total = self.column(f"MACs ({self.unit})", "macs_t")
        short = [group.replace("attention", "attn") for group in GROUPS]
        keys = [f"{group_key(group)}_{self.convention}" for group in GROUPS]
        return [total, *(self.column(heading, key) for heading, key in zip(short, keys, strict=True))]


View = tuple[list[Column], list[str]]


def _by_row(rows: list[Row], figures: _Figures) -> View:
    columns = [
        Column("Steps", plain("steps", 0)),
        figures.column(f"MACs ({figures.unit})", "macs_t"),
        Column("saving", plain("macs_saving", 2, "x")),
    ]
    notes = [f"MACs of the denoiser for one image, {figures.convention} convention"]
    if any(row.get("paper_macs_t", row["macs_t"]) != row["macs_t"] for row in rows):
        columns.append(figures.column("paper's way", "paper_macs_t"))
        notes.append(
            "paper's way: all cross-attention is taken off a cheap step after the gate, also what it does not contain"
        )
    if any(row.get("reported_macs_t") is not None for row in rows):
        columns.append(figures.column("reported", "reported_macs_t"))
        columns.append(Column("gap (%)", plain("gap_percent", 2, signed=True)))
    return columns, notes


def _by_step(rows: list[Row], figures: _Figures) -> View:
    columns = [
        Column("Steps", lambda row: str(row.get("steps"))),
        Column("Branches", plain("computed", 0)),
        *figures.groups(),
    ]
    return columns, [f"MACs of the denoiser at each step for one image, {figures.convention} convention"]


def _by_group(rows: list[Row], figures: _Figures) -> View:
    return figures.groups(), [f"MACs of the denoiser for one image, {figures.convention} convention"]


def _by_part(rows: list[Row], figures: _Figures) -> View:
    parts = {
        "text encoder": "text_encoder_t",
        "denoiser": "macs_t",
        "VAE": "vae_t",
        f"total ({figures.unit})": "total_t",
    }
    columns = [figures.column(heading, f"{key}_{figures.convention}") for heading, key in parts.items()]
    encoders = "text encoders: each prompt once; VAE: one latent decoded"
    return columns, [f"MACs of a pipeline call for one image, {figures.convention} convention", encoders]


VIEWS: dict[str, Callable[[list[Row], _Figures], View]] = {
    "row": _by_row,
    "step": _by_step,
    "group": _by_group,
    "part": _by_part,
}


def _runs_of_like_steps(rows: list[Row]) -> list[Row]:
    """Neighbouring steps that cost the same as one line, "steps" telling which: "3-7"."""
    merged: list[Row] = []
    for row in rows:
        last = merged[-1] if merged else {}
        if last and {**last, "step": 0, "steps": ""} == {**row, "step": 0, "steps": ""}:
            last["steps"] = f"{last['step']}-{row['step']}"
        else:
            merged.append(row | {"steps": str(row["step"])})
    return merged


def _row_notes(rows: list[Row]) -> list[str]:
    noted: dict[str, list[str]] = {}
    for row in rows:
        if row["note"] and row["label"] not in noted.setdefault(row["note"], []):
            noted[row["note"]].append(row["label"])
    return [f"* {note}: {', '.join(labels)}" for note, labels in noted.items()]
