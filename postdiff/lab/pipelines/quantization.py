"""Weights in fewer bits, through the configs of diffusers: bitsandbytes, torchao and GGUF files."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch

from postdiff import hub
from postdiff.engine.errors import UsageError, shown, unknown
from postdiff.engine.values import sound
from postdiff.lab.config.layers import checked
from postdiff.lab.files import weights
from postdiff.lab.files.weights import Source, package_file
from postdiff.lab.pipelines.checks import complete

__all__ = ["Quantization", "check", "check_card", "configs", "described", "single_file"]

# {method: (package, class of that package that says how; None where diffusers' own does)}.
METHODS: dict[str, tuple[str, str | None]] = {
    "bitsandbytes_8bit": ("bitsandbytes", None),
    "bitsandbytes_4bit": ("bitsandbytes", None),
    "torchao_int8": ("torchao", "Int8WeightOnlyConfig"),
    "torchao_int8_dynamic": ("torchao", "Int8DynamicActivationInt8WeightConfig"),
    "torchao_int4": ("torchao", "Int4WeightOnlyConfig"),
    "torchao_float8": ("torchao", "Float8WeightOnlyConfig"),
    "torchao_float8_dynamic": ("torchao", "Float8DynamicActivationFloat8WeightConfig"),
    "gguf": ("gguf", None),
}
INSTALL = "pip install 'postdiff[quantization]'"


def _check_method(name: str) -> None:
    if name not in METHODS:
        raise unknown("quantization.method", name, METHODS)


@dataclass
class Quantization(Source):
    """Weights of a pipeline's networks in fewer bits. What is computed with them stays in the run's dtype.

    All but gguf quantise while they load the pipeline's own weights. A GGUF file, in `folder` or `hub`, takes the place
    of the denoiser's.

    Attributes:
        method: bitsandbytes_8bit, bitsandbytes_4bit, torchao_int8 (weights alone), torchao_int8_dynamic (what goes into
            a layer too), torchao_int4, torchao_float8, torchao_float8_dynamic, or gguf.
        networks: parts of the pipeline whose weights are quantised; none named means the denoiser alone.
        options: of the library's config, for instance bnb_4bit_quant_type: nf4, or group_size: 32.
        weight_name: the GGUF file.
    """

    method: Annotated[str, checked(_check_method)] | None = None
    networks: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    weight_name: str | None = None


def check_card(found: Quantization, pipeline: str | None, network: Source, where: str) -> None:
    """Refuse a card's entry that contradicts itself.

    Args:
        found: of a pipeline that has one.
        pipeline: its class as the card names it.
        network: the denoiser that the card brings from elsewhere.
        where: the file and stage, for messages.

    Raises:
        UsageError: no method, or what does not go with it.
    """
    if found.method is None:
        raise UsageError(f"{where}: 'quantization' names no method; give one of {', '.join(METHODS)}")
    if not sound(found.options):
        raise UsageError(f"{where}: quantization options={shown(found.options)} holds a number that is none")
    from_file = (*dataclasses.asdict(Source()), "weight_name")
    if found.method != "gguf":
        if (extra := next((name for name in from_file if getattr(found, name) is not None), None)) is not None:
            raise UsageError(f"{where}: quantization method={found.method} reads no file; leave out '{extra}'")
        return
    weights.check(found, f"{where}: give 'quantization'")
    _refuse_other(Path(str(found.weight_name)))
    if found.networks or found.options:
        raise UsageError(f"{where}: a GGUF file holds the denoiser as it is; leave out 'networks' and 'options'")
    if pipeline is None:
        raise UsageError(f"{where}: a GGUF file is a part of a pipeline; name its class under 'pipeline'")
    if network.given:
        raise UsageError(f"{where}: 'network' and a GGUF file both bring the denoiser; leave one of them out")


def check(found: Quantization, device: str) -> None:
    """Refuse what this machine cannot do.

    Args:
        found: of a pipeline that has one.
        device: what computes.

    Raises:
        UsageError: a package is missing, or a GPU.
    """
    if str(found.method).startswith("bitsandbytes") and not device.startswith("cuda"):
        raise UsageError(
            f"quantization method={found.method} quantises on a GPU, and this row runs on '{device}'; use torchao_int8 "
            "or gguf, or run on a GPU"
        )
    for package in (METHODS[str(found.method)][0], "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise UsageError(
                f"quantization method={found.method} needs the package {package}, which is not installed; {INSTALL}"
            )


def described(found: Quantization) -> str:
    """What a checkpoint's name says of it: "+quantization=torchao_int8(unet){...}".

    Raises:
        UsageError: a GGUF file is missing or none, or the hub cannot be asked.
    """
    if found.method == "gguf":
        name = str(found.weight_name)
        file = weights.identity(found, lambda folder, _: [_checked(folder / name)], name)
        return f"+quantization=gguf:{file}"
    networks = f"({','.join(sorted(found.networks))})" if found.networks else ""
    options = json.dumps(found.options, sort_keys=True) if found.options else ""
    return f"+quantization={found.method}{networks}{options}"


def configs(found: Quantization, denoiser: str, libraries: Mapping[str, str], dtype: torch.dtype) -> dict[str, Any]:
    """{network: its config}, of diffusers or, for text encoders, of transformers.

    Args:
        found: of a pipeline, with any method but gguf.
        denoiser: what the pipeline calls it.
        libraries: {network of the pipeline: the library it is of}.
        dtype: of the run.

    Raises:
        UsageError: a network that the pipeline does not have, or options that the library does not take.
    """
    method = str(found.method)
    package, how = METHODS[method]
    made: dict[str, Any] = {}
    for name in found.networks or [denoiser]:
        if name not in libraries:
            raise unknown("network to quantise", name, libraries)
        of: Any = importlib.import_module("transformers" if libraries[name] == "transformers" else "diffusers")
        try:
            if package == "bitsandbytes":
                bits = method.rpartition("_")[2]
                compute = {"bnb_4bit_compute_dtype": dtype} if bits == "4bit" else {}
                made[name] = of.BitsAndBytesConfig(**{f"load_in_{bits}": True, **compute, **found.options})
            else:
                torchao = importlib.import_module("torchao.quantization")
                made[name] = of.TorchAoConfig(getattr(torchao, str(how))(**found.options))
        except (TypeError, ValueError, ImportError, AssertionError, RuntimeError) as error:
            raise UsageError(
                f"quantization method={found.method} does not take options={shown(found.options)} "
                f"({shown(str(error) or type(error).__name__, 120)}); correct them"
            ) from error
    return made


def single_file(found: Quantization, config: Path, dtype: torch.dtype) -> Any:
    """The denoiser as a GGUF file holds it.

    Args:
        found: with method gguf.
        config: folder with the config.json of the pipeline's own denoiser, which says class and shape.
        dtype: of the run, in which each layer computes with weights that it widens for the moment.

    Raises:
        UsageError: the file is missing or none, or does not fit.
    """
    import diffusers

    name = str(found.weight_name)
    if found.hub is not None:
        file = _checked(hub.fetch_file(found.hub, found.revision, name))
    else:
        file = _checked(package_file(str(found.folder)) / name)
    cls = getattr(diffusers, diffusers.AutoModel.load_config(str(config), local_files_only=True)["_class_name"])
    bits = diffusers.GGUFQuantizationConfig(compute_dtype=dtype)
    options = {"config": str(config), "quantization_config": bits, "dtype": dtype, "local_files_only": True}
    try:
        return complete(lambda: cls.from_single_file(str(file), **options))
    except (ValueError, KeyError, RuntimeError, OSError, AttributeError, TypeError, IndexError) as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise UsageError(
            f"{file} cannot be loaded as {cls.__name__} ({shown(' '.join(str(error).split()), 120)}); use the file of "
            "this very model"
        ) from error


def _refuse_other(file: Path) -> None:
    if file.suffix != ".gguf":
        raise UsageError(
            f"quantization file {shown(file)} is no .gguf; other formats can run code when loaded: name one under "
            "'weight_name'"
        )


def _checked(file: Path) -> Path:
    _refuse_other(file)
    if not file.is_file():
        there: Sequence[str] = sorted(other.name for other in file.parent.glob("*.gguf"))
        raise UsageError(
            f"quantization file {file} is missing; name the right one under 'weight_name'"
            + (f" ({', '.join(there[:5])} is there)" if there else "")
        )
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise UsageError(f"{file} is no GGUF file, whatever its name; fetch it again")
    return file
