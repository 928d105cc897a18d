"""Making the pictures of a row that are not there yet, whatever broke off the run that made the others."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack

from postdiff.lab.devices import distributed, trainer
from postdiff.lab.evaluation import Evaluation
from postdiff.lab.images.image_folder import ImageFolder
from postdiff.lab.plan import Plan
from postdiff.lab.progress import PictureBar
from postdiff.lab.samples import PromptDataModule, Sample, Shard, part_of
from postdiff.lab.sampling.sampler import Sampler

__all__ = ["make"]

Say = Callable[[str], None]
Key = tuple[int, int]


def make(
    plan: Plan, sampler: Callable[[], Sampler], folder: ImageFolder, shard: Shard | None, say: Say, name: str
) -> None:
    """Make what is missing or damaged, alone or with the other devices of the run: batch by batch of the row's plan.

    Another process that makes the same pictures is waited for; then only what it has left over is made.

    Args:
        plan: what to make.
        sampler: gives what makes it; asked only if a picture is missing.
        folder: where the pictures go.
        shard: make only this part.
        say: told for whom this process waits, and which pictures are damaged.
        name: of the row for which they are made.

    Raises:
        UsageError: a picture holds NaN or infinity, or cannot be opened.
        OSError: a picture cannot be written.
    """
    batches = plan.batches
    own = list(itertools.chain(*part_of(batches, shard)))
    if shard is not None and not own:
        say(
            f"{name}: part {shard.number} of {shard.of} is empty: {len(plan.samples)} pictures are drawn in "
            f"{len(batches)} batches, and each belongs to one part; use fewer parts or a smaller batch_size"
        )
    with ExitStack() as stack:
        missing = distributed.from_first(lambda: _missing(stack, own, folder, shard, say, name))
        if missing:
            _draw(plan, sampler(), folder, shard, missing)
        # Whoever has drawn its share waits here, so that all pictures are there when the first goes on.
        distributed.joined({"done": 1})


def _missing(
    stack: ExitStack, own: list[Sample], folder: ImageFolder, shard: Shard | None, say: Say, name: str
) -> set[Key]:
    """Seed and index of every picture to make; the right to make them is held until `stack` is closed."""
    if all(folder.file(sample).is_file() for sample in own) and not folder.damaged(own):
        return set()
    stack.enter_context(folder.lock(shard, lambda line: say(f"{name}: {line}")))
    damaged = folder.repair(own)
    if damaged:
        file, reason = next(iter(damaged.items()))
        others = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        say(f"{name}: {file} {reason}; it is made anew{others}")
    return {(sample.seed, sample.index) for sample in own if not folder.file(sample).is_file()}


def _draw(
    plan: Plan, sampler: Sampler, folder: ImageFolder, shard: Shard | None, missing: set[tuple[int, int]]
) -> None:
    def wanted(sample: Sample) -> bool:
        return (sample.seed, sample.index) in missing

    size, device = plan.config.batch_size, distributed.share()
    total = sum(len(batch) for batch in PromptDataModule(plan.samples, size, shard, wanted).predict_dataloader())
    title = plan.row.label + (f" (part {shard.number} of {shard.of})" if shard else "")
    settings = plan.config.trainer if device.of > 1 else None
    predict = trainer.make(plan.config.device, [PictureBar(title, total)], settings=settings)
    module, prompts = Evaluation(folder, sampler), PromptDataModule(plan.samples, size, shard, wanted, device)
    trainer.passing_interrupts(predict, lambda: predict.predict(module, datamodule=prompts, return_predictions=False))
