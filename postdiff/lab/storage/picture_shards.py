"""Pictures in `.npz` files of a batch each, for runs of so many pictures that one file each is a burden."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from postdiff.lab.files import folders
from postdiff.lab.inputs.data import Sample
from postdiff.lab.storage.picture_rows import Damaged, PictureRow, pixel_hash

__all__ = ["PictureShards"]

Key = tuple[int, int]


class PictureShards:
    """The `.npz` files of a folder: arrays images (B, H, W, 3) uint8, index, seed, prompt and sha256.

    Args:
        folder: of the files; need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[Key, Path] | None = None
        self._last: tuple[Path, dict[str, Any]] | None = None

    def refresh(self) -> list[Path]:
        """Look again at what is there; returns the files that cannot be read."""
        self._files, self._last, broken = {}, None, []
        for file in sorted(self.folder.glob("[!.]*.npz")) if self.folder.is_dir() else []:
            try:
                with np.load(file, allow_pickle=False) as found:
                    keys = list(zip(found["seed"].tolist(), found["index"].tolist(), strict=True))
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
                broken.append(file)
                continue
            self._files.update(dict.fromkeys(keys, file))
        return broken

    def file(self, sample: Sample) -> Path | None:
        """The file that holds a sample's picture, or None."""
        if self._files is None:
            self.refresh()
        assert self._files is not None
        return self._files.get((sample.seed, sample.index))

    def write(self, samples: Sequence[Sample], images: Tensor) -> None:
        """Save pictures (B, 3, H, W), uint8, as one file, whole or not at all."""
        name = hashlib.sha256(repr([(sample.seed, sample.index) for sample in samples]).encode()).hexdigest()[:8]
        file = self.folder / f"{samples[0].seed}-{samples[0].index:05d}-{name}.npz"
        stream = io.BytesIO()
        np.savez_compressed(
            stream,
            images=images.permute(0, 2, 3, 1).cpu().numpy(),
            index=np.array([sample.index for sample in samples]),
            seed=np.array([sample.seed for sample in samples]),
            prompt=np.array([sample.prompt for sample in samples]),
            sha256=np.array([pixel_hash(image) for image in images]),
        )
        with folders.whole_file(file) as temporary:
            temporary.write_bytes(stream.getvalue())
        if self._files is not None:
            self._files.update({(sample.seed, sample.index): file for sample in samples})

    def read(self, sample: Sample) -> Tensor:
        """The picture (3, H, W), uint8, of a sample that is there.

        Raises:
            Damaged: the file cannot be decoded, or does not hold the picture that was written for this sample.
            OSError: it cannot be opened.
        """
        file = self.file(sample)
        assert file is not None
        arrays = self._load(file)
        [place] = np.flatnonzero((arrays["seed"] == sample.seed) & (arrays["index"] == sample.index))[:1]
        image = torch.from_numpy(arrays["images"][place]).permute(2, 0, 1)
        row = PictureRow(sample.index, str(arrays["prompt"][place]), sample.seed, str(arrays["sha256"][place]))
        row.check(sample, image)
        return image

    def _load(self, file: Path) -> dict[str, Any]:
        # Neighbours are read one after the other, so the file read last is the one wanted next.
        if self._last is None or self._last[0] != file:
            content = io.BytesIO(file.read_bytes())
            try:
                with np.load(content, allow_pickle=False) as found:
                    arrays = {name: found[name] for name in ("images", "index", "seed", "prompt", "sha256")}
            except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise Damaged("cannot be decoded") from error
            self._last = (file, arrays)
        return self._last[1]
