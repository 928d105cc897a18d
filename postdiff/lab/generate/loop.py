"""Generating the images of a row that are not stored yet, whatever broke off the run that made the others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from postdiff.lab.data.samples import Sample, Shard, part_of
from postdiff.lab.devices import distributed
from postdiff.lab.generate.sampler import Sampler
from postdiff.lab.images.image_folder import ImageFolder
from postdiff.lab.plan.plan import Plan
from postdiff.lab.progress import ImageBar

__all__ = ["Report", "generate", "generate_batch"]

Report = Callable[[str], None]
Batch = list[Sample]


def generate(
    plan: Plan, sampler: Callable[[], Sampler], images: ImageFolder, shard: Shard | None, report: Report, name: str
) -> None:
    """Generate what is missing or damaged, alone or with the other devices of the run, in the batches of the plan.

    Another process that generates the same images is waited for; then only what it has left over is done.

    Args:
        plan: what to generate.
        sampler: gives what generates it; asked only if an image is missing.
        images: where the images go.
        shard: only this part.
        report: given for whom this process waits, and which images are damaged.
        name: of the row for which they are generated.

    Raises:
        UsageError: an image holds NaN or infinity, or cannot be opened.
        OSError: an image cannot be written.
    """
    batches = part_of(plan.batches, shard)
    if shard is not None and not batches:
        report(
            f"{name}: part {shard.number} of {shard.of} is empty: {len(plan.samples)} images are generated in "
            f"{len(plan.batches)} batches, and each belongs to one part; use fewer parts or a smaller batch_size"
        )
    with ExitStack() as lock:
        missing = distributed.broadcast(lambda: _missing(lock, batches, images, shard, report, name))
        if missing:
            title = plan.row.label + (f" (part {shard.number} of {shard.of})" if shard else "")
            generator = sampler()
            with ImageBar(title, sum(map(len, missing))) as bar:
                for batch in part_of(missing, distributed.share()):
                    bar.update(len(batch), generate_batch(batch, generator, images))
        # Whoever is done waits here, so that all images are there when rank 0 goes on.
        distributed.barrier()


def generate_batch(batch: Batch, sampler: Sampler, images: ImageFolder) -> int:
    """Generate a batch if some of its images are missing, and write those; returns how many were generated.

    The whole batch is generated, since an image generated with fewer others would differ in its last bits.
    """
    missing = [place for place, sample in enumerate(batch) if not images.has(sample)]
    if not missing:
        return 0
    generated = sampler(batch)
    images.write([batch[place] for place in missing], generated[missing])
    return len(batch)


def _missing(
    lock: ExitStack, batches: Sequence[Batch], images: ImageFolder, shard: Shard | None, report: Report, name: str
) -> list[Batch]:
    """The batches of which an image is missing; the right to write them is held until `lock` is closed."""
    samples = list(itertools.chain(*batches))
    if all(images.file(sample).is_file() for sample in samples) and not images.damaged(samples):
        return []
    lock.enter_context(images.lock(shard, lambda line: report(f"{name}: {line}")))
    damaged = images.repair(samples)
    if damaged:
        file, reason = next(iter(damaged.items()))
        others = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        report(f"{name}: {file} {reason}; it is made anew{others}")
    return [batch for batch in batches if not all(images.file(sample).is_file() for sample in batch)]
