"""Model cards, and loading the pipeline behind one: from the package, a folder or the hub; safetensors only."""

from __future__ import annotations

import importlib.util
import inspect
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from postdiff import catalog
from postdiff.engine.errors import UsageError
from postdiff.engine.family import family_of
from postdiff.lab import hub, sources, weights
from postdiff.lab.adapters import Adapters, check_adapters, described, lay_over
from postdiff.lab.config import SchedulerConfig
from postdiff.lab.schema import merged, read_yaml
from postdiff.lab.sources import Source, package_file
from postdiff.lab.weights import file_hash

__all__ = ["ModelCard", "Source", "card", "checkpoint", "file_hash", "load", "package_file", "pipeline_class"]

# Networks that a card brings from elsewhere: in the place of the pipeline's own, or beside them.
REPLACED, ADDED = ("network", "vae"), ("controlnet", "motion_adapter")


@dataclass
class ModelCard(Adapters, Source):
    """A model as experiments know it: its pipeline's source, adapters laid over it, and what else makes it up.

    Attributes:
        summary: one line.
        pipeline: diffusers class; null means the one that the folder names.
        network: source of a denoiser that takes the place of the pipeline's own; empty means the pipeline's own.
        vae: the same of the autoencoder.
        controlnet: source of a ControlNet, for a pipeline that takes one.
        motion_adapter: source of AnimateDiff's motion layers.
        dtype: what it runs in.
        height: native height in pixels; null means the pipeline's default.
        width: native width in pixels.
        scheduler: laid over the scheduler that the folder holds.
        guidance_scale: usual guidance; null means the pipeline's default.
        strength: usual share of the noise that image-to-image starts from; null means the pipeline's default.
        frames: usual length of a video; null means the pipeline's default.
        dual_encoder: CLIPModel folder for features and text scores, relative to the package; null if there is none.
        structure: file of `configs/structures` with the network's shapes, for counting MACs without weights.
    """

    summary: str = ""
    pipeline: str | None = None
    network: Source = field(default_factory=Source)
    vae: Source = field(default_factory=Source)
    controlnet: Source = field(default_factory=Source)
    motion_adapter: Source = field(default_factory=Source)
    dtype: str = "float32"
    height: int | None = None
    width: int | None = None
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    guidance_scale: float | None = None
    strength: float | None = None
    frames: int | None = None
    dual_encoder: str | None = None
    structure: str | None = None

    def usual(self, config: Any) -> dict[str, Any]:
        """Guidance, height and width of a run: its config's, or where that has none the card's; None if neither has."""
        return self._filled(config, ("guidance_scale", "height", "width"))

    def of_task(self, config: Any) -> dict[str, Any]:
        """The same of what only some tasks have: strength and frames."""
        return self._filled(config, ("strength", "frames"))

    def _filled(self, config: Any, names: tuple[str, ...]) -> dict[str, Any]:
        return {name: value if (value := getattr(config, name)) is not None else getattr(self, name) for name in names}


def card(name: str) -> ModelCard:
    """The card of that name, or a card made up for a pipeline folder.

    Raises:
        UsageError: neither a known name nor a folder that holds a pipeline, or a card that contradicts itself.
    """
    if name in catalog.names("models"):
        file = catalog.path("models", name)
        found = merged(ModelCard, [(str(file), read_yaml(file))])
        sources.check(found, f"{file}: give")
        for key, source in _parts(found).items():
            sources.check(source, f"{file}: give '{key}'")
            if found.pipeline is None:
                raise UsageError(f"{file}: '{key}' is a part of a pipeline; name its class under 'pipeline'")
        check_adapters(found, str(file))
        return found
    folder = Path(name).expanduser()
    if folder.is_dir():
        encoder = folder.resolve() / "dual_encoder"
        return ModelCard(folder=str(folder.resolve()), dual_encoder=str(encoder) if encoder.is_dir() else None)
    if "/" in name or folder.exists():
        raise UsageError(f"model '{name}' is not a folder; give a pipeline folder, or a name of 'postdiff list models'")
    catalog.path("models", name)
    raise AssertionError("catalog knew a name that it did not list")


def checkpoint(model: ModelCard) -> str:
    """What the weights are: a hash over a folder's weight files, or `repository@commit[:variant]` on the hub.

    A replacement network's own identity follows after a "+", and that of other parts and adapters after "+name=". A
    branch or tag is looked up, so that what a record says stays true when the branch moves on.

    Raises:
        UsageError: the folder is no pipeline, holds weights in pickle format only, or the hub cannot be asked.
    """
    found = sources.identity(model, lambda folder: weights.pipeline_hash(weights.checked_pipeline(folder)))
    for key, source in _parts(model).items():
        of_part = sources.identity(source, lambda folder: weights.network_hash(weights.checked_network(folder)))
        found += f"+{of_part}" if key == "network" else f"+{key}={of_part}"
    return found + described(model)


def pipeline_class(model: ModelCard) -> Any | None:
    """The diffusers class, or None where only the hub knows it.

    Raises:
        UsageError: a folder that is no pipeline, or a class that this diffusers does not have.
    """
    if model.pipeline is not None:
        return _pipeline_class(model.pipeline, "model card")
    return None if model.folder is None else _folders_class(weights.checked_pipeline(package_file(model.folder)))


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
    for key, source in _parts(model).items():
        part = family_of(_pipeline_class(str(model.pipeline), "model card")).network if key == "network" else key
        given[part] = _load_network(source, options)
    if model.hub is not None:
        folder = hub.fetch_pipeline(model.hub, model.revision, model.variant, given)
    else:
        folder = package_file(str(model.folder))
    weights.checked_pipeline(folder)
    cls = _pipeline_class(model.pipeline, folder) if model.pipeline else _folders_class(folder)
    if "safety_checker" in inspect.signature(cls).parameters:
        # A false alarm would put a black picture among those that are measured.
        given |= {"safety_checker": None, "requires_safety_checker": False}
    pipe = _loaded(cls, folder, variant=model.variant, **given, **options)
    lay_over(pipe, model)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def _load_network(source: Source, options: dict[str, Any]) -> Any:
    import diffusers

    return _loaded(diffusers.AutoModel, sources.network_folder(source), variant=source.variant, **options)


def _parts(model: ModelCard) -> dict[str, Source]:
    """Networks that the card brings from elsewhere."""
    named = {key: getattr(model, key) for key in (*REPLACED, *ADDED)}
    return {key: source for key, source in named.items() if source.given}


def _folders_class(folder: Path) -> Any:
    return _pipeline_class(str(json.loads((folder / "model_index.json").read_text()).get("_class_name")), folder)


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
