"""What ships with the package: `EMOJI`, a folder, is a small text-to-image model of emoji, described there.

`ALEXNET` is the file of AlexNet's convolutions, through which LPIPS looks at images. `EFFICIENTNET` is the file of
EfficientNet-Lite0, whose features tell sets of images apart.
"""

from pathlib import Path

EMOJI = Path(__file__).parent / "emoji"
ALEXNET = Path(__file__).parent / "alexnet" / "features.safetensors"
EFFICIENTNET = Path(__file__).parent / "efficientnet" / "lite0.safetensors"
