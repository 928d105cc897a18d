"""What ships with the package: `EMOJI`, a folder, is a small text-to-image model of emoji, described there.

`ALEXNET` is the file of AlexNet's convolutions, through which LPIPS looks at images.
"""

from pathlib import Path

EMOJI = Path(__file__).parent / "emoji"
ALEXNET = Path(__file__).parent / "alexnet" / "features.safetensors"
