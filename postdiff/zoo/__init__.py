"""Models that ship with the package: `EMOJI` is the folder of a small text-to-image model of emoji, described there."""

from pathlib import Path

EMOJI = Path(__file__).parent / "emoji"
