"""Model cards, and loading the pipeline behind one: from the package, a folder or the hub; safetensors only."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from postdiff import catalog
from postdiff.engine.errors import UsageError
from postdiff.lab.config import SchedulerConfig
from postdiff.lab.schema import merged, read_yaml

__all__ = ["ModelCard", "card", "checkpoint", "file_hash", "load", "package_file"]

WEIGHTS = ".safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass
class ModelCard:
    """A model as experiments know it.

    Attributes:
        summary: one line.
        pipeline: diffusers class; null means the one that the folder names.
        folder: pipeline folder, relative to the package; or
        hub: repository on the hub, with
        revision: its commit or tag, and
        variant: its weight variant, for instance fp16.
        dtype: what it runs in.
        height: native height in pixels; null means the pipeline's default.
        width: native width in pixels.
        scheduler: laid over the scheduler that the folder holds.
        guidance_scale: usual guidance; null means the pipeline's default.
        dual_encoder: CLIPModel folder for features and text scores, relative to the package; null if there is none.
        structure: file of `configs/structures` with the network's shapes, for counting MACs without weights.
    """

    summary: str = ""
    pipeline: str | None = None
    folder: str | None = None
    hub: str | None = None
    revision: str | None = None
    variant: str | None = None
    dtype: str = "float32"
    height: int | None = None
    width: int | None = None
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    guidance_scale: float | None = None
    dual_encoder: str | None = None
    structure: str | None = None


def card(name: str) -> ModelCard:
    """The card of that name, or a card made up for a pipeline folder.

    Raises:
        UsageError: neither a known name nor a folder that holds a pipeline.
    """
    if name in catalog.names("models"):
        file = catalog.path("models", name)
        found = merged(ModelCard, [(str(file), read_yaml(file))])
        if (found.folder is None) == (found.hub is None):
            raise UsageError(f"{file}: give either 'folder' or 'hub', not both")
        return found
    folder = Path(name).expanduser()
    if folder.is_dir():
        encoder = folder.resolve() / "dual_encoder"
        return ModelCard(folder=str(folder.resolve()), dual_encoder=str(encoder) if encoder.is_dir() else None)
    if "/" in name or folder.exists():
        raise UsageError(f"model '{name}' is not a folder; give a pipeline folder, or a name of 'postdiff list models'")
    catalog.path("models", name)
    raise AssertionError("catalog knew a name that it did not list")


def package_file(name: str) -> Path:
    """A file of the package (`zoo/emoji`), or anywhere if the path is absolute."""
    return Path(__file__).parents[1] / name


def checkpoint(model: ModelCard) -> str:
    """What the weights are: a hash over a folder's weight files, or `repository@revision` on the hub.

    Raises:
        UsageError: the folder is no pipeline, or holds weights in pickle format only.
    """
    if model.folder is None:
        return f"{model.hub}@{model.revision or 'main'}"
    return _hash_weights(_checked(package_file(model.folder)))


def load(model: ModelCard, dtype: str, device: str) -> Any:
    """The pipeline, on the device, silent.

    Raises:
        UsageError: not a pipeline, pickle weights, unknown class, or a hub that cannot be reached.
    """
    import diffusers
    import torch
    from diffusers.utils import is_accelerate_available

    folder = _checked(package_file(model.folder) if model.folder else _download(model))
    name = model.pipeline or json.loads((folder / "model_index.json").read_text()).get("_class_name")
    cls = getattr(diffusers, str(name), None)
    if cls is None:
        raise UsageError(f"{folder}: this diffusers has no pipeline class '{name}'; install a newer one")
    try:
        pipe = cls.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            variant=model.variant,
            local_files_only=True,
            low_cpu_mem_usage=is_accelerate_available(),
        )
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{folder} cannot be loaded as {name}: {' '.join(str(error).split())}") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def _checked(folder: Path) -> Path:
    index = folder / "model_index.json"
    if not index.is_file():
        raise UsageError(f"{folder} is not a diffusers pipeline: no model_index.json; make one with save_pretrained")
    try:
        components = json.loads(index.read_text())
    except ValueError:
        raise UsageError(f"{index} is not valid JSON; save the pipeline again with save_pretrained") from None
    for name, value in components.items():
        if name.startswith("_") or not isinstance(value, list) or value[0] is None:
            continue
        part = folder / name
        files = sorted(part.iterdir()) if part.is_dir() else []
        pickles = [file for file in files if file.suffix in PICKLES]
        if pickles and not any(file.suffix == WEIGHTS for file in files):
            raise UsageError(
                f"{pickles[0]} is in pickle format, which can run code when loaded; convert it where you trust it: "
                "pipe.save_pretrained(folder, safe_serialization=True)"
            )
    return folder


@functools.cache
def _hash_weights(folder: Path) -> str:
    found = hashlib.sha256()
    for file in sorted(folder.rglob(f"*{WEIGHTS}")):
        # The metrics' encoder may stand beside the pipeline; it makes no picture.
        if file.relative_to(folder).parts[0] == "dual_encoder" or len(file.relative_to(folder).parts) < 2:
            continue
        found.update(f"{file.relative_to(folder).as_posix()} {file_hash(file)}\n".encode())
    return found.hexdigest()[:16]


@functools.cache
def file_hash(file: Path) -> str:
    """SHA-256 of a file, read once a process."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _download(model: ModelCard) -> Path:
    import diffusers
    import httpx

    # Its own report of the same failure would come first, on lines of its own.
    log, level = diffusers.utils.logging, diffusers.utils.logging.get_verbosity()
    log.set_verbosity(log.CRITICAL)
    try:
        return Path(
            diffusers.DiffusionPipeline.download(
                model.hub, revision=model.revision, variant=model.variant, use_safetensors=True
            )
        )
    except (OSError, httpx.HTTPError) as error:
        raise UsageError(
            f"{model.hub} is neither on this machine nor reachable on the hub ({type(error).__name__}); "
            "connect once to fetch it, or give model=/path/to/folder"
        ) from error
    finally:
        log.set_verbosity(level)
