"""MACs of an experiment's rows without weights, as flat figures beside what a paper prints."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict

from postdiff.cost.groups import GROUPS
from postdiff.cost.structures import Twin
from postdiff.cost.tally import CONVENTIONS, Tally
from postdiff.lab.config.experiment import Experiment
from postdiff.lab.config.experiment import Row as ExperimentRow
from postdiff.lab.macs.row_macs import Counted, counted
from postdiff.lab.pipelines import models
from postdiff.lab.progress import bar
from postdiff.lab.tables.rows import Row

__all__ = ["Counted", "convention_of", "count", "group_key", "row_figures", "step_figures"]


def count(experiment: Experiment) -> list[Counted]:
    """Count every row as it is executed.

    Raises:
        UsageError: a model without a structure file, or a method that does not fit.
    """
    twins: dict[str, Twin] = {}
    card = functools.cache(models.card)  # rows mostly share their cards
    found = []
    with bar("counting", len(experiment.rows), "row") as shown:
        for row in experiment.rows:
            found.append(counted(row, card(row.config.model), twins))
            shown.update()
    return found


def group_key(group: str) -> str:
    """How a group of modules begins its figures' names: "self-attention" -> "self_attention_t"."""
    return group.replace("-", "_") + "_t"


def row_figures(rows_counted: Sequence[Counted], convention: str, branches: str) -> list[Row]:
    """One flat row each.

    Keys: row, label, note, model, convention, branches, steps. For one image, in 10^12 and by convention (macs_t_dense,
    macs_t_fvcore, macs_t_all): macs_t_ (denoiser), resnets_t_, self_attention_t_, cross_attention_t_, feed_forward_t_,
    other_t_ (its groups of modules), text_encoder_t_, vae_t_ (null where the structure file has none), total_t_. In the
    chosen convention: macs_t, macs_saving (over the first row of the same model). For all branches also paper_macs_t
    (`papers_account`) and, where the experiment reports MACs in the same convention, reported_macs_t and gap_percent
    of paper_macs_t to it. An experiment reports them as macs_t_dense, macs_g_fvcore and so on, in 10^12 or 10^9; macs_t
    and macs_g, as tables of records have them, are dense. A cascade's steps and figures are those of all its stages;
    macs_t_<stage>_dense and so on are one stage's denoiser alone.
    """
    firsts: dict[str, Row] = {}  # a saving compares settings of one model
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
            row |= _compared(one, convention)
        rows.append(row)
    return rows


def step_figures(rows_counted: Sequence[Counted], convention: str, branches: str) -> list[Row]:
    """One flat row for every step (solver call) of every row.

    Keys: row, label, note, model, convention, branches, step, computed (guidance branches in it), macs_t, and by
    convention macs_t_ and the groups as in `row_figures`.
    """
    rows = []
    for one in rows_counted:
        tally, names = one.shared(branches), _names(one.row, convention, branches)
        for step in range(tally.steps):
            row = names | {"step": step, "computed": one.seen.branches.get(step, 0)} | _denoiser(tally, step)
            rows.append(row | {"macs_t": row[f"macs_t_{convention}"]})
    return rows


def _names(row: ExperimentRow, convention: str, branches: str) -> Row:
    names = {"row": row.name, "label": row.label, "note": row.note, "model": row.config.model}
    return names | {"convention": convention, "branches": branches}


def _denoiser(tally: Tally, step: int | None = None) -> Row:
    found = {f"macs_t_{name}": macs / 1e12 for name, macs in tally.macs("denoiser", step).items()}
    for group in GROUPS:
        macs = tally.macs("denoiser", step, group)
        found |= {f"{group_key(group)}_{name}": value / 1e12 for name, value in macs.items()}
    return found


def _compared(one: Counted, convention: str) -> Row:
    reckoned = asdict(one.paper)[convention] / 1e12
    reported = _reported(one.row).get(convention)
    if reported is None:
        return {"paper_macs_t": reckoned}
    return {
        "paper_macs_t": reckoned,
        "reported_macs_t": reported,
        "gap_percent": 100 * (reckoned / reported - 1),
    }


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


def convention_of(experiment: Experiment) -> str:
    """The convention in which its reported MACs are, the first if there are several; dense if there are none."""
    named = (name for row in experiment.rows for name in _reported(row))
    return next(named, "dense")
