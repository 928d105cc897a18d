"""Write EfficientNet-Lite0's features of the 450 real emoji, which the emoji data card names.

    python -m experiments.emoji_features --package UNPACKED_NPM_PACKAGE

Without `--package` npm fetches it into `outputs/emoji/data`. The images are composited on white, 64x64, as the shipped
model saw them. The features are in fp16, 1.2 MB; mean and covariance are made from them when they are read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from experiments.train_emoji.fetch import PACKAGE, fetch, read_emoji, read_images
from postdiff.metrics import efficientnet
from postdiff.zoo import EMOJI

FEATURES = EMOJI / "efficientnet_features.safetensors"
AT_ONCE = 50


def written(images: Tensor, data: str = "emoji", source: str = f"{PACKAGE} on npm, composited on white") -> bytes:
    """The file's content for images (N, 3, 64, 64), uint8, of a data set that was made from `source`."""
    network = efficientnet.load()
    features = torch.cat([network(batch) for batch in images.split(AT_ONCE)])
    about = {
        "data": data,
        **network.identity(),
        "source": source,
        "crop": None,
        "count": len(images),
        "images": hashlib.sha256(images.numpy().tobytes()).hexdigest()[:16],
    }
    return save({"features": features.half()}, {"identity": json.dumps(about, sort_keys=True)})


def main() -> None:
    """Read the images and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, help="unpacked npm package; fetched when not given")
    parser.add_argument("--to", type=Path, default=FEATURES, help="the file to write")
    given = parser.parse_args()
    emoji = read_emoji(fetch(Path("outputs/emoji/data"), given.package))
    given.to.write_bytes(written(read_images(emoji).mul(255).round().to(torch.uint8)))
    print(f"{given.to}: {len(emoji)} images")


if __name__ == "__main__":
    main()
