"""What one row of an experiment costs in multiply-accumulates.

`counted` runs it without weights, on the structure twin of its model or on those of its stages in turn; `count` makes
one of its images with the weights, as every run does, and also tells what really ran.
"""

from __future__ import annotations

import inspect
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from postdiff import presets
from postdiff.cost.macs import count_macs
from postdiff.cost.on_meta import Seen
from postdiff.cost.paper_values import one_branch, paper_accounting
from postdiff.cost.structures import MetaPipeline, real_size
from postdiff.cost.tally import Cell, Tally, Work
from postdiff.engine.errors import UsageError
from postdiff.lab.config import schedulers
from postdiff.lab.config.experiment import Row
from postdiff.lab.generate.sampler import Sampler
from postdiff.lab.pipelines import models, signature, sizes, stages
from postdiff.lab.pipelines.cards import ModelCard, PipelineCard
from postdiff.lab.pipelines.stages import StageRun
from postdiff.lab.plan.plan import Plan
from postdiff.lab.records.record import Record

__all__ = ["Counted", "RowWork", "adaptive", "count", "counted", "known"]

NUM_SAMPLES = 8  # that the mean is taken over where a method decides by the features of each
ByPart = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Counted:
    """One row of an experiment, counted for one image.

    Attributes:
        row: the experiment's row.
        steps: inference steps, of all stages together.
        tally: denoiser by step and group; text encoder and VAE too, where the structure file describes them.
        seen: what the network was asked for at each step.
        paper: MACs of the denoiser as `paper_accounting` has them.
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


def counted(row: Row, card: ModelCard, twins: dict[str, MetaPipeline]) -> Counted:
    """Count one row as it is executed.

    Args:
        row: of an experiment.
        card: its model's.
        twins: those built so far, by structure; more are added.

    Raises:
        UsageError: a model or stage without a structure file, or a method that does not fit; row and stage are named.
    """
    try:
        row, chain = stages.resolve(row, card)
        config = row.config
        if chain:
            return _of_stages(row, chain, twins)
        usual = card.usual(config)
        given = {name: usual[name] for name in ("guidance_scale", "height", "width", "strength")}
        given |= {name: value for name, value in card.arguments.items() if not name.startswith("negative_prompt")}
        given |= {"num_inference_steps": config.steps, "num_frames": usual["frames"]}
        solvers = (card.scheduler, config.scheduler)
        tally, seen = _run(card, f"model '{config.model}'", solvers, config.methods, given, twins)
    except UsageError as error:
        raise UsageError(f"row '{row.name}': {error}") from error
    return Counted(row, config.steps, tally, seen, paper_accounting(tally, seen))


def _of_stages(row: Row, chain: Sequence[StageRun], twins: dict[str, MetaPipeline]) -> Counted:
    """All stages, their steps numbered on from one stage to the next."""
    cells: dict[Cell, Work] = {}
    seen, paper, before = Seen(), Work(), 0
    for run in chain:
        given = {"num_inference_steps": run.steps, **run.arguments}
        try:
            tally, own = _run(run.card, "its card", (run.card.scheduler, run.scheduler), run.methods, given, twins)
        except UsageError as error:
            raise UsageError(f"stage '{run.name}': {error}") from error
        for (part, step, group), work in tally.cells.items():
            if part != "text_encoder" or not run.card.shared_text:
                cells[f"{part}:{run.name}", before + step, group] = work
        seen.branches |= {before + step: branches for step, branches in own.branches.items()}
        seen.sizes |= {before + step: size for step, size in own.sizes.items()}
        seen.latents, seen.prompts = own.latents, max(seen.prompts, own.prompts)
        paper, before = paper + paper_accounting(tally, own), before + tally.steps
    names = tuple(run.name for run in chain)
    return Counted(row, sum(run.steps for run in chain), Tally(cells, before), seen, paper, names)


def _run(
    card: PipelineCard,
    who: str,
    solvers: Sequence[schedulers.SchedulerConfig],
    methods: Sequence[Any],
    given: Mapping[str, Any],
    twins: dict[str, MetaPipeline],
) -> tuple[Tally, Seen]:
    if card.structure is None:
        raise UsageError(f"{who} names no structure to count; give its card one")
    # Noise levels decide where some methods act; only a folder that is there tells the model's own.
    scheduler = schedulers.layered(models.solver(card) or schedulers.stand_in(card.scheduler), *solvers)
    if card.structure not in twins:
        twins[card.structure] = real_size(card.structure, scheduler)
    twin = twins[card.structure]
    twin.pipe.scheduler = scheduler
    height, width = sizes.whole(given.get("height"), given.get("width"), lambda: sizes.of_pipeline(twin.pipe))
    given = {**given, "height": height, "width": width}
    # DiT and the upscaler have one size and take no other.
    taken = inspect.signature(type(twin.pipe).__call__).parameters
    call = {name: value for name, value in given.items() if value is not None and name in taken}
    if "guidance_scale" in call:
        call[signature.guidance(twin.pipe)] = call.pop("guidance_scale")
    if "max_area" in taken and height is not None and width is not None:
        call["max_area"] = height * width
    # A row's methods are written down; those of a stage are built already.
    written = all(isinstance(each, (str, Mapping)) for each in methods)
    return twin.tally(presets.build_methods(methods) if written else [*methods], **call)


@dataclass(frozen=True)
class RowWork:
    """What one image of a row costs, and what ran.

    Attributes:
        macs: of an image, by part of the pipeline and convention; a mean where images differ.
        spread: their sample standard deviation, empty where every image costs the same.
        counts: network calls, hits and misses of the first image.
    """

    macs: ByPart
    spread: ByPart
    counts: dict[str, int]


def adaptive(plan: Plan) -> bool:
    """Whether images of a row differ in their work."""
    return any(method.adaptive for method in plan.methods)


def known(record: Record | None) -> RowWork | None:
    """The work that a quality record of the same images tells of, which need not be counted again."""
    return RowWork(record.macs, record.macs_spread, record.counts) if record and record.macs else None


def count(plan: Plan, sampler: Sampler, see: Callable[[Any], object] = lambda made: None) -> RowWork:
    """Make one image under the counter, or several where their work differs.

    Args:
        plan: the row.
        sampler: of the row.
        see: given what each call of the pipeline returns.

    Raises:
        UsageError: methods do not fit each other, the network or the run.
    """
    counted: list[ByPart] = []
    counts: Counter[str] = Counter()
    for sample in plan.samples[: NUM_SAMPLES if adaptive(plan) else 1]:
        counted.append(count_macs(sampler.pipe, lambda one=sample: see(sampler.call([one]))))  # type: ignore[misc]
        counts = counts or sampler.fast.counts
    whole = {name: int(number) for name, number in counts.items()}
    if len(counted) == 1:
        return RowWork(counted[0], {}, whole)
    mean, spread = (
        {
            part: {convention: round(over([one[part][convention] for one in counted])) for convention in own}
            for part, own in counted[0].items()
        }
        for over in (statistics.fmean, statistics.stdev)
    )
    return RowWork(mean, spread, whole)
