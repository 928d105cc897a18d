"""Loading the pipeline behind a model card: from the package, a folder or the hub; safetensors only."""

from __future__ import annotations

import importlib.util
import inspect
import json
from pathlib import Path
from typing import Any

from postdiff.engine.errors import UsageError
from postdiff.engine.family import family_of
from postdiff.lab.files import hub, sources, weights
from postdiff.lab.files.sources import Source, package_file
from postdiff.lab.files.weights import file_hash
from postdiff.lab.pipelines import folder_values, loading
from postdiff.lab.pipelines.adapters import described, lay_over
from postdiff.lab.pipelines.cards import ModelCard, PipelineCard, StageCard, card, parts

__all__ = [
    "ModelCard",
    "PipelineCard",
    "Source",
    "StageCard",
    "card",
    "checkpoint",
    "file_hash",
    "load",
    "package_file",
    "pipeline_class",
]


def checkpoint(model: ModelCard) -> str:
    """What the weights are: a hash over a folder's weight files, or `repository@commit[:variant]` on the hub.

    A replacement network's own identity follows after a "+", and that of other parts and adapters after "+name=". A
    branch or tag is looked up, so that what a record says stays true when the branch moves on. Of a cascade it is
    "stage=identity;stage=identity".

    Raises:
        UsageError: the folder is no pipeline, holds weights in pickle format only, or the hub cannot be asked.
    """
    if not model.stages:
        return _checkpoint(model)
    found = []
    for name, stage in model.stages.items():
        try:
            found.append(f"{name}={_checkpoint(stage)}")
        except UsageError as error:
            raise UsageError(f"stage '{name}': {error}") from error
    return ";".join(found)


def _checkpoint(model: PipelineCard) -> str:
    found = sources.identity(model, lambda folder: weights.pipeline_hash(weights.checked_pipeline(folder)))
    for key, source in parts(model).items():
        of_part = sources.identity(source, lambda folder: weights.network_hash(weights.checked_network(folder)))
        found += f"+{of_part}" if key == "network" else f"+{key}={of_part}"
    return found + described(model)


def pipeline_class(model: PipelineCard) -> Any | None:
    """The diffusers class, or None where only the hub knows it.

    Raises:
        UsageError: a folder that is no pipeline, or a class that this diffusers does not have.
    """
    if model.pipeline is not None:
        return _pipeline_class(model.pipeline, "model card")
    return None if model.folder is None else _folders_class(weights.checked_pipeline(package_file(model.folder)))


def load(model: PipelineCard, dtype: str, device: str) -> Any:
    """The pipeline, on the device, silent.

    Args:
        model: the card of one pipeline, which may be a stage of a cascade.
        dtype: name of a torch dtype.
        device: name of a torch device.

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
    for key, source in parts(model).items():
        part = family_of(_pipeline_class(str(model.pipeline), "model card")).network if key == "network" else key
        given[part] = _load_network(source, options)
    if isinstance(model, StageCard) and model.shared_text:
        # The largest part of DeepFloyd-IF's second stage, which the first has too.
        given |= {"text_encoder": None, "tokenizer": None}
    if model.hub is not None:
        folder = hub.fetch_pipeline(model.hub, model.revision, model.variant, given)
    else:
        folder = package_file(str(model.folder))
    weights.checked_pipeline(folder)
    cls = _pipeline_class(model.pipeline, folder) if model.pipeline else _folders_class(folder)
    # A false alarm would put a black picture among those that are measured.
    folder_values.check(sorted(folder.glob("*/*config.json")))
    loading.check_parts(cls, given)
    unchecked = {"safety_checker": None, "requires_safety_checker": False}
    given |= {name: value for name, value in unchecked.items() if name in inspect.signature(cls).parameters}
    pipe = _loaded(cls, folder, variant=model.variant, **given, **options)
    lay_over(pipe, model)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def _load_network(source: Source, options: dict[str, Any]) -> Any:
    import diffusers

    return _loaded(diffusers.AutoModel, sources.network_folder(source), variant=source.variant, **options)


def _folders_class(folder: Path) -> Any:
    return _pipeline_class(str(json.loads((folder / "model_index.json").read_text()).get("_class_name")), folder)


def _pipeline_class(name: str, where: object) -> Any:
    import diffusers

    cls = getattr(diffusers, name, None)
    if cls is None:
        raise UsageError(f"{where}: this diffusers has no pipeline class '{name}'; install a newer one")
    if not (isinstance(cls, type) and issubclass(cls, diffusers.DiffusionPipeline)):
        raise UsageError(f"{where}: '{name}' is no pipeline of diffusers; name the pipeline's class")
    return cls


def _loaded(cls: Any, folder: Path, **options: Any) -> Any:
    try:
        return cls.from_pretrained(str(folder), local_files_only=True, **options)
    except Exception as error:  # files that do not fit make libraries raise anything
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            raise
        if importlib.util.find_spec("sentencepiece") is None and any(folder.glob("*/spiece.model")):
            reason = "its tokenizer needs a package that is not installed; pip install sentencepiece protobuf"
        else:
            reason = f"{' '.join(str(error).split())}; fetch it again with a connection, or save it again"
        raise UsageError(f"{folder} cannot be loaded as {cls.__name__}: {reason}") from error
