"""`postdiff data statistics`: reference statistics of a data set or a folder of pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from postdiff.engine.errors import UsageError, unknown
from postdiff.lab.devices import provenance
from postdiff.lab.files import folders
from postdiff.lab.metrics import metric_networks, references
from postdiff.metrics.options import MODES

__all__ = ["Wish", "statistics"]


@dataclass(frozen=True)
class Wish:
    """What the command line asks for.

    Attributes:
        images: folder of the pictures; None means the one that the data card names.
        extractor: file, folder or repository of the network; None means the one in the environment variable.
        mode: see `postdiff.metrics.options.MODES`.
        crop: side of the middle square; None means pictures as they are.
        device: auto, cpu, cuda or cuda:N.
        batch_size: pictures at once.
    """

    images: str | None = None
    extractor: str | None = None
    mode: str = "clean"
    crop: int | None = None
    device: str = "auto"
    batch_size: int = 32


def statistics(name: str, wish: Wish) -> str:
    """Make them, or find that they are there; the sentence to print.

    Raises:
        UsageError: what `references.make` raises, or a number out of range.
    """
    for key, value in {"crop": wish.crop, "batch-size": wish.batch_size}.items():
        if value is not None and value < 1:
            raise UsageError(f"--{key} {value} is too small; use at least 1")
    if wish.mode not in MODES:
        raise unknown("mode", wish.mode, MODES)
    folders.writable_outputs()
    found = references.make(
        name,
        lambda: metric_networks.extractor(wish.mode, wish.extractor),
        wish.mode,
        metric_networks.extractor_mark(wish.mode, wish.extractor),
        images=None if wish.images is None else Path(wish.images),
        crop=wish.crop,
        device=provenance.resolve_device(wish.device),
        batch_size=wish.batch_size,
    )
    about = references.identity(found.file)
    word = "statistics" if found.fresh else "statistics (there already)"
    passed = f"; passed over: {found.passed}" if found.passed else ""
    return (
        f"{word}: {found.file}, {about['count']} pictures, {about['model']} ({about['checkpoint']}), mode "
        f"{about['mode']}{passed}"
    )
