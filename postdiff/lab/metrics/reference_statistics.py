"""Reference statistics: features of real pictures, made once, found again by data, mode, crop and weights."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from postdiff.engine.errors import UsageError
from postdiff.engine.values import expanded
from postdiff.lab.files import folders
from postdiff.lab.inputs import picture_files, real_pictures
from postdiff.lab.inputs.picture_files import MOST_PIXELS
from postdiff.lab.progress import bar
from postdiff.metrics.checkpoints import hash_of
from postdiff.metrics.extractor import Extractor
from postdiff.metrics.real import Real

__all__ = ["Made", "file_for", "find", "identity", "make", "mark", "present"]


def file_for(data: str, mode: str, checkpoint: str, crop: int | None) -> Path:
    """Where the statistics are kept by default: below `outputs/data/statistics`."""
    shape = "" if crop is None else f"-crop{crop}"
    name = "-".join([_plain(data), mode, _plain(checkpoint)[-40:]]) + shape
    return folders.outputs() / "data" / "statistics" / f"{name}.safetensors"


def present(data: str, mode: str, checkpoint: str, crop: int | None) -> Path | None:
    """The file, if it is there; `data` may be the file itself."""
    given = expanded(data)
    file = given if given.suffix == ".safetensors" else file_for(data, mode, checkpoint, crop)
    return file if file.is_file() else None


def mark(file: Path) -> str:
    """What says whether two files hold the same statistics: of the pictures if the file says them, else of the file."""
    try:
        return str(Real.read_identity(file)["images"])
    except (UsageError, KeyError):
        return hash_of(file)


def identity(file: Path) -> dict[str, Any]:
    """Whose features a file holds."""
    return Real.read_identity(file)


def find(metric: str, data: str, extractor: Extractor, place: str | None, crop: int | None) -> Real:
    """The statistics of a metric's reference pictures.

    Args:
        metric: its name, for messages.
        data: name of the data, or a file.
        extractor: that the metric uses.
        place: where it was read from, if an option said so; for the command in the message.
        crop: of the reference pictures.

    Raises:
        UsageError: there are none, with the command that makes them; or they are of another extractor, mode or crop.
    """
    file = present(data, extractor.mode, extractor.checkpoint, crop)
    if file is None:
        words = ["postdiff", "data", "statistics", data, "--mode", extractor.mode]
        words += ["--extractor", place] if place else []
        words += ["--crop", str(crop)] if crop else []
        raise UsageError(
            f"metric {metric} finds no reference statistics of '{data}' in mode {extractor.mode} with these weights "
            f"({extractor.checkpoint}); make them with '{shlex.join(words)}'"
        )
    real = _load(file, file.stat().st_mtime_ns)
    expected: dict[str, Any] = {"checkpoint": extractor.checkpoint, "mode": extractor.mode}
    if crop is not None:  # of a file named outright, its own crop holds
        expected["crop"] = crop
    for key, value in expected.items():
        if real.identity.get(key) != value:
            raise UsageError(
                f"metric {metric}: {file.name} was made with {key} {real.identity.get(key)}, not {value}; make it "
                "again with 'postdiff data statistics', or name another reference"
            )
    return real


# Rows of an experiment, and metrics of a row, mostly share one.
_kept: dict[tuple[Path, int], Real] = {}


def _load(file: Path, changed: int) -> Real:
    key = (file.resolve(), changed)
    if key not in _kept:
        _kept.clear()
        _kept[key] = Real.load(file)
    return _kept[key]


@dataclass(frozen=True)
class Made:
    """Reference statistics.

    Attributes:
        file: where they are.
        fresh: whether they had to be made.
        passed: files of the folder that are no pictures which are read, in words; empty if there are none.
    """

    file: Path
    fresh: bool
    passed: str


def make(
    name: str,
    extractor: Callable[[], Extractor],
    mode: str,
    checkpoint: str | None,
    *,
    images: Path | None = None,
    crop: int | None = None,
    device: str = "cpu",
    batch_size: int = 32,
) -> Made:
    """Features of all reference pictures of a data set, unless the same ones are there already.

    Args:
        name: of a data set, or a folder of pictures.
        extractor: loads the network, which a repeated request does not need.
        mode: of the network.
        checkpoint: which weights it has; None if they are missing.
        images: folder of the pictures, for a data set whose card names none.
        crop: the shorter side is resized to this length and the middle square cut out; None for neither.
        device: where the network runs.
        batch_size: pictures at once; those of unequal size go one by one.

    Raises:
        UsageError: no pictures or fewer than two, one that cannot be read or is too large, or the network is missing.
    """
    found = real_pictures.listed(name, images)
    # What is missing is told before all pictures are read for their hash.
    loaded = extractor() if checkpoint is None else None
    digest = real_pictures.digest(found.files, found.root)
    if checkpoint is not None and (there := present(found.name, mode, checkpoint, crop)) is not None:
        try:
            if Real.read_identity(there).get("images") == digest.value:
                digest.keep()
                return Made(there, False, found.passed)
        except UsageError:
            pass  # damaged: it is made anew
    network = (extractor() if loaded is None else loaded).to(device)
    file = file_for(found.name, mode, network.checkpoint, crop)
    features = []
    with bar(found.name, len(found.files), "picture") as shown:
        for batch in _batches(found.files, crop, batch_size):
            features.append(network(batch.to(device)).cpu())
            shown.update(len(batch))
    about: dict[str, Any] = {
        "data": found.name,
        **network.identity(),
        "crop": crop,
        "count": len(found.files),
        "images": digest.value,
        "cropped": "none" if crop is None else f"shorter side to {crop}, PIL bicubic, middle square",
    }
    with folders.whole_file(file) as temporary:
        Real.of(torch.cat(features), about).save(temporary)
    digest.keep()
    return Made(file, True, found.passed)


def _batches(files: Sequence[Path], crop: int | None, batch_size: int) -> Iterator[Tensor]:
    batch: list[Tensor] = []
    for file in files:
        picture = _read(file, crop)
        if batch and (len(batch) == batch_size or picture.shape != batch[0].shape or _pixels(batch) > MOST_PIXELS):
            yield torch.stack(batch)
            batch = []
        batch.append(picture)
    if batch:
        yield torch.stack(batch)


def _pixels(batch: Sequence[Tensor]) -> int:
    """Pixels of a batch, were it to grow by one of its kind."""
    return (len(batch) + 1) * batch[0][0].numel()


def _read(file: Path, crop: int | None) -> Tensor:
    """A picture (3, H, W), uint8, as clean-fid reads it: what is transparent as if it were not, and not turned."""
    with picture_files.opened(file) as opened:
        picture = opened.convert("RGB")
    if crop is not None:
        scale = crop / min(picture.size)
        width, height = (max(crop, round(side * scale)) for side in picture.size)
        if width * height > MOST_PIXELS:
            raise UsageError(
                f"--crop {crop} makes {width} x {height} pixels of picture {file}, more than {MOST_PIXELS:,} in all; "
                "use a smaller one, or remove the picture"
            )
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - crop) // 2, (height - crop) // 2
        picture = picture.crop((left, top, left + crop, top + crop))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("_.") or "pictures"
