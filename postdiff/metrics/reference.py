"""Reference statistics: features of reference images, or their mean and covariance alone, and their file."""

from __future__ import annotations

import functools
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from postdiff import model_files
from postdiff.engine.errors import UsageError
from postdiff.engine.values import expanded

if TYPE_CHECKING:
    from postdiff.metrics.features import Extractor

__all__ = ["ReferenceStatistics", "content_hash", "file_for", "find", "present"]

AGAIN = "'postdiff data statistics'"
CARD = "name another one in the data card"


@dataclass(frozen=True, eq=False)  # compared by identity, so that what is derived from it can be kept
class ReferenceStatistics:
    """A Gaussian fitted to features of reference images, and the features themselves.

    Attributes:
        mean: (d,), float64.
        covariance: (d, d), float64, unbiased.
        count: number of images.
        identity: data, extractor, checkpoint, mode, resize, crop, count, images (hash over names and contents), dtype.
        features: (N, d), float32; None if a file holds none.
        encoder: SHA-256 of the weights of the dual encoder that gave them; empty if it is unknown or none.
    """

    mean: Tensor
    covariance: Tensor
    count: int
    identity: dict[str, Any]
    features: Tensor | None = None
    encoder: str = ""

    @classmethod
    def of(cls, features: Tensor, identity: dict[str, Any]) -> ReferenceStatistics:
        """From features (N, d)."""
        exact = features.double()
        covariance = torch.cov(exact.T).reshape(features.shape[1], -1)
        return cls(exact.mean(0), covariance, len(features), identity, features.float())

    def save(self, file: Path) -> None:
        """Write a safetensors file; the identity is in its metadata."""
        assert self.features is not None
        tensors = {"mean": self.mean, "covariance": self.covariance, "features": self.features}
        tensors["count"] = torch.tensor(self.count)
        about = {"identity": json.dumps(self.identity, sort_keys=True)}
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, file, about)

    @classmethod
    def read_identity(cls, file: Path) -> dict[str, Any]:
        """Whose features a file holds, without reading them.

        Raises:
            UsageError: it is no such file.
        """
        try:
            with safe_open(file, "pt") as found:
                identity = json.loads((found.metadata() or {})["identity"])
        except (SafetensorError, OSError, KeyError, ValueError, RecursionError):
            identity = None
        if not isinstance(identity, dict):
            raise UsageError(f"{file} holds no reference statistics; make them with {AGAIN}")
        return identity

    @classmethod
    def load(cls, file: Path) -> ReferenceStatistics:
        """Read what `save` wrote, or a file of features alone, in any float dtype.

        Raises:
            UsageError: it is no such file, or its tensors do not belong together.
        """
        identity, remedy = cls.read_identity(file), f"make it again with {AGAIN}"
        with safe_open(file, "pt") as found:
            features = found.get_tensor("features") if list(found.keys()) == ["features"] else None
        if features is None:
            return cls._read(file, identity, "features", remedy)
        if features.dim() != 2 or len(features) < 2 or not features.isfinite().all():
            raise UsageError(f"{file} holds no features of two images or more; {remedy}")
        return cls.of(features, identity)

    @classmethod
    def of_card(cls, file: Path) -> ReferenceStatistics:
        """Read the file that a data card names: `mean`, `covariance`, `count` and the metadata `encoder_sha256`.

        Raises:
            UsageError: the file is missing or holds something else.
        """
        if not file.is_file():
            raise UsageError(f"reference statistics {file} are missing; name another file in the data card")
        return cls._read(file, {}, "count", CARD)

    @classmethod
    def _read(cls, file: Path, identity: dict[str, Any], third: str, remedy: str) -> ReferenceStatistics:
        names = ("mean", "covariance", third)
        try:
            with safe_open(file, "pt") as found:
                if missing := set(names) - set(found.keys()):
                    lacking = ", ".join(sorted(missing))
                    raise UsageError(f"{file} holds no {lacking}, so it is no file of reference statistics; {remedy}")
                mean, covariance, last = tensors = [found.get_tensor(name) for name in names]
                encoder = (found.metadata() or {}).get("encoder_sha256", "")
        except SafetensorError as error:
            raise UsageError(
                f"reference statistics {file} cannot be read ({error}); make or fetch them again"
            ) from error
        length, features = len(mean) if mean.dim() == 1 else 0, last if third == "features" else None
        fit = length and covariance.shape == (length, length)
        if not fit or not (last.numel() == 1 if features is None else last.shape[1:] == (length,) and len(last) > 1):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
            raise UsageError(f"{file} holds tensors of shapes {shapes}; {remedy}")
        if not all(tensor.isfinite().all() for tensor in tensors) or not mean.is_floating_point():
            raise UsageError(f"{file} holds values that are no numbers; {remedy}")
        count = int(last) if features is None else len(features)
        return cls(mean.double(), covariance.double(), count, identity, features, encoder)


def file_for(data: str, folder: Path, mode: str, checkpoint: str, crop: int | None) -> Path:
    """Where the statistics of a data set are kept in a folder."""
    data, checkpoint = (re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("_.") or "images" for name in (data, checkpoint))
    shape = "" if crop is None else f"-crop{crop}"
    return folder / f"{data}-{mode}-{checkpoint[-40:]}{shape}.safetensors"


def present(data: str, folder: Path, mode: str, checkpoint: str, crop: int | None) -> Path | None:
    """The file, if it is there; `data` may be the file itself."""
    given = expanded(data)
    file = given if given.suffix == ".safetensors" else file_for(data, folder, mode, checkpoint, crop)
    return file if file.is_file() else None


def content_hash(file: Path) -> str:
    """What says whether two files hold the same statistics: of the images if the file says them, else of the file."""
    try:
        return str(ReferenceStatistics.read_identity(file)["images"])
    except (UsageError, KeyError):
        return model_files.sha256(file)[:16]


def find(data: str, folder: Path, extractor: Extractor, place: str | None, crop: int | None) -> ReferenceStatistics:
    """The statistics of a metric's reference images.

    Args:
        data: name of the data, or a file.
        folder: where statistics are kept by name.
        extractor: that the metric uses.
        place: where it was read from, if an option said so; for the command in the message.
        crop: of the reference images.

    Raises:
        UsageError: there are none, with the command that makes them; or they are of another extractor, mode or crop.
    """
    assert extractor.mode is not None
    file = present(data, folder, extractor.mode, extractor.checkpoint, crop)
    if file is None:
        words = ["postdiff", "data", "statistics", data, "--mode", extractor.mode]
        words += ["--extractor", place] if place else []
        words += ["--crop", str(crop)] if crop else []
        raise UsageError(
            f"there are no reference statistics of '{data}' in mode {extractor.mode} with these weights "
            f"({extractor.checkpoint}); make them with '{shlex.join(words)}'"
        )
    real = _loaded(file.resolve(), file.stat().st_mtime_ns)
    expected: dict[str, Any] = {"checkpoint": extractor.checkpoint, "mode": extractor.mode}
    if crop is not None:  # of a file named outright, its own crop holds
        expected["crop"] = crop
    for key, value in expected.items():
        if real.identity.get(key) != value:
            raise UsageError(
                f"{file.name} was made with {key} {real.identity.get(key)}, not {value}; make it again with {AGAIN}, "
                "or name another reference"
            )
    return real


# Rows of an experiment, and metrics of a row, mostly share one; the time of change, so that a new file is read anew.
@functools.lru_cache(maxsize=1)
def _loaded(file: Path, changed: int) -> ReferenceStatistics:
    return ReferenceStatistics.load(file)
