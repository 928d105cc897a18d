"""`postdiff data statistics`: features of a data set's reference images, made once for the metrics that compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from postdiff.engine.errors import UsageError, unknown
from postdiff.lab.data import image_files, reference_images
from postdiff.lab.data.image_files import MOST_PIXELS
from postdiff.lab.devices import provenance
from postdiff.lab.files import folders
from postdiff.lab.progress import bar
from postdiff.metrics import features, reference
from postdiff.metrics.reference import ReferenceStatistics

__all__ = ["StatisticsRequest", "statistics"]


@dataclass(frozen=True)
class StatisticsRequest:
    """What the command line asks for.

    Attributes:
        images: folder of the images; None means the one that the data card names.
        extractor: file, folder or repository of the network; None means the one in the environment variable.
        mode: see `postdiff.metrics.features.MODES`.
        crop: the shorter side is resized to this length and the middle square cut out; None for neither.
        device: auto, cpu, cuda or cuda:N.
        batch_size: images at once; those of unequal size go one by one.
    """

    images: str | None = None
    extractor: str | None = None
    mode: str = "clean"
    crop: int | None = None
    device: str = "auto"
    batch_size: int = 32


def statistics(name: str, request: StatisticsRequest) -> str:
    """Make the reference statistics of a data set or a folder of images; the sentence to print.

    Raises:
        UsageError: a number out of range, no images or fewer than two, one that cannot be read or is too large, or the
            network is missing.
    """
    for key, value in {"crop": request.crop, "batch-size": request.batch_size}.items():
        if value is not None and value < 1:
            raise UsageError(f"--{key} {value} is too small; use at least 1")
    if request.mode not in features.MODES:
        raise unknown("mode", request.mode, features.MODES)
    folders.writable_outputs()
    listed = reference_images.listed(name, None if request.images is None else Path(request.images))
    file, fresh = _made(listed, request)
    about = ReferenceStatistics.read_identity(file)
    word = "statistics" if fresh else "statistics (there already)"
    passed = f"; passed over: {listed.passed}" if listed.passed else ""
    return (
        f"{word}: {file}, {about['count']} images, {about['model']} ({about['checkpoint']}), mode "
        f"{about['mode']}{passed}"
    )


def _made(listed: reference_images.Listed, request: StatisticsRequest) -> tuple[Path, bool]:
    """Features of all images, unless the same ones are there already; the file, and whether it had to be made."""
    device = provenance.resolve_device(request.device)
    folder, mode, crop = folders.outputs() / "data" / "statistics", request.mode, request.crop
    checkpoint = features.extractor_hash(mode, request.extractor)
    # What is missing is told before all images are read for their hash.
    network = features.extractor(mode, request.extractor) if checkpoint is None else None
    digest = reference_images.digest(listed.files, listed.root)
    if checkpoint is not None and (there := reference.present(listed.name, folder, mode, checkpoint, crop)) is not None:
        try:
            if ReferenceStatistics.read_identity(there).get("images") == digest.value:
                digest.keep()
                return there, False
        except UsageError:
            pass  # damaged: it is made anew
    network = (network or features.extractor(mode, request.extractor)).to(device)
    file, found = reference.file_for(listed.name, folder, mode, network.checkpoint, crop), []
    with bar(listed.name, len(listed.files), "image") as shown:
        for batch in _batches(listed.files, crop, request.batch_size):
            found.append(network(batch.to(device)).cpu())
            shown.update(len(batch))
    about = {
        "data": listed.name,
        **network.identity(),
        "crop": crop,
        "count": len(listed.files),
        "images": digest.value,
        "cropped": "none" if crop is None else f"shorter side to {crop}, PIL bicubic, middle square",
    }
    with folders.atomic_write(file) as temporary:
        ReferenceStatistics.of(torch.cat(found), about).save(temporary)
    digest.keep()
    return file, True


def _batches(files: Sequence[Path], crop: int | None, batch_size: int) -> Iterator[Tensor]:
    batch: list[Tensor] = []
    for file in files:
        image = _read(file, crop)
        grown = (len(batch) + 1) * image[0].numel()  # pixels of the batch with it
        if batch and (len(batch) == batch_size or image.shape != batch[0].shape or grown > MOST_PIXELS):
            yield torch.stack(batch)
            batch = []
        batch.append(image)
    if batch:
        yield torch.stack(batch)


def _read(file: Path, crop: int | None) -> Tensor:
    """An image (3, H, W), uint8, as clean-fid reads it: what is transparent as if it were not, and not turned."""
    with image_files.opened(file) as opened:
        image = opened.convert("RGB")
    if crop is not None:
        scale = crop / min(image.size)
        width, height = (max(crop, round(side * scale)) for side in image.size)
        if width * height > MOST_PIXELS:
            raise UsageError(
                f"--crop {crop} makes {width} x {height} pixels of image {file}, more than {MOST_PIXELS:,} in all; "
                "use a smaller one, or remove the image"
            )
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - crop) // 2, (height - crop) // 2
        image = image.crop((left, top, left + crop, top + crop))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
