"""A row's images as one .npz file for the ADM evaluator, written image by image."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from postdiff.engine.errors import UsageError
from postdiff.lab.config.experiment import Experiment
from postdiff.lab.data.samples import Sample
from postdiff.lab.files import folders
from postdiff.lab.images.image_folder import ImageFolder
from postdiff.lab.plan.plan import plan_rows
from postdiff.lab.progress import bar
from postdiff.lab.records.stored import images_of

__all__ = ["export", "write"]


def export(experiment: Experiment, out: str | None) -> Path:
    """Write the images of an experiment's only row.

    Args:
        experiment: with one row selected.
        out: the file; None means `outputs/exports/<experiment>/<row>.npz`.

    Raises:
        UsageError: several rows, or images are missing.
    """
    if len(experiment.rows) != 1:
        names = ", ".join(row.name for row in experiment.rows[:8])
        raise UsageError(f"an export is of one row; choose with --rows one of {names}")
    [plan] = plan_rows(experiment, images=True)
    folder, samples = images_of(plan), plan.samples
    missing = [sample for sample in samples if not folder.has(sample)]
    if missing:
        raise UsageError(
            f"{len(missing)} of {len(samples)} images of row '{plan.name}' are missing; make them with "
            f"'postdiff run {experiment.name} --rows {plan.name}'"
        )
    file = Path(out).expanduser() if out else folders.outputs() / "exports" / experiment.name / f"{plan.name}.npz"
    if file.suffix != ".npz":
        raise UsageError(f"--out {file} must end in .npz")
    if file.is_dir():
        raise UsageError(f"--out {file} is a folder; name a file in it")
    with folders.atomic_write(file) as temporary:
        write(temporary, folder, samples)
    return file


def write(file: Path, folder: ImageFolder, samples: Sequence[Sample]) -> None:
    """Write `arr_0`, uint8 (N, H, W, 3), and for sampled classes `arr_1`, int64 (N,).

    Only one image is in memory at a time: 50,000 of 256 pixels are 10 GB.

    Args:
        file: to write.
        folder: where the images are.
        samples: which, in which order.

    Raises:
        UsageError: images of unequal size, or one that cannot be read.
    """
    size = folder.read(samples[:1]).shape[-2:]
    labels = [sample.label for sample in samples if sample.label is not None]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as member, bar("export", len(samples), "image") as shown:
            about = {"descr": "|u1", "fortran_order": False, "shape": (len(samples), *size, 3)}
            np.lib.format.write_array_header_1_0(member, about)
            for sample in samples:
                image = folder.read([sample])[0]
                if image.shape[-2:] != size:
                    raise UsageError(
                        f"image {folder.file(sample)} is {image.shape[-1]} x {image.shape[-2]}, the first one "
                        f"{size[1]} x {size[0]}; an .npz file holds images of one size"
                    )
                member.write(image.permute(1, 2, 0).numpy().tobytes())
                shown.update()
        if len(labels) == len(samples):
            with archive.open("arr_1.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.array(labels, dtype=np.int64))
