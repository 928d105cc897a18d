"""Fetch the icon sets from npm and render the concepts' drawings once.

Two sets are used: `noto` (Apache-2.0), in colour, and `fluent-emoji-high-contrast` (MIT), in one ink. `npm pack`
downloads them, and rendering needs `resvg-py`; a folder with the unpacked packages, or with the rendered file, will do.
"""

import base64
import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SETS = {"noto": "@iconify-json/noto@1.2.9", "high-contrast": "@iconify-json/fluent-emoji-high-contrast@1.2.6"}
CONCEPTS = Path(__file__).parent / "concepts.txt"
SIDE = 256


def read_concepts(listing: Path = CONCEPTS) -> dict[str, str]:
    """The names in captions, in the listing's order, each with its name in the icon sets."""
    lines = [line for line in listing.read_text().splitlines() if line.strip() and not line.startswith("#")]
    pairs = [line.partition("=") for line in lines]
    return {name.strip(): icon.strip() or name.strip().lower().replace(" ", "-") for name, _, icon in pairs}


def fetch(folder: Path) -> dict[str, dict]:
    """The `icons.json` of every set, downloaded into `folder` when it is not there yet."""
    sets = {}
    for name, package in SETS.items():
        file = folder / name / "package" / "icons.json"
        if not file.is_file():
            (folder / name).mkdir(parents=True, exist_ok=True)
            packed = subprocess.run(
                ["npm", "pack", "--silent", package], cwd=folder / name, check=True, capture_output=True, text=True
            )
            with tarfile.open(folder / name / packed.stdout.split()[-1]) as archive:
                archive.extractall(folder / name, filter="data")
        sets[name] = json.loads(file.read_text())
    return sets


def render(icons: dict, name: str, side: int = SIDE) -> Tensor:
    """One drawing cropped to its square, uint8 (4, side, side), red, green, blue and alpha, not premultiplied."""
    import resvg_py

    icon = icons["icons"][name]
    width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" color="#000">{icon["body"]}</svg>'
    png = resvg_py.svg_to_bytes(svg_string=svg, width=2 * side, height=2 * side)
    image = Image.open(io.BytesIO(bytes(png) if not isinstance(png, str) else base64.b64decode(png))).convert("RGBA")
    left, top, right, bottom = image.getchannel("A").point(lambda value: 255 * (value > 8)).getbbox()
    longest = max(right - left, bottom - top)
    square = Image.new("RGBA", (longest, longest))
    square.paste(image.crop((left, top, right, bottom)), ((longest - right + left) // 2, (longest - bottom + top) // 2))
    # Pillow resizes RGBA with premultiplied alpha, so no dark rim appears.
    return torch.from_numpy(np.array(square.resize((side, side), Image.Resampling.BOX))).permute(2, 0, 1).contiguous()


def render_all(folder: Path, concepts: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Every concept of both sets, uint8 (N, 4, 256, 256) by set; kept in `folder` as `drawings.pt`."""
    names = read_concepts()
    wanted = list(names if concepts is None else concepts)
    file = folder / "drawings.pt"
    if file.is_file():
        stored = torch.load(file, weights_only=True)
        if stored["concepts"] == wanted:
            return stored["drawings"]
    sets = fetch(folder)
    drawings = {key: torch.stack([render(icons, names[one]) for one in wanted]) for key, icons in sets.items()}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"concepts": wanted, "drawings": drawings}, file)
    return drawings
