"""The pipeline behind a model card: what it is, and loading it from the package, a folder or the hub.

Weights are read from safetensors alone.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from postdiff import hub, model_files
from postdiff.engine.errors import UsageError
from postdiff.engine.family import family_of
from postdiff.lab.files import weights
from postdiff.lab.files.weights import package_file
from postdiff.lab.pipelines import adapters, checks, quantization
from postdiff.lab.pipelines.cards import ModelCard, PipelineCard, StageCard, parts

__all__ = ["checkpoint", "load", "other_class", "pipeline_class", "solver"]


def checkpoint(model: PipelineCard) -> str:
    """What the model is: a hash over a folder's weights, configs and vocabularies, or `repository@commit[:variant]`.

    A replacement network's own identity follows after a "+", and that of other parts, adapters and quantisation after
    "+name=". A branch or tag is looked up, so that what a record says stays true when the branch moves on; files of the
    hub that were changed by hand follow after "~". Of a cascade it is "stage=identity;stage=identity".

    Raises:
        UsageError: the folder is no pipeline, holds weights in pickle format only, or the hub cannot be asked; or there
            are no weights.
    """
    if isinstance(model, ModelCard) and model.stages:
        found = []
        for name, stage in model.stages.items():
            try:
                found.append(f"{name}={checkpoint(stage)}")
            except UsageError as error:
                raise UsageError(f"stage '{name}': {error}") from error
        return ";".join(found)
    if model.folder is None and model.hub is None:
        raise UsageError("the model card names a structure alone and no weights; use weights=random")
    identity = weights.identity(model, weights.pipeline_files)
    for key, source in parts(model).items():
        identity += "+" if key == "network" else f"+{key}="
        identity += weights.identity(source, weights.network_files)
    for key, source in adapters.given(model):
        identity += adapters.described(key, source)
    return identity + (quantization.described(model.quantization) if model.quantization.given else "")


def other_class(model: PipelineCard) -> str | None:
    """The pipeline class that a card names, unless it is the one that its folder names; of the hub, in any case."""
    if model.pipeline is None or model.hub is not None:
        return model.pipeline
    own = weights.pipeline_index(package_file(str(model.folder))).get("_class_name")
    return None if own == model.pipeline else model.pipeline


def pipeline_class(model: PipelineCard, folder: Path | None = None) -> Any | None:
    """The diffusers class, or None where only the hub knows it.

    Args:
        model: the card.
        folder: where its files are, if they have been fetched from the hub.

    Raises:
        UsageError: a folder that is no pipeline, or a class that this diffusers does not have.
    """
    import diffusers

    if folder is None and model.folder is not None:
        folder = package_file(model.folder)
    name, where = model.pipeline, "model card"
    if name is None:
        if folder is None:
            return None
        name, where = str(weights.pipeline_index(folder).get("_class_name")), str(folder)
    cls = getattr(diffusers, name, None)
    if cls is None:
        raise UsageError(f"{where}: this diffusers has no pipeline class '{name}'; install a newer one")
    if not (isinstance(cls, type) and issubclass(cls, diffusers.DiffusionPipeline)):
        raise UsageError(f"{where}: '{name}' is no pipeline of diffusers; name the pipeline's class")
    return cls


def solver(model: PipelineCard) -> Any | None:
    """The solver that the card's folder holds, without any weights; None of the hub, where nothing is fetched for it.

    Raises:
        UsageError: the folder is no pipeline.
    """
    import diffusers

    if model.folder is None:
        return None
    folder = package_file(model.folder)
    name = weights.pipeline_index(folder).get("scheduler", [None, None])[1]
    cls = getattr(diffusers, str(name), None)
    return None if cls is None else cls.from_pretrained(folder, subfolder="scheduler", local_files_only=True)


def load(model: PipelineCard, dtype: str, device: str) -> Any:
    """The pipeline, on the device, silent.

    Args:
        model: the card of one pipeline, which may be a stage of a cascade.
        dtype: name of a torch dtype.
        device: name of a torch device.

    Raises:
        UsageError: not a pipeline, pickle weights, unknown class, a missing package, or a hub that cannot be reached.
    """
    from diffusers import AutoModel, PipelineQuantizationConfig
    from diffusers.utils import is_accelerate_available

    options: dict[str, Any] = {
        "dtype": getattr(torch, dtype),
        "use_safetensors": True,
        "low_cpu_mem_usage": is_accelerate_available(),
    }
    fewer, single = model.quantization, model.quantization.method == "gguf"
    if fewer.given:
        quantization.check(fewer, device)
    brought = parts(model)
    # Cards that bring a denoiser name the pipeline's class.
    denoiser = family_of(pipeline_class(model)).network if single or "network" in brought else ""
    elsewhere = {denoiser if key == "network" else key: source for key, source in brought.items()}
    given: dict[str, Any] = dict.fromkeys([*elsewhere, denoiser] if single else elsewhere)
    if isinstance(model, StageCard) and model.shared_text:
        # The largest part of DeepFloyd-IF's second stage, which the first has too.
        given |= {"text_encoder": None, "tokenizer": None}
    if model.hub is not None:
        folder = hub.fetch_pipeline(model.hub, model.revision, model.variant, given)
    else:
        folder = package_file(str(model.folder))
    cls: Any = pipeline_class(model, folder)
    configs = {}
    if fewer.given and not single:
        configs = quantization.configs(fewer, family_of(cls).network, weights.networks(folder), options["dtype"])
    for name, source in elsewhere.items():
        own = {"quantization_config": configs.pop(name)} if name in configs else {}
        part = weights.network_folder(source)
        files = weights.network_files(part, source.variant)
        checks.check_values(files)
        given[name] = _loaded(AutoModel, part, files, variant=source.variant, **options, **own)
    if single:
        config = folder / denoiser  # left out of what is fetched
        if model.hub is not None:
            config = hub.fetch_file(model.hub, model.revision, f"{denoiser}/config.json").parent
        given[denoiser] = quantization.single_file(fewer, config, options["dtype"])
    if configs:
        options["quantization_config"] = PipelineQuantizationConfig(quant_mapping=configs)
    files = weights.pipeline_files(folder, model.variant, given)
    checks.check_values(files)
    checks.check_parts(cls, given)
    # A false alarm would put a black image among those that are measured.
    unchecked = {weights.UNUSED: None, "requires_safety_checker": False}
    given |= {name: value for name, value in unchecked.items() if name in inspect.signature(cls).parameters}
    pipe = _loaded(cls, folder, files, variant=model.variant, **given, **options)
    checks.check_words(pipe, folder)
    for key, source in adapters.given(model):
        adapters.apply_adapters(pipe, key, source)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def _loaded(cls: Any, folder: Path, files: Sequence[Path], **options: Any) -> Any:
    try:
        with model_files.shown(files, folder, f"{folder} cannot be loaded as {cls.__name__}") as seen:
            return checks.complete(lambda: cls.from_pretrained(str(seen), local_files_only=True, **options))
    except UsageError as error:
        if importlib.util.find_spec("sentencepiece") is None and any(folder.glob("*/spiece.model")):
            raise UsageError(
                f"{folder} cannot be loaded as {cls.__name__}: its tokenizer needs a package that is not installed; "
                "pip install sentencepiece protobuf"
            ) from error
        raise
