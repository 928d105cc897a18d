"""Personalised models: what is laid over a pipeline's own weights once it is loaded."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from postdiff import hub
from postdiff.engine.errors import UsageError
from postdiff.lab.config.layers import Finite
from postdiff.lab.files import weights
from postdiff.lab.files.weights import Source, identity, package_file
from postdiff.lab.pipelines.checks import complete

__all__ = ["Adapters", "CustomDiffusion", "Embedding", "Lora", "described", "given", "apply_adapters"]

NAME = "postdiff"


@dataclass
class Lora(Source):
    """Low-rank changes of a network and its text encoders.

    Attributes:
        weight_name: the file.
        scale: how much of the change is added.
        fuse: add it to the weights once, so that it costs no time; else it runs beside them.
    """

    weight_name: str = "pytorch_lora_weights.safetensors"
    scale: Finite = 1.0
    fuse: bool = False

    def load(self, pipe: Any, file: Path) -> None:
        """Lay the file over a pipeline.

        Raises:
            UsageError: peft is not installed.
            ValueError: the file belongs to another network.
        """
        if importlib.util.find_spec("peft") is None:
            raise UsageError("a LoRA needs the package peft, which is not installed; pip install 'postdiff[lora]'")
        pipe.load_lora_weights(
            str(file.parent), weight_name=file.name, adapter_name=NAME, use_safetensors=True, local_files_only=True
        )
        # diffusers passes in silence over a file none of whose names it knows.
        if not any(NAME in names for names in pipe.get_list_adapters().values()):
            raise ValueError("none of its weights belongs to this network")
        pipe.set_adapters([NAME], [self.scale])
        if self.fuse:
            pipe.fuse_lora(adapter_names=[NAME])
            pipe.unload_lora_weights()


@dataclass
class CustomDiffusion(Source):
    """Attention processors as Custom Diffusion trains them.

    Attributes:
        weight_name: the file, as `unet.save_attn_procs` writes it.
    """

    weight_name: str = "pytorch_custom_diffusion_weights.safetensors"

    def load(self, pipe: Any, file: Path) -> None:
        """Put the file's processors into a pipeline's U-Net.

        Raises:
            ValueError: the file belongs to another network.
        """
        from diffusers.models.attention_processor import CustomDiffusionAttnProcessor2_0
        from safetensors.torch import load_file

        # Not `unet.load_attn_procs`: it wants an entry for every attention layer, and safetensors keep none for those
        # without weights of their own.
        by_layer: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, weight in load_file(file).items():
            layer, dot, rest = name.partition(".processor.")
            if not dot or "custom_diffusion" not in rest:
                raise ValueError(f"'{name}' is no weight of Custom Diffusion")
            by_layer[f"{layer}.processor"][rest] = weight
        unet = pipe.unet
        processors = dict(unet.attn_processors)
        for layer, own in by_layer.items():
            if layer not in processors:
                raise ValueError(f"the network has no attention layer '{layer}'")
            hidden, cross = own["to_k_custom_diffusion.weight"].shape
            made = CustomDiffusionAttnProcessor2_0(
                train_kv=True,
                train_q_out="to_q_custom_diffusion.weight" in own,
                hidden_size=hidden,
                cross_attention_dim=cross,
                out_bias="to_out_custom_diffusion.0.bias" in own,
            )
            made.load_state_dict(own)
            processors[layer] = made.to(unet.device, unet.dtype)
        unet.set_attn_processor(processors)


@dataclass
class Embedding(Source):
    """A word learnt by textual inversion, which Custom Diffusion brings along as well.

    Attributes:
        weight_name: the file.
        token: how prompts write the word; null means as the file says.
    """

    weight_name: str = "learned_embeds.safetensors"
    token: str | None = None

    def load(self, pipe: Any, file: Path) -> None:
        """Teach the word to a pipeline's tokenizer and text encoder."""
        pipe.load_textual_inversion(
            str(file.parent), weight_name=file.name, token=self.token, use_safetensors=True, local_files_only=True
        )


@dataclass
class Adapters:
    """What a model card may lay over its pipeline.

    Attributes:
        lora: a LoRA; needs the package peft.
        custom_diffusion: attention processors of Custom Diffusion.
        embeddings: learnt words.
    """

    lora: Lora = field(default_factory=Lora)
    custom_diffusion: CustomDiffusion = field(default_factory=CustomDiffusion)
    embeddings: list[Embedding] = field(default_factory=list)


def given(found: Adapters) -> Iterator[tuple[str, Any]]:
    """What the card has, by its key: words before processors before LoRA, which also wraps what they put in place."""
    for embedding in found.embeddings:
        yield "embeddings", embedding
    if found.custom_diffusion.given:
        yield "custom_diffusion", found.custom_diffusion
    if found.lora.given:
        yield "lora", found.lora


def described(key: str, source: Any) -> str:
    """What a checkpoint's name says of one adapter: "+lora=0123456789abcdef*0.8".

    Args:
        key: of the card.
        source: what it gives there.

    Raises:
        UsageError: a file is missing or in pickle format, or the hub cannot be asked.
    """
    name = source.weight_name
    weights.refuse_pickle(Path(name), key)
    file = identity(source, lambda folder, _: [weights.checked_file(folder, name, key)], name)
    scale = f"*{source.scale:g}{' fused' if source.fuse else ''}" if isinstance(source, Lora) else ""
    token = f"={source.token}" if isinstance(source, Embedding) and source.token is not None else ""
    return f"+{key}={file}{scale}{token}"


def apply_adapters(pipe: Any, key: str, source: Any) -> None:
    """Load one of a card's adapters into a pipeline, which is still on the CPU.

    Args:
        pipe: the pipeline.
        key: of the card.
        source: what it gives there.

    Raises:
        UsageError: a file is missing, does not fit this pipeline, or needs a package that is not there.
    """
    if source.hub is not None:
        file = hub.fetch_file(source.hub, source.revision, source.weight_name)
    else:
        file = weights.checked_file(package_file(str(source.folder)), source.weight_name, key)
    try:
        complete(lambda: source.load(pipe, file), silent=False)
    except UsageError:
        raise
    except (RuntimeError, ValueError, KeyError, AttributeError, TypeError, OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"{key} {file} does not fit {type(pipe).__name__}: {reason[:160]}; use the model it was made for"
        ) from error
