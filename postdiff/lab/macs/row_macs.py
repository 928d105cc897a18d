"""One row of an experiment counted on the structure twin of its model, or on those of its stages in turn."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from postdiff import presets
from postdiff.cost.by_hand import papers_account
from postdiff.cost.on_meta import Seen
from postdiff.cost.sharing import one_branch
from postdiff.cost.structures import Twin, real_size
from postdiff.cost.tally import Cell, Tally, Work
from postdiff.engine.errors import UsageError
from postdiff.lab.config import schedulers
from postdiff.lab.config.experiment import Row
from postdiff.lab.pipelines import sizes, stages
from postdiff.lab.pipelines.cards import ModelCard, PipelineCard
from postdiff.lab.pipelines.stages import StageRun

__all__ = ["Counted", "counted"]


@dataclass(frozen=True)
class Counted:
    """One row of an experiment, counted for one image.

    Attributes:
        row: the experiment's row.
        steps: inference steps, of all stages together.
        tally: denoiser by step and group; text encoder and VAE too, where the structure file describes them.
        seen: what the network was asked for at each step.
        paper: MACs of the denoiser as `papers_account` has them.
        stages: names of a cascade's stages; empty if the model is one pipeline.
    """

    row: Row
    steps: int
    tally: Tally
    seen: Seen
    paper: Work
    stages: tuple[str, ...] = ()

    def shared(self, branches: str) -> Tally:
        """What all guidance branches cost together, or one of them."""
        return self.tally if branches == "all" else one_branch(self.tally, self.seen)


def counted(row: Row, card: ModelCard, twins: dict[str, Twin]) -> Counted:
    """Count one row as it is executed.

    Args:
        row: of an experiment.
        card: its model's.
        twins: those built so far, by structure; more are added.

    Raises:
        UsageError: a model or stage without a structure file, or a method that does not fit; row and stage are named.
    """
    try:
        row = stages.fitted(row, card)
        config = stages.first_laid_over(row.config, card)
        chain = stages.resolve(config, card)
        if chain:
            return _of_stages(row, chain, twins)
        wanted = {"num_inference_steps": config.steps, "num_frames": card.of_task(config)["frames"]}
        solvers, given = (card.scheduler, config.scheduler), {**wanted, **card.usual(config)}
        tally, seen = _run(card, f"model '{config.model}'", solvers, config.methods, given, twins)
    except UsageError as error:
        raise UsageError(f"row '{row.name}': {error}") from error
    return Counted(row, config.steps, tally, seen, papers_account(tally, seen))


def _of_stages(row: Row, chain: Sequence[StageRun], twins: dict[str, Twin]) -> Counted:
    """All stages, their steps numbered on from one stage to the next."""
    cells: dict[Cell, Work] = {}
    seen, paper, before = Seen(), Work(), 0
    for run in chain:
        given = {"num_inference_steps": run.steps, **run.arguments}
        try:
            tally, own = _run(run.card, "its card", run.solvers, run.methods, given, twins)
        except UsageError as error:
            raise UsageError(f"stage '{run.name}': {error}") from error
        for (part, step, group), work in tally.cells.items():
            if part != "text_encoder" or not run.card.shared_text:
                cells[f"{part}:{run.name}", before + step, group] = work
        seen.branches |= {before + step: branches for step, branches in own.branches.items()}
        seen.sizes |= {before + step: size for step, size in own.sizes.items()}
        seen.latents, seen.prompts = own.latents, max(seen.prompts, own.prompts)
        paper, before = paper + papers_account(tally, own), before + tally.steps
    names = tuple(run.name for run in chain)
    return Counted(row, sum(run.steps for run in chain), Tally(cells, before), seen, paper, names)


def _run(
    card: PipelineCard,
    who: str,
    solvers: Sequence[schedulers.Solver],
    methods: Sequence[Any],
    given: Mapping[str, Any],
    twins: dict[str, Twin],
) -> tuple[Tally, Seen]:
    if card.structure is None:
        raise UsageError(f"{who} names no structure to count; give its card one")
    scheduler = schedulers.layered(schedulers.stand_in(card.scheduler), *solvers)
    if card.structure not in twins:
        twins[card.structure] = real_size(card.structure, scheduler)
    twin = twins[card.structure]
    twin.pipe.scheduler = scheduler
    height, width = sizes.whole(given.get("height"), given.get("width"), lambda: sizes.of_pipeline(twin.pipe))
    given = {**given, "height": height, "width": width}
    # DiT and the upscaler have one size and take no other.
    taken = inspect.signature(type(twin.pipe).__call__).parameters
    call = {name: value for name, value in given.items() if value is not None and name in taken}
    return twin.tally([*_built(methods)], **call)


def _built(methods: Sequence[Any]) -> Sequence[Any]:
    """A row's methods are written down; those of a stage are built already."""
    written = all(isinstance(each, (str, Mapping)) for each in methods)
    return presets.build_methods(methods) if written else methods
