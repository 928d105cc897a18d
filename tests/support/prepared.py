"""Pipelines as people prepare them, for less memory or other images: the list that a test and a table are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.support import preparations as by
from tests.support.cases import Case

__all__ = ["FAMILIES", "PREPARATIONS", "Preparation"]

FAMILIES = {"Stable Diffusion": "sd", "SDXL": "sdxl", "PixArt": "pixart_sigma", "Flux": "flux"}
UNETS, WITH_VAE, ALL = ("sd", "sdxl"), ("sd", "sdxl", "pixart_sigma"), tuple(FAMILIES.values())
TAKES_LORA = (*UNETS, "flux")
ROUNDING = 2e-5


@dataclass(frozen=True)
class Preparation:
    """Something done to a pipeline before it is accelerated.

    Attributes:
        title: how people write it, in Markdown.
        prepare: does it to a fresh case.
        twin: makes another fresh case compute the same without it; None where only the bare pipeline does.
        families: those that know it.
        tolerance: between the two, relative to the largest number.
    """

    title: str
    prepare: Callable[[Case], None]
    twin: Callable[[Case], None] | None
    families: tuple[str, ...] = ALL
    tolerance: float = 0.0


PREPARATIONS = {
    "model_offload": Preparation("`pipe.enable_model_cpu_offload()`", by.model, by.as_it_is),
    "offload_with_hook": Preparation("`accelerate.cpu_offload_with_hook(network)`", by.with_hook, by.as_it_is),
    "sequential_offload": Preparation("`pipe.enable_sequential_cpu_offload()`", by.sequential, by.as_it_is),
    "dispatched": Preparation("`accelerate.dispatch_model(network, ...)`", by.dispatched, by.as_it_is),
    "aligned": Preparation("accelerate's `AlignDevicesHook`", by.aligned, by.as_it_is),
    "leaf_groups": Preparation('`pipe.enable_group_offload(..., offload_type="leaf_level")`', by.leaves, by.as_it_is),
    "block_groups": Preparation("`pipe.enable_group_offload(..., num_blocks_per_group=1)`", by.blocks, by.as_it_is),
    "groups_of_two": Preparation("`network.enable_group_offload(..., num_blocks_per_group=2)`", by.pairs, by.as_it_is),
    "vae_slicing": Preparation("`pipe.vae.enable_slicing()`", by.sliced, by.decoded, WITH_VAE, ROUNDING),
    "vae_tiling": Preparation("`pipe.vae.enable_tiling()`", by.tiled, None, WITH_VAE),
    "compiled_vae": Preparation(
        "`pipe.vae.decode = torch.compile(...)`", by.compiled_vae, by.decoded, ("sd",), ROUNDING
    ),
    "attention_slicing": Preparation(
        "`pipe.enable_attention_slicing()`", by.attention_slices, by.as_it_is, UNETS, ROUNDING
    ),
    "foreign_processors": Preparation("attention processors of other packages, as xFormers'", by.foreign, by.as_it_is),
    "fused_qkv": Preparation("`network.fuse_qkv_projections()`", by.fused_projections, by.as_it_is, ALL, ROUNDING),
    "freeu": Preparation("`pipe.enable_freeu(...)`", by.freeu, None, UNETS),
    "channels_last": Preparation(
        "`network.to(memory_format=torch.channels_last)`", by.channels_last, by.as_it_is, WITH_VAE, ROUNDING
    ),
    "lora": Preparation("a LoRA", by.one_lora, by.merged(by.one_lora), TAKES_LORA, ROUNDING),
    "fused_lora": Preparation("a LoRA, fused", by.fused_lora, by.merged(by.fused_lora), TAKES_LORA, ROUNDING),
    "two_loras": Preparation("two LoRAs with scales", by.two_loras, by.merged(by.two_loras), TAKES_LORA, ROUNDING),
    "peft_model": Preparation("a `PeftModel` for the network", by.peft_model, by.merged_peft_model, ALL, ROUNDING),
    "parallel": Preparation("`DataParallel(network)`", by.parallel, by.as_it_is),
    "ip_adapter": Preparation("an IP-Adapter", by.ip_adapter, None, UNETS),
    "textual_inversion": Preparation("a learnt word", by.learnt_word, by.learnt_embeddings, ("sd",)),
    "half": Preparation("`pipe.to(torch.float16)`", by.half, by.as_it_is, ALL, 0.1),
    "layerwise_casting": Preparation(
        "`network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn)`",
        by.stored_in_8_bits,
        by.rounded_to_8_bits,
    ),
    "torchao": Preparation("weights in 8 bits by torchao", by.int8, by.rounded_to_int8, ALL, ROUNDING),
}
