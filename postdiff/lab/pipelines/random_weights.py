"""Published models at their real size with random weights, to time them: speed does not depend on what weights are.

A model card's structure file says what to build; nothing is downloaded. There is no text encoder: random numbers stand
in for encoded prompts, so that its time, the same with every method, is left out. Where the file describes no VAE a
call ends in latents. Images mean nothing, so only speed can be measured.

Modules are made without their own initialisation, and filled with random numbers quickly: 859 million in a second or
so. One block of numbers is generated and dealt out again and again. Its length is a prime, so that no two rows of a
matrix begin at the same place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from postdiff import catalog, model_files
from postdiff.cost import structure_file
from postdiff.engine.errors import UsageError
from postdiff.engine.family import family_of
from postdiff.lab.config import schedulers
from postdiff.lab.data.samples import Sample
from postdiff.lab.pipelines import adapters
from postdiff.lab.pipelines.cards import ModelCard, PipelineCard

__all__ = ["fill", "identity", "inputs", "load", "pipeline_class", "unfilled"]

# What comes from the data also here.
OF_THE_DATA = ("image", "mask_image", "class_labels", "output_type", "num_frames")
BLOCK = 4_194_301
# Below 1, so that predictions stay smaller than the noise that they are taken from. The numbers of a run then stay far
# from the end of float16; infinities are quick to compute with on some machines and slow on others.
GAIN = 0.5

# How modules set their weights. What one of these calls inside, a mode is not asked about again.
DRAWING = (
    *(nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.xavier_uniform_, nn.init.xavier_normal_),
    *(nn.init.uniform_, nn.init.normal_, nn.init.trunc_normal_, Tensor.uniform_, Tensor.normal_),
)


def identity(card: ModelCard, name: str) -> dict[str, str]:
    """What stands for the weights in records: "random:" and the structure; of one of one's own, its hash as well.

    Args:
        card: the model card.
        name: what the model is called.

    Raises:
        UsageError: a card that does not say all that is needed.
    """
    if card.stages:
        found = [_identity(stage, f"stage '{own}' of model '{name}'") for own, stage in card.stages.items()]
        keys = sorted({key for one in found for key in one})
        return {key: "+".join(one[key] for one in found if key in one) for key in keys}
    return _identity(card, f"model '{name}'")


def _identity(card: PipelineCard, who: str) -> dict[str, str]:
    if card.structure is None:
        raise UsageError(
            f"weights=random builds a model from its structure, and {who} names none; give its card one, or use "
            "weights=trained"
        )
    # What is fused into the weights is as random as they are.
    extras = (key for key, source in adapters.given(card) if not getattr(source, "fuse", False))
    if (extra := next(extras, None)) is not None:
        raise UsageError(
            f"weights=random knows no adapters, and {who} has '{extra}'; fuse a LoRA, use a model without, or "
            "weights=trained"
        )
    if card.quantization.given:
        raise UsageError(
            f"weights=random knows no quantisation, and {who} has some; use a model without, or weights=trained"
        )
    own = pipeline_class(card).__name__
    if card.pipeline not in (None, own):
        raise UsageError(
            f"{who} is a {card.pipeline}, and its structure '{card.structure}' describes a {own}; give its card a "
            "structure of that, or use weights=trained"
        )
    file = catalog.path("structures", card.structure)
    own_structure = {} if catalog.shipped(file) else {"structure": model_files.sha256(file)}
    return {"checkpoint": f"random:{card.structure}", **own_structure}


def pipeline_class(card: PipelineCard) -> Any:
    """The diffusers class that the card's structure names.

    Raises:
        UsageError: a structure that does not exist or does not fit.
    """
    return structure_file.read(str(card.structure)).pipeline


def load(card: PipelineCard, dtype: str, device: str, seed: int = 0) -> Any:
    """The pipeline around random weights, on the device, silent, with the solver that `postdiff macs` counts with.

    Args:
        card: with a structure.
        dtype: name of a torch dtype.
        device: name of a torch device.
        seed: of the weights, which are the same on every device but for rounding.

    Raises:
        UsageError: a structure that does not exist or does not fit.
    """
    structure = structure_file.read(str(card.structure))
    with unfilled():
        modules = dict(structure.networks())
        if (vae := structure.vae()) is not None:
            modules["vae"] = vae
    for module in modules.values():
        fill(module, getattr(torch, dtype), device, seed)
    return structure.assembled(modules, schedulers.stand_in(card.scheduler))


def inputs(card: PipelineCard, pipe: Any, samples: Sequence[Sample]) -> dict[str, Any]:
    """Arguments of a call in the place of prompts: what the structure file names.

    A sample's numbers follow from its seed and line alone, with a generator of their own, so that the one that draws
    its noise stands where it would stand with prompts.

    Args:
        card: with a structure.
        pipe: as `load` gives it.
        samples: one row each.

    Returns:
        {argument: (samples, ...) on the network's device and in its dtype}, whole masks, and the arguments of file and
        card.
    """
    structure = structure_file.read(str(card.structure))
    network = getattr(pipe, family_of(pipe).network)
    found = {name: value for name, value in structure.arguments.items() if name not in OF_THE_DATA}
    # The card's words are as good as encoded by what stands for prompts.
    found |= {name: value for name, value in card.arguments.items() if not name.startswith("negative_prompt")}
    for name, shape in structure.conditions.items():
        if name in OF_THE_DATA:
            continue
        if name.endswith("_mask"):
            rows = torch.ones(len(samples), *shape)
        else:
            rows = torch.stack([_row(name, shape, sample) for sample in samples])
        # Weights may wait elsewhere than where the pipeline works.
        found[name] = structure.given(name, rows.to(pipe._execution_device, network.dtype))
    if getattr(pipe, "vae", ...) is None:
        found["output_type"] = "latent"  # without a decoder; a pipeline that generates pixels knows of none
    return found


def _row(name: str, shape: Sequence[int], sample: Sample) -> Tensor:
    """Standard normal numbers, as layer norms at the end of text encoders give them."""
    # The negative prompt is one and the same, "", for all samples.
    origin = name if name.startswith("negative") else f"{name}:{sample.seed}:{sample.line}"
    digest = hashlib.sha256(origin.encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(*shape, generator=generator)


@contextmanager
def unfilled() -> Iterator[None]:
    """Make modules whose large weights are not set: memory that is never written to is never taken.

    Drawing initial values, which `fill` replaces, takes far longer than all else. Buffers, which hold tables, are made
    as always. The global random numbers are left where they were.
    """

    class NotDrawn(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function in DRAWING:
                return args[0] if args else kwargs["tensor"]
            return function(*args, **(kwargs or {}))

    with torch.random.fork_rng(devices=[]), NotDrawn():
        yield


def fill(module: nn.Module, dtype: torch.dtype, device: str, seed: int = 0) -> None:
    """Give a module its dtype, its device and random weights, in place.

    Weights are normal and get smaller with the number of inputs, which keeps the size of activations; biases are 0
    and the factors of norms 1. Parts that diffusers keeps in float32 stay so.

    Args:
        module: as made within `unfilled`.
        dtype: of its weights.
        device: where they go.
        seed: of the numbers.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    block = torch.randn(BLOCK, generator=generator).to(device)
    exact = tuple(getattr(type(module), "_keep_in_fp32_modules", None) or ())
    begin = 0
    for name, parameter in module.named_parameters():
        own = torch.float32 if any(part in exact for part in name.split(".")) else dtype
        made = torch.empty(parameter.shape, dtype=own, device=device)
        if parameter.ndim < 2:
            made.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            inputs = parameter.numel() // parameter.shape[0]
            flat, done = made.view(-1), 0
            while done < flat.numel():
                part = block[begin : begin + flat.numel() - done]
                flat[done : done + part.numel()].copy_(part)
                done, begin = done + part.numel(), (begin + part.numel()) % block.numel()
            made.mul_(GAIN * inputs**-0.5)
        parameter.data = made
    for name, table in module.named_buffers():
        owner, _, last = name.rpartition(".")
        kept = table.dtype if not table.is_floating_point() or last in exact else dtype
        setattr(module.get_submodule(owner), last, table.to(device, kept))
