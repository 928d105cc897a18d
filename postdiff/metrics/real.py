"""What is known of real pictures: the features of one extractor, their mean and covariance, and whose they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from postdiff.engine.errors import UsageError

__all__ = ["Real"]


@dataclass(frozen=True, eq=False)  # compared by identity, so that what is derived from it can be kept
class Real:
    """Features of real pictures.

    Attributes:
        mean: (d,), float64.
        covariance: (d, d), float64, unbiased.
        features: (N, d), float32.
        identity: data, extractor, checkpoint, mode, resize, crop, count, images (hash over names and contents), dtype.
    """

    mean: Tensor
    covariance: Tensor
    features: Tensor
    identity: dict[str, Any]

    @property
    def count(self) -> int:
        """Number of pictures."""
        return len(self.features)

    @classmethod
    def of(cls, features: Tensor, identity: dict[str, Any]) -> Real:
        """From features (N, d)."""
        exact = features.double()
        return cls(exact.mean(0), torch.cov(exact.T).reshape(features.shape[1], -1), features.float(), identity)

    def save(self, file: Path) -> None:
        """Write a safetensors file; the identity is in its metadata."""
        tensors = {
            "mean": self.mean,
            "covariance": self.covariance,
            "count": torch.tensor(self.count),
            "features": self.features,
        }
        save_file(
            {name: tensor.contiguous().cpu() for name, tensor in tensors.items()},
            file,
            {"identity": json.dumps(self.identity, sort_keys=True)},
        )

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
            raise UsageError(f"{file} holds no reference statistics; make them with 'postdiff data statistics'")
        return identity

    @classmethod
    def load(cls, file: Path) -> Real:
        """Read what `save` wrote.

        Raises:
            UsageError: it is no such file, or its tensors do not belong together.
        """
        identity = cls.read_identity(file)
        with safe_open(file, "pt") as found:
            missing = {"mean", "covariance", "features"} - set(found.keys())
            if missing:
                raise UsageError(f"{file} lacks {', '.join(sorted(missing))}; make it with 'postdiff data statistics'")
            tensors = [found.get_tensor(name) for name in ("mean", "covariance", "features")]
        mean, covariance, features = tensors
        length = features.shape[-1] if features.dim() == 2 else 0
        if not length or len(features) < 2 or mean.shape != (length,) or covariance.shape != (length, length):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
            raise UsageError(f"{file} holds tensors of shapes {shapes}; make it again with 'postdiff data statistics'")
        if not all(tensor.is_floating_point() and tensor.isfinite().all() for tensor in tensors):
            raise UsageError(f"{file} holds values that are no numbers; make it again with 'postdiff data statistics'")
        return cls(mean, covariance, features, identity)
