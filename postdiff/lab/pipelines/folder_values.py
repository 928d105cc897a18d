"""Configs of a model folder, looked through before anything is built of them.

Whether they fit their weights, their loader finds out. But some values take all memory or hours first, and others are
passed over in silence.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from postdiff.engine.errors import UsageError, shown
from postdiff.lab.config import schedulers
from postdiff.lab.config.value_types import MOST_PIXELS

__all__ = ["check"]

LARGEST_FILE = 4_000_000
MOST, MOST_LAYERS = 10**9, 1000  # of any number, and of layers or blocks
SIZES = ("sample_size", "image_size", "patch_size")
AGAIN = "save the model again with save_pretrained"


def check(files: Iterable[Path]) -> None:
    """Refuse configs with values that no network, scheduler or tokenizer has.

    Args:
        files: of a model; those that are no configs are passed over.

    Raises:
        UsageError: a config cannot be read, or a value in it is out of all bounds.
    """
    for file in files:
        if file.name not in ("config.json", "scheduler_config.json", "tokenizer_config.json"):
            continue
        values = _read(file)
        try:
            if file.name == "scheduler_config.json":
                schedulers.check_config(values)
            elif file.name == "config.json":
                _check(values)
            else:
                _check_tokenizer(values)
        except UsageError as error:
            raise UsageError(f"{file}: {error}") from None


def _read(file: Path) -> dict[str, Any]:
    try:
        if not file.is_file() or file.stat().st_size > LARGEST_FILE:
            raise ValueError("no file of that kind")
        values = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("no keys and values")
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{file} cannot be read as JSON ({shown(error, 80)}); {AGAIN}") from None
    return values


def _check(values: Any, key: str = "") -> None:
    if isinstance(values, dict):
        for name, value in values.items():
            _check(value, name)
    elif isinstance(values, list):
        if key in SIZES and len(values) not in (2, 3):
            raise UsageError(f"{key}={shown(values)} is no height and width; {AGAIN}")
        for value in values:
            _check(value, key)
    elif isinstance(values, int | float):
        counted = "layers" in key or "blocks" in key or key in SIZES
        most = MOST_PIXELS if key in SIZES else MOST_LAYERS if counted else MOST
        least = 1 if key in SIZES else 0 if counted else -most
        if not least <= values <= most:
            raise UsageError(f"{key}={shown(values, 30)} is out of bounds; {least} to {most} are taken")
    elif key in SIZES and values is not None:
        raise UsageError(f"{key}={shown(values)} is no number; {AGAIN}")


def _check_tokenizer(values: dict[str, Any]) -> None:
    # What stands for "no limit" in published tokenizers is far beyond any length.
    length = values.get("model_max_length", 1)
    if not isinstance(length, int | float) or isinstance(length, bool) or not length >= 1:
        raise UsageError(f"model_max_length={shown(length)} is no number of words; {AGAIN}")
