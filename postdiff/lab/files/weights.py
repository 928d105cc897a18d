"""Model folders and weight files as cards name them: checked to be safe, and hashes that say which they are."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from postdiff import model_files
from postdiff.engine.errors import UsageError
from postdiff.model_files import WEIGHTS

__all__ = [
    "checked_file",
    "network_files",
    "network_hash",
    "networks",
    "pipeline_files",
    "pipeline_hash",
    "pipeline_index",
    "refuse_pickle",
]

INDEX = "model_index.json"
# Never loaded: a false alarm would put a black image among those that are measured.
UNUSED = "safety_checker"
# Parts without weights, whose folders may hold a config.json all the same.
WEIGHTLESS = ("Tokenizer", "TokenizerFast", "Processor", "ImageProcessorFast", "Extractor", "Scheduler")


def pipeline_index(folder: Path) -> dict[str, Any]:
    """What a pipeline's `model_index.json` says.

    Raises:
        UsageError: there is none, or it is no mapping in JSON.
    """
    index = folder / INDEX
    if not index.is_file():
        raise UsageError(f"{folder} is not a diffusers pipeline: no {INDEX}; make one with save_pretrained")
    reason = "it is no mapping"
    try:
        if isinstance(found := json.loads(index.read_text(encoding="utf-8")), dict):
            return found
    except (ValueError, RecursionError) as error:
        reason = str(error)[:80]
    raise UsageError(f"{index} is not valid JSON ({reason}), or names no parts; save it again with save_pretrained")


def pipeline_files(folder: Path, variant: str | None = None, without: Iterable[str] = ()) -> list[Path]:
    """The files that a pipeline is read from: its index and those of its parts.

    Args:
        folder: of the pipeline.
        variant: of the weights, for instance "fp16".
        without: parts that come from elsewhere.

    Raises:
        UsageError: it is no pipeline, or weights of a part are missing, in pickle format only or lead to a pickle.
    """
    files = [folder / INDEX]
    for name, value in pipeline_index(folder).items():
        named = isinstance(value, list) and len(value) == 2 and all(isinstance(each, str) for each in value)
        if not named or name.startswith("_") or name in (UNUSED, *without):
            continue
        part = folder / name
        if Path(name).name != name or not part.is_dir():
            raise UsageError(f"{folder} cannot be loaded as it has no folder of its part '{name}'; {model_files.FETCH}")
        weighted = (part / "config.json").is_file() and not value[1].endswith(WEIGHTLESS)
        files += model_files.of_part(part, variant, weighted=weighted)
    return files


def networks(folder: Path) -> dict[str, str]:
    """{part of a pipeline that has weights: the library whose class it is}.

    Raises:
        UsageError: it is no pipeline.
    """
    parts = {name: value for name, value in pipeline_index(folder).items() if isinstance(value, list) and all(value)}
    return {
        name: str(library)
        for name, (library, cls) in parts.items()
        if (folder / name / "config.json").is_file() and not str(cls).endswith(WEIGHTLESS)
    }


def network_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The files that a network by itself is read from.

    Raises:
        UsageError: it is none, or its weights are missing, in pickle format only or lead to a pickle.
    """
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} is not a diffusers network: no config.json; make one with save_pretrained")
    return model_files.of_part(folder, variant, strict=True)


def pipeline_hash(folder: Path, variant: str | None = None) -> str:
    """16 hexadecimal digits over names and contents of `pipeline_files`."""
    return model_files.identity(pipeline_files(folder, variant), folder)[:16]


def network_hash(folder: Path, variant: str | None = None) -> str:
    """16 hexadecimal digits over names and contents of `network_files`."""
    return model_files.identity(network_files(folder, variant), folder)[:16]


def checked_file(folder: Path, name: str, what: str) -> Path:
    """A weight file that a card names.

    Args:
        folder: where it should be.
        name: as the card's `weight_name` says.
        what: key of the card, for messages.

    Raises:
        UsageError: it is missing, or in pickle format.
    """
    file = folder / name
    refuse_pickle(file, what)
    if not file.is_file():
        there = sorted(other.name for other in folder.glob(f"*{WEIGHTS}")) if folder.is_dir() else []
        raise UsageError(
            f"{what} file {file} is missing; name the right one under 'weight_name'"
            + (f" ({', '.join(there[:5])} is there)" if there else "")
        )
    model_files.refuse_disguised(file)
    return file


def refuse_pickle(file: Path, what: str) -> None:
    """Take nothing but safetensors.

    Raises:
        UsageError: the file's name ends otherwise.
    """
    if file.suffix != WEIGHTS:
        raise UsageError(
            f"{what} file {file} is not in safetensors format; other formats can run code when loaded: convert it "
            "where you trust it, with safetensors.torch.save_file"
        )
