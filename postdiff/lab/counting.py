"""MACs of an experiment's rows without weights, beside what a paper prints."""

from __future__ import annotations

from postdiff import presets
from postdiff.cost.macs import CONVENTIONS
from postdiff.cost.structures import Twin, real_size
from postdiff.engine.errors import UsageError, unknown
from postdiff.lab import models, schedulers
from postdiff.lab.experiment import Experiment
from postdiff.lab.experiment import Row as ExperimentRow
from postdiff.lab.figures import Row
from postdiff.lab.progress import bar
from postdiff.lab.tables import Column, draw, plain

__all__ = ["count", "render"]


def count(experiment: Experiment) -> list[Row]:
    """Count every row on its model's structure twin: one image, denoiser only, all guidance branches.

    Returns:
        Rows with the keys row, label, model, steps, macs_t_dense, macs_t_fvcore, macs_t_all (10^12 an image) and, where
        the experiment file gives them, reported_macs_t and its convention's gap in per cent.

    Raises:
        UsageError: a model without a structure file, or a method that does not fit.
    """
    twins: dict[str, Twin] = {}
    rows = []
    with bar("counting", len(experiment.rows), "row") as shown:
        for row in experiment.rows:
            rows.append(_count(row, twins))
            shown.update()
    return rows


def render(experiment: Experiment, convention: str, style: str) -> str:
    """The table of `postdiff macs`.

    Raises:
        UsageError: unknown convention or format, or what `count` raises.
    """
    if convention not in CONVENTIONS:
        raise unknown("convention", convention, CONVENTIONS)
    rows = count(experiment)
    firsts: dict[str, Row] = {}  # a saving compares settings of one model
    for row in rows:
        row["convention"] = convention
        row["macs_t"] = row[f"macs_t_{convention}"]
        row["macs_saving"] = firsts.setdefault(row["model"], row)["macs_t"] / row["macs_t"]
        reported = row.get("reported_macs_t")
        row["gap_percent"] = None if reported is None else 100 * (row["macs_t"] / reported - 1)
    # A small model's work would vanish behind three decimals of 10^12.
    scale, unit = (1000, "G") if max(row["macs_t"] for row in rows) < 1 else (1, "T")
    columns = [
        Column("Row", lambda row: row["label"]),
        Column("Steps", plain("steps", 0)),
        Column(f"MACs ({unit}), {convention}", lambda row: f"{scale * row['macs_t']:.3f}"),
        Column("saving", plain("macs_saving", 2, "x")),
    ]
    if any(row.get("reported_macs_t") is not None for row in rows):
        columns += [
            Column("reported", plain("reported_macs_t", 3)),
            Column("gap (%)", plain("gap_percent", 2, signed=True)),
        ]
    note = "MACs of the denoiser for one image, all guidance branches, as executed; norm layers are not counted"
    return draw(rows, columns, [note], style)


def _count(row: ExperimentRow, twins: dict[str, Twin]) -> Row:
    import diffusers

    config, card = row.config, models.card(row.config.model)
    if card.structure is None:
        raise UsageError(f"row '{row.name}': model '{config.model}' names no structure to count; give its card one")
    scheduler = diffusers.DPMSolverMultistepScheduler(steps_offset=1)
    for solver in (card.scheduler, config.scheduler):
        scheduler = schedulers.build(scheduler, solver.name, solver.options)
    if card.structure not in twins:
        twins[card.structure] = real_size(card.structure, scheduler)
    twin = twins[card.structure]
    twin.pipe.scheduler = scheduler
    wanted = {
        "height": config.height or card.height,
        "width": config.width or card.width,
        "guidance_scale": config.guidance_scale if config.guidance_scale is not None else card.guidance_scale,
    }
    call = {name: value for name, value in wanted.items() if value is not None}
    try:
        macs = twin.macs(presets.build_methods(config.methods), num_inference_steps=config.steps, **call)
    except UsageError as error:
        raise UsageError(f"row '{row.name}': {error}") from error
    found: Row = {"row": row.name, "label": row.label, "model": config.model, "steps": config.steps}
    found |= {f"macs_t_{convention}": macs[convention] / 1e12 for convention in CONVENTIONS}
    if "macs_t" in row.reported:
        found["reported_macs_t"] = row.reported["macs_t"]
    return found
