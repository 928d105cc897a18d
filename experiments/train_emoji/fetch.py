"""Fetch the emoji images and their names from npm, and read them into tensors.

The package `emoji-datasource-google` holds Noto emoji as 64x64 PNGs (Apache-2.0) and `emoji.json` with their names
(MIT). `npm pack` downloads it; a folder with the unpacked package is accepted in its place, for machines without npm.
"""

import json
import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

PACKAGE = "emoji-datasource-google@16.0.0"
ICONIC = Path(__file__).parent / "iconic.txt"

# Names of an old black-and-white glyph and not of the image, a bare "-1", and one rude word.
MISLEADING = re.compile(r"^(heavy|black|white|reversed|large|lower left|upper) | symbol$|^(shit|1)$")


@dataclass(frozen=True)
class Emoji:
    """One image: its identifier, the prompt that names it best, and every name it is trained with."""

    id: str
    prompt: str
    captions: tuple[str, ...]
    file: Path


def fetch(cache: Path, package: Path | None = None) -> Path:
    """Return the folder of the unpacked package, downloading it into `cache` when it is not there yet."""
    if package is not None:
        if not (package / "emoji.json").is_file():
            raise ValueError(f"package: no emoji.json in {package}; expected an unpacked {PACKAGE}")
        return package
    folder = cache / "package"
    if not (folder / "emoji.json").is_file():
        cache.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(["npm", "pack", PACKAGE], cwd=cache, check=True, capture_output=True, text=True)
        with tarfile.open(cache / packed.stdout.split()[-1]) as archive:
            archive.extractall(cache, filter="data")
    return folder


def read_emoji(folder: Path, listing: Path = ICONIC) -> list[Emoji]:
    """Read the emoji named in `listing`, in its order. No caption is shared by two of them."""
    entries = {entry["short_name"]: entry for entry in json.loads((folder / "emoji.json").read_text())}
    lines = [line.partition("=") for line in listing.read_text().splitlines() if line and not line.startswith("#")]
    wanted = [(short.strip(), prompt.strip() or words(short.strip())) for short, _, prompt in lines]
    if unknown := [short for short, _ in wanted if short not in entries]:
        raise ValueError(f"{listing.name}: short names that are not in emoji.json: {unknown}")
    taken = {prompt for _, prompt in wanted}
    emoji = []
    for short, prompt in wanted:
        entry = entries[short]
        names = [words(name) for name in (*entry["short_names"], entry["name"] or "")]
        # A name that also means another image would teach the model an average of the two.
        others = [name for name in dict.fromkeys(names) if name and name not in taken and not MISLEADING.search(name)]
        taken.update(others)
        emoji.append(Emoji(short, prompt, (prompt, *others), folder / "img" / "google" / "64" / entry["image"]))
    return emoji


def words(name: str) -> str:
    """A name as lower-case words: "STEAMING BOWL" and "flying_saucer" become "steaming bowl", "flying saucer"."""
    return " ".join(re.sub(r"[^a-z0-9+]+", " ", name.lower()).split())


def read_image(file: Path) -> torch.Tensor:
    """A PNG composited on white, (3, 64, 64) in [0, 1]."""
    image = Image.open(file).convert("RGBA")
    return to_tensor(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))


def read_images(emoji: list[Emoji]) -> torch.Tensor:
    """All images, (N, 3, 64, 64) in [0, 1]."""
    return torch.stack([read_image(one.file) for one in emoji])
