"""The files that a model is read from: those that decide, its weights in safetensors format, and no others.

In a part's folder every file decides but documentation, images, code, and weights that are not loaded. What these
files hold makes the model's identity, and loaders are shown a folder of links to just them: a file that no identity
covers, a pickle for instance, is never there to be opened.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from postdiff.engine.errors import UsageError

__all__ = ["WEIGHTS", "decides", "identity", "of_part", "refuse_disguised", "sha256", "shown"]

WEIGHTS = ".safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# Weights of other libraries, code, documentation and images.
IDLE = (
    *(*PICKLES, ".h5", ".msgpack", ".onnx", ".onnx_data", ".pb", ".gguf", ".npz", ".npy", ".ot", ".tflite"),
    *(".py", ".ipynb", ".md", ".rst", ".pdf", ".html", ".csv", ".log", ".lock"),
    *(".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".svg", ".mp4"),
)
NAMES = ("readme", "license", "licence", "notice", "changelog", "citation", "authors", "thumbs")
INDEX = re.compile(r"\.index(\.[^.]+)?\.json$")
# What diffusers and transformers call the weights of a part.
STEMS = ("diffusion_pytorch_model", "model")
CONVERT = "convert it where you trust it: pipe.save_pretrained(folder, safe_serialization=True)"
FETCH = "fetch it again with a connection, or save it again with save_pretrained"

# Records and images know the shipped models by what their identities were while weights alone made them.
KNOWN = {
    "3c11aca46b3749b1d989df34e50e171ffd45aff96ac3c3a3cb59d32b90d05322": "c354202d443a80eb",
    "6d37220a0380f2f634143277d8306c0a891eaea1a34d0ce4a54fa22903a58c8d": (
        "c90a4eb8ab3f5c399dac4c8c4f35ac8e8750f1ae7ddece3f3377e36368805db8"
    ),
}


def of_part(
    folder: Path, variant: str | None = None, *, weighted: bool | None = None, strict: bool = False
) -> list[Path]:
    """The files that a part of a pipeline, or a network by itself, is read from.

    Args:
        folder: of the part.
        variant: of the weights, for instance "fp16".
        weighted: whether there must be weights; None means if there is a config.json.
        strict: whether weights of another variant must not stand in for those asked for.

    Raises:
        UsageError: its weights are missing, in pickle format only or lead to a pickle, or a LoRA lies over them.
    """
    files = [file for file in sorted(folder.rglob("*")) if decides(file.relative_to(folder)) and file.is_file()]
    chosen = _weights(folder, [variant] if strict else list(dict.fromkeys([variant, None])))
    if not chosen:
        pickles = [file for file in sorted(folder.glob("*")) if file.suffix in PICKLES]
        if pickles:
            raise UsageError(f"{pickles[0]} is in pickle format, which can run code when loaded; {CONVERT}")
        if (folder / "config.json").is_file() if weighted is None else weighted:
            config = folder / "config.json"
            of_diffusers = not config.is_file() or "_class_name" in _parsed(config)
            name = _named(STEMS[0 if of_diffusers else 1] + WEIGHTS, variant)
            raise UsageError(f"{folder} cannot be loaded as it has no {name}; {FETCH}")
    if (laid_over := folder / "adapter_config.json") in files:
        raise UsageError(
            f"{laid_over} lays a LoRA over the weights, which may be anywhere; merge it into them, or name it under "
            "'lora' in a model card"
        )
    for file in files:
        if file.name.endswith("config.json"):
            if not isinstance(values := _parsed(file), dict):
                raise UsageError(f"{file} holds no keys, and might name another file by its value; {FETCH}")
            if "transformers_weights" in values:
                raise UsageError(f"{file} names weights of its own under 'transformers_weights'; {FETCH}")
    return [file for file in files if file in chosen or not (file.suffix == WEIGHTS or INDEX.search(file.name))]


def decides(name: Path) -> bool:
    """Whether a file of that name, relative to the model's folder, can decide what the model generates."""
    if any(part.startswith(".") for part in name.parts):
        return False
    return name.suffix.lower() not in IDLE and name.name.partition(".")[0].lower() not in NAMES


def refuse_disguised(file: Path) -> None:
    """Look at the first bytes of what should be a safetensors file; whether it is whole, its reader finds out.

    Raises:
        UsageError: it is a pickle.
    """
    with file.open("rb") as stream:
        head = stream.read(9)
    if head[8:] != b"{" and head.startswith((b"PK", b"\x80")):
        raise UsageError(f"{file} is a pickle by another name, which can run code when loaded; {CONVERT}")


def identity(files: Iterable[Path], root: Path) -> str:
    """64 hexadecimal digits over names below `root` and contents of files.

    The same JSON counts as the same however it is laid out, and wherever it says that it was saved from.
    """
    found = hashlib.sha256()
    for file in sorted(files):
        found.update(f"{file.relative_to(root).as_posix()} {sha256(file, values=True)}\n".encode())
    return KNOWN.get(found.hexdigest(), found.hexdigest())


def sha256(file: Path, values: bool = False) -> str:
    """SHA-256 of a file, read once a process as long as it is not written to.

    Args:
        file: any.
        values: of JSON, hash its values and not its bytes, but for where it says that it was saved from.
    """
    state = file.stat()
    return _sha256(file.absolute(), state.st_mtime_ns, state.st_size, values and file.suffix == ".json")


@contextmanager
def shown(files: Iterable[Path], root: Path, what: str) -> Iterator[Path]:
    """A folder with links to files below `root` and nothing else, to load them from; it vanishes when the block ends.

    Args:
        files: what is read.
        root: of the model.
        what: begins the message of an error, for instance "FOLDER cannot be loaded as CLIPModel".

    Raises:
        UsageError: the block ends in an error: whatever files make a library say, it is the files that are wrong.
    """
    with tempfile.TemporaryDirectory(prefix="postdiff-") as name:
        folder = Path(name)
        for file in files:
            link = folder / file.relative_to(root)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.absolute())
        try:
            yield folder
        except Exception as error:
            if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
                raise
            said = " ".join(str(error).split()).replace(name, str(root)) or type(error).__name__
            raise UsageError(f"{what} ({said[:120]}); {FETCH}") from error


def _weights(folder: Path, variants: Iterable[str | None]) -> set[Path]:
    """Weight files and their indexes that a loader may choose, of the first variant that there is."""
    for variant in variants:
        found: set[Path] = set()
        for stem in STEMS:
            single = folder / _named(stem + WEIGHTS, variant)
            # Whole, or in pieces that an index lists; the last name is an older one.
            listed = [_named(f"{stem}{WEIGHTS}.index.json", variant)]
            listed += [f"{stem}{WEIGHTS}.{variant}.index.json"] if variant else []
            found |= {single} if single.is_file() else set()
            for index in (folder / name for name in listed):
                found |= {index, *_pieces(index)} if index.is_file() else set()
        for file in sorted(found):
            if file.suffix == WEIGHTS:
                refuse_disguised(file)
        if found:
            return found
    return set()


def _pieces(index: Path) -> list[Path]:
    """The weight files that an index lists, which stand beside it."""
    try:
        names = sorted(set(_parsed(index)["weight_map"].values()))
    except (KeyError, AttributeError, TypeError):
        raise UsageError(f"{index} lists no weight files; {FETCH}") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or "\\" in name or not name.endswith(WEIGHTS):
            raise UsageError(
                f"{index} leads to '{str(name)[:60]}', and not to a safetensors file beside it; other formats can run "
                f"code when loaded: {CONVERT}"
            )
        if not (index.parent / name).is_file():
            raise UsageError(f"{index} lists '{name[:60]}', which is missing; {FETCH}")
    return [index.parent / name for name in names]


def _named(name: str, variant: str | None) -> str:
    stem, dot, ending = name.rpartition(".")
    return f"{stem}.{variant}{dot}{ending}" if variant else name


def _parsed(file: Path) -> Any:
    """The values in a JSON file; none if it is not valid, which whoever loads it tells."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return {}


@functools.cache
def _sha256(file: Path, changed: int, size: int, of_values: bool) -> str:
    if of_values and (values := _parsed(file)):  # not if it is no JSON
        if isinstance(values, dict):
            values.pop("_name_or_path", None)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
