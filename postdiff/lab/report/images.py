"""Images of an experiment's rows as data URIs: the same prompts and seeds in every row."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from postdiff.engine.errors import UsageError
from postdiff.lab.files import folders
from postdiff.lab.records.record import Record, fresh_path

__all__ = ["COLUMNS", "SIDE", "encoded"]

COLUMNS = 10  # images a row and seed
SEEDS = 2
SIDE = 192  # larger images are made smaller
WHOLE = 128  # images up to this side are kept to the bit
BYTES = 3_000_000  # all together: the charting library takes five of the eight megabytes that a page may have

Key = tuple[int, int]  # seed, index


def encoded(records: Mapping[str, Record | None], experiment: str) -> dict[str, Any]:
    """Images that all rows have, of the first prompts and seeds.

    Args:
        records: {row: its quality record}.
        experiment: the rows' experiment, beside whose records the values of single images lie.

    Returns:
        "samples": [{seed, index, prompt}], "rows": {row: [data URI]} in the same order, "values": {row: [text]}, what
        was measured of each image. Empty lists where no images are on this machine.

    Raises:
        UsageError: an image is listed but cannot be read.
    """
    found = {row: _listed(record) for row, record in records.items() if record is not None}
    found = {row: files for row, files in found.items() if files}
    if not found:
        return {"samples": [], "rows": {}, "values": {}}
    common = set.intersection(*(set(files) for files in found.values()))
    prompts = next(iter(found.values()))
    seeds = sorted({seed for seed, _ in common})[:SEEDS]
    keys = [key for seed in seeds for key in sorted(key for key in common if key[0] == seed)[:COLUMNS]]
    images = {row: [_uri(files[key][1]) for key in keys] for row, files in found.items()}
    largest = max((len(uri) for own in images.values() for uri in own), default=1)
    keys = keys[: max(1, BYTES // (largest * len(images)))]
    return {
        "samples": [{"seed": seed, "index": index, "prompt": prompts[seed, index][0]} for seed, index in keys],
        "rows": {row: own[: len(keys)] for row, own in images.items()},
        "values": {row: _values(experiment, row, keys) for row in found},
    }


def _listed(record: Record) -> dict[Key, tuple[str, Path]]:
    """{(seed, index): (prompt, file)} of a record's images that are on this machine, as their folder lists them."""
    folder = folders.outputs() / "images" / str(record.images)
    try:
        text = (folder / "manifest.csv").read_text()
    except OSError:
        return {}
    try:
        lines = list(csv.DictReader(io.StringIO(text, newline="")))
        found = {
            (int(line["seed"]), int(line["index"])): (line["prompt"], folder / line["file"])
            for line in lines
            if int(line["seed"]) in record.seeds
        }
    except (KeyError, TypeError, ValueError, csv.Error):
        return {}  # a damaged list is made anew by the next run
    return {key: (prompt, file) for key, (prompt, file) in found.items() if file.is_file()}


def _uri(file: Path) -> str:
    try:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UsageError(f"image {file} cannot be read ({error}); remove it and run the row again") from error
    stream, side = io.BytesIO(), max(image.size)
    if side > WHOLE:
        if side > SIDE:
            image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        image.save(stream, "WEBP", quality=88)
    else:
        image.save(stream, "PNG", optimize=True)
    kind = "webp" if side > WHOLE else "png"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _values(experiment: str, row: str, keys: list[Key]) -> list[str]:
    """What was measured of each image, as the CSV file beside the record has it; empty where there is none."""
    try:
        text = fresh_path(experiment, row).with_suffix(".csv").read_text()
        lines = {
            (int(line["seed"]), int(line["index"])): line for line in csv.DictReader(io.StringIO(text, newline=""))
        }
    except (OSError, KeyError, TypeError, ValueError, csv.Error):
        return [""] * len(keys)
    aside = ("index", "prompt", "seed", "sha256")
    return [
        "; ".join(f"{name} {_short(value)}" for name, value in lines.get(key, {}).items() if name not in aside)
        for key in keys
    ]


def _short(value: str) -> str:
    try:
        return f"{float(value):.4g}"
    except (TypeError, ValueError):
        return "-"
