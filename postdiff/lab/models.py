"""Model cards, and loading the pipeline behind one: from the package, a folder or the hub; safetensors only."""

from __future__ import annotations

import importlib.util
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from postdiff import catalog
from postdiff.engine.errors import UsageError
from postdiff.engine.family import family_of
from postdiff.lab import hub, weights
from postdiff.lab.config import SchedulerConfig
from postdiff.lab.schema import merged, read_yaml
from postdiff.lab.weights import file_hash

__all__ = ["ModelCard", "Source", "card", "checkpoint", "file_hash", "load", "package_file"]


@dataclass
class Source:
    """Where weights are.

    Attributes:
        folder: relative to the package, or absolute; or
        hub: repository on the hub, with
        revision: its commit or tag; null means its default branch, whose commit is looked up, and
        variant: weight variant, for instance fp16.
    """

    folder: str | None = None
    hub: str | None = None
    revision: str | None = None
    variant: str | None = None


@dataclass
class ModelCard(Source):
    """A model as experiments know it, its pipeline's source first.

    Attributes:
        summary: one line.
        pipeline: diffusers class; null means the one that the folder names.
        network: source of a denoiser that takes the place of the pipeline's own; empty means the pipeline's own.
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
    network: Source = field(default_factory=Source)
    dtype: str = "float32"
    height: int | None = None
    width: int | None = None
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    guidance_scale: float | None = None
    dual_encoder: str | None = None
    structure: str | None = None

    def usual(self, config: Any) -> dict[str, Any]:
        """Guidance, height and width of a run: its config's, or where that has none the card's; None if neither has."""
        return {
            name: value if (value := getattr(config, name)) is not None else getattr(self, name)
            for name in ("guidance_scale", "height", "width")
        }


def card(name: str) -> ModelCard:
    """The card of that name, or a card made up for a pipeline folder.

    Raises:
        UsageError: neither a known name nor a folder that holds a pipeline, or a card that contradicts itself.
    """
    if name in catalog.names("models"):
        file = catalog.path("models", name)
        found = merged(ModelCard, [(str(file), read_yaml(file))])
        if (found.folder is None) == (found.hub is None):
            raise UsageError(f"{file}: give either 'folder' or 'hub', not both")
        if found.network != Source():
            if (found.network.folder is None) == (found.network.hub is None):
                raise UsageError(f"{file}: give 'network' either 'folder' or 'hub', not both")
            if found.pipeline is None:
                raise UsageError(f"{file}: 'network' replaces a part of a pipeline; name its class under 'pipeline'")
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
    """What the weights are: a hash over a folder's weight files, or `repository@commit[:variant]` on the hub.

    A replacement network's own identity follows after a "+". A branch or tag is looked up, so that what a record
    says stays true when the branch moves on.

    Raises:
        UsageError: the folder is no pipeline, holds weights in pickle format only, or the hub cannot be asked.
    """
    found = _identity(model, lambda folder: weights.pipeline_hash(weights.checked_pipeline(folder)))
    if model.network == Source():
        return found
    return f"{found}+{_identity(model.network, lambda folder: weights.network_hash(weights.checked_network(folder)))}"


def _identity(source: Source, of_folder: Callable[[Path], str]) -> str:
    if source.hub is not None:
        variant = f":{source.variant}" if source.variant else ""
        return f"{source.hub}@{hub.commit(source.hub, source.revision)}{variant}"
    return of_folder(package_file(str(source.folder)))


def load(model: ModelCard, dtype: str, device: str) -> Any:
    """The pipeline, on the device, silent.

    Raises:
        UsageError: not a pipeline, pickle weights, unknown class, a missing package, or a hub that cannot be reached.
    """
    import torch
    from diffusers.utils import is_accelerate_available

    options = {
        "dtype": getattr(torch, dtype),
        "use_safetensors": True,
        "low_cpu_mem_usage": is_accelerate_available(),
    }
    given: dict[str, Any] = {}
    if model.network != Source():
        part = family_of(_pipeline_class(str(model.pipeline), "model card")).network
        given[part] = _load_network(model.network, options)
    if model.hub is not None:
        folder = hub.fetch_pipeline(model.hub, model.revision, model.variant, given)
    else:
        folder = package_file(str(model.folder))
    weights.checked_pipeline(folder)
    name = model.pipeline or json.loads((folder / "model_index.json").read_text()).get("_class_name")
    cls = _pipeline_class(str(name), folder)
    if "safety_checker" in inspect.signature(cls).parameters:
        # A false alarm would put a black picture among those that are measured.
        given |= {"safety_checker": None, "requires_safety_checker": False}
    pipe = _loaded(cls, folder, variant=model.variant, **given, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def _load_network(source: Source, options: dict[str, Any]) -> Any:
    import diffusers

    if source.hub is not None:
        folder = hub.fetch_network(source.hub, source.revision, source.variant)
    else:
        folder = package_file(str(source.folder))
    return _loaded(diffusers.AutoModel, weights.checked_network(folder), variant=source.variant, **options)


def _pipeline_class(name: str, where: object) -> Any:
    import diffusers

    cls = getattr(diffusers, name, None)
    if cls is None:
        raise UsageError(f"{where}: this diffusers has no pipeline class '{name}'; install a newer one")
    return cls


def _loaded(cls: Any, folder: Path, **options: Any) -> Any:
    try:
        return cls.from_pretrained(str(folder), local_files_only=True, **options)
    except (OSError, ValueError, TypeError, ImportError) as error:
        if importlib.util.find_spec("sentencepiece") is None and any(folder.glob("*/spiece.model")):
            reason = "its tokenizer needs a package that is not installed; pip install sentencepiece protobuf"
        else:
            reason = f"{' '.join(str(error).split())}; fetch it again with a connection, or save it again"
        raise UsageError(f"{folder} cannot be loaded as {cls.__name__}: {reason}") from error
