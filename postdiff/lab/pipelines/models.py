"""Loading the pipeline behind a model card: from the package, a folder or the hub; safetensors only."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from postdiff import hub, model_files, sources, weights
from postdiff.engine.errors import UsageError
from postdiff.engine.family import family_of
from postdiff.engine.intercept import intercept
from postdiff.lab.files.sources import Source, package_file
from postdiff.lab.files.weights import file_hash
from postdiff.lab.pipelines import folder_values, loading, quantization
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
    "other_class",
    "package_file",
    "pipeline_class",
]


def checkpoint(model: ModelCard) -> str:
    """What the model is: a hash over a folder's weights, configs and vocabularies, or `repository@commit[:variant]`.

    A replacement network's own identity follows after a "+", and that of other parts, adapters and quantisation after
    "+name=". A branch or tag is looked up, so that what a record says stays true when the branch moves on; files of the
    hub that were changed by hand follow after "~". Of a cascade it is "stage=identity;stage=identity".

    Raises:
        UsageError: the folder is no pipeline, holds weights in pickle format only, or the hub cannot be asked; or there
            are no weights.
    """
    if not model.stages:
        if not model.weights_given:
            raise UsageError("the model card names a structure alone and no weights; use weights=random")
        return _checkpoint(model)
    found = []
    for name, stage in model.stages.items():
        try:
            found.append(f"{name}={_checkpoint(stage)}")
        except UsageError as error:
            raise UsageError(f"stage '{name}': {error}") from error
    return ";".join(found)


def _checkpoint(model: PipelineCard) -> str:
    found = sources.identity(model, lambda folder: weights.pipeline_hash(folder, model.variant))
    for key, source in parts(model).items():
        found += f"+{_network(source)}" if key == "network" else f"+{key}={_network(source)}"
    return found + described(model) + quantization.described(model.quantization)


def _network(source: Source) -> str:
    return sources.identity(source, lambda folder: weights.network_hash(folder, source.variant))


def other_class(model: PipelineCard) -> str | None:
    """The pipeline class that a card names, unless it is the one that its folder names; of the hub, in any case."""
    if model.pipeline is None or model.hub is not None:
        return model.pipeline
    own = weights.pipeline_index(package_file(str(model.folder))).get("_class_name")
    return None if own == model.pipeline else model.pipeline


def pipeline_class(model: PipelineCard) -> Any | None:
    """The diffusers class, or None where only the hub knows it.

    Raises:
        UsageError: a folder that is no pipeline, or a class that this diffusers does not have.
    """
    if model.pipeline is not None:
        return _pipeline_class(model.pipeline, "model card")
    return None if model.folder is None else _folders_class(package_file(model.folder))


def load(model: PipelineCard, dtype: str, device: str) -> Any:
    """The pipeline, on the device, silent.

    Args:
        model: the card of one pipeline, which may be a stage of a cascade.
        dtype: name of a torch dtype.
        device: name of a torch device.

    Raises:
        UsageError: not a pipeline, pickle weights, unknown class, a missing package, or a hub that cannot be reached.
    """
    from diffusers import PipelineQuantizationConfig
    from diffusers.utils import is_accelerate_available

    options: dict[str, Any] = {
        "dtype": getattr(torch, dtype),
        "use_safetensors": True,
        "low_cpu_mem_usage": is_accelerate_available(),
    }
    quantization.check(model.quantization, device)
    elsewhere = {_denoiser(model) if key == "network" else key: source for key, source in parts(model).items()}
    given: dict[str, Any] = dict.fromkeys(elsewhere)
    if model.quantization.method == "gguf":
        given[_denoiser(model)] = None
    if isinstance(model, StageCard) and model.shared_text:
        # The largest part of DeepFloyd-IF's second stage, which the first has too.
        given |= {"text_encoder": None, "tokenizer": None}
    if model.hub is not None:
        folder = hub.fetch_pipeline(model.hub, model.revision, model.variant, given)
    else:
        folder = package_file(str(model.folder))
    cls = _pipeline_class(model.pipeline, folder) if model.pipeline else _folders_class(folder)
    fewer_bits = _quantized(model, cls, folder, options["dtype"])
    for name, source in elsewhere.items():
        own = {"quantization_config": fewer_bits.pop(name)} if name in fewer_bits else {}
        given[name] = _load_network(source, options | own)
    if model.quantization.method == "gguf":
        given[_denoiser(model)] = _from_single_file(model, options["dtype"])
    if fewer_bits:
        options["quantization_config"] = PipelineQuantizationConfig(quant_mapping=fewer_bits)
    files = weights.pipeline_files(folder, model.variant, given)
    folder_values.check(files)
    loading.check_parts(cls, given)
    # A false alarm would put a black picture among those that are measured.
    unchecked = {weights.UNUSED: None, "requires_safety_checker": False}
    given |= {name: value for name, value in unchecked.items() if name in inspect.signature(cls).parameters}
    pipe = _loaded(cls, folder, files, variant=model.variant, **given, **options)
    _refuse_wordless(pipe, folder)
    lay_over(pipe, model)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def _denoiser(model: PipelineCard) -> str:
    """What the class that a card names calls its denoiser."""
    return family_of(_pipeline_class(str(model.pipeline), "model card")).network


def _quantized(model: PipelineCard, cls: Any, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    if not model.quantization.given:
        return {}
    return quantization.configs(model.quantization, family_of(cls).network, weights.networks(folder), dtype)


def _from_single_file(model: PipelineCard, dtype: torch.dtype) -> Any:
    """The denoiser from a GGUF file; its shape is that of the pipeline's own."""
    import diffusers

    name = _denoiser(model)
    if model.hub is not None:
        folder = hub.fetch_file(model.hub, model.revision, f"{name}/config.json").parent
    else:
        folder = package_file(str(model.folder)) / name
    config = diffusers.AutoModel.load_config(str(folder), local_files_only=True)
    with _quietly():
        return quantization.single_file(model.quantization, getattr(diffusers, config["_class_name"]), folder, dtype)


def _refuse_wordless(pipe: Any, folder: Path) -> None:
    """A tokenizer without its vocabulary is made in silence, and knows no word."""
    for name, part in pipe.components.items():
        known = [*getattr(part, "vocab_files_names", {}).values(), "tokenizer.model", "tekken.json"]
        if len(known) > 2 and not any((folder / name / file).is_file() for file in known):
            raise UsageError(f"{folder / name} has no vocabulary ({' or '.join(known[:-2])}); {model_files.FETCH}")


def _load_network(source: Source, options: dict[str, Any]) -> Any:
    import diffusers

    folder = sources.network_folder(source)
    files = weights.network_files(folder, source.variant)
    folder_values.check(files)
    return _loaded(diffusers.AutoModel, folder, files, variant=source.variant, **options)


def _folders_class(folder: Path) -> Any:
    return _pipeline_class(str(weights.pipeline_index(folder).get("_class_name")), folder)


def _pipeline_class(name: str, where: object) -> Any:
    import diffusers

    cls = getattr(diffusers, name, None)
    if cls is None:
        raise UsageError(f"{where}: this diffusers has no pipeline class '{name}'; install a newer one")
    if not (isinstance(cls, type) and issubclass(cls, diffusers.DiffusionPipeline)):
        raise UsageError(f"{where}: '{name}' is no pipeline of diffusers; name the pipeline's class")
    return cls


@contextmanager
def _quietly() -> Iterator[None]:
    """Within the block diffusers logs nothing: what is wrong it raises as well, and a mistake is told in one line.

    Who sets DIFFUSERS_VERBOSITY wants to read its warnings.
    """
    wanted = "DIFFUSERS_VERBOSITY" in os.environ

    def passes(record: logging.LogRecord) -> bool:
        return wanted and record.levelno < logging.ERROR

    handlers = logging.getLogger("diffusers").handlers
    for handler in handlers:
        handler.addFilter(passes)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(passes)


@contextmanager
def _whole() -> Iterator[None]:
    """Within the block, transformers refuses weights that lack some of a model's, which it would draw at random."""
    from transformers import modeling_utils

    def around(report: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
        found = inspect.signature(report).bind(model, *args, **kwargs).arguments.get("loading_info")
        if missing := sorted(getattr(found, "missing_keys", None) or ()):
            raise ValueError(f"{len(missing)} weights of its {type(model).__name__} are missing: {missing[0]}, ...")
        return report(model, *args, **kwargs)

    with intercept(modeling_utils, "log_state_dict_report", around):
        yield


def _loaded(cls: Any, folder: Path, files: Sequence[Path], **options: Any) -> Any:
    try:
        what = f"{folder} cannot be loaded as {cls.__name__}"
        with _quietly(), model_files.shown(files, folder, what) as seen, _whole():
            return cls.from_pretrained(str(seen), local_files_only=True, **options)
    except UsageError as error:
        if importlib.util.find_spec("sentencepiece") is None and any(folder.glob("*/spiece.model")):
            raise UsageError(
                f"{folder} cannot be loaded as {cls.__name__}: its tokenizer needs a package that is not installed; "
                "pip install sentencepiece protobuf"
            ) from error
        raise
