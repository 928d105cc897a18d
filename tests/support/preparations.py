"""What people do to a pipeline before they accelerate it, and to another so that it computes the same in plain."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.support import texts
from tests.support.cases import Case, embed

CPU = torch.device("cpu")


def network(case: Case) -> Any:
    """The denoiser, as the pipeline has it."""
    return case.pipe.unet if hasattr(case.pipe, "unet") else case.pipe.transformer


def replace(case: Case, net: Any) -> None:
    setattr(case.pipe, "unet" if hasattr(case.pipe, "unet") else "transformer", net)


def as_it_is(case: Case) -> None:
    pass


def decoded(case: Case) -> None:
    usual = case.arguments
    case.arguments = lambda ids: {**usual(ids), "output_type": "pt"}


# Offloading. A CPU computes here; on disk, weights that nobody brought back are numbers of nothing.


def model(case: Case) -> None:
    case.pipe.enable_model_cpu_offload(device="cpu")


def with_hook(case: Case) -> None:
    from accelerate import cpu_offload_with_hook

    cpu_offload_with_hook(network(case), CPU)


def sequential(case: Case) -> None:
    case.pipe.enable_sequential_cpu_offload(device="cpu")
    without_number(case)


def without_number(case: Case) -> None:
    """diffusers says "cpu:0", which to torch is another device than "cpu"."""
    for part in case.pipe.components.values():
        for module in part.modules() if isinstance(part, nn.Module) else ():
            hook = getattr(module, "_hf_hook", None)
            for each in getattr(hook, "hooks", [hook]):
                if getattr(each, "execution_device", None) is not None:
                    each.execution_device = CPU


def dispatched(case: Case) -> None:
    from accelerate import dispatch_model

    dispatch_model(network(case), {"": "cpu"}, force_hooks=True)


def aligned(case: Case) -> None:
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    add_hook_to_module(network(case), AlignDevicesHook(execution_device=CPU, io_same_device=True))


def leaves(case: Case) -> None:
    _groups(case.pipe, offload_type="leaf_level")


def blocks(case: Case) -> None:
    _groups(case.pipe, offload_type="block_level", num_blocks_per_group=1)


def pairs(case: Case) -> None:
    _groups(network(case), offload_type="block_level", num_blocks_per_group=2)


def _groups(owner: Any, **options: Any) -> None:
    owner.enable_group_offload(CPU, CPU, offload_to_disk_path=tempfile.mkdtemp(), **options)


def sliced(case: Case) -> None:
    decoded(case)
    case.pipe.vae.enable_slicing()


def tiled(case: Case) -> None:
    decoded(case)
    case.pipe.vae.enable_tiling()
    case.pipe.vae.tile_sample_min_size, case.pipe.vae.tile_latent_min_size = 8, 4


def compiled_vae(case: Case) -> None:
    decoded(case)
    case.pipe.vae.decode = torch.compile(case.pipe.vae.decode, backend="eager")


class _Foreign:
    """An attention processor of a class that nobody has heard of."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Any = None,
        *more: Any,
        **given: Any,
    ) -> Any:
        return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, *more, **given)


def foreign(case: Case) -> None:
    for module in network(case).modules():
        if hasattr(module, "processor"):
            module.processor = _Foreign(module.processor)


def attention_slices(case: Case) -> None:
    case.pipe.enable_attention_slicing(1)


def fused_projections(case: Case) -> None:
    network(case).fuse_qkv_projections()


def freeu(case: Case) -> None:
    case.pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)


def channels_last(case: Case) -> None:
    network(case).to(memory_format=torch.channels_last)


def _lora(seed: int, rank: int = 2) -> Any:
    from peft import LoraConfig

    torch.manual_seed(seed)
    return LoraConfig(r=rank, target_modules=["to_q", "to_v"], init_lora_weights=False)


def one_lora(case: Case) -> None:
    network(case).add_adapter(_lora(0), "one")


def fused_lora(case: Case) -> None:
    one_lora(case)
    network(case).fuse_lora(lora_scale=0.7)


def two_loras(case: Case) -> None:
    one_lora(case)
    network(case).add_adapter(_lora(1, rank=3), "two")
    network(case).set_adapters(["one", "two"], [0.5, 1.5])


def merged(prepare: Callable[[Case], None], scale: float = 1.0) -> Callable[[Case], None]:
    """The LoRAs added to the weights of a network that knows nothing of them."""

    def twin(case: Case) -> None:
        prepare(case)
        if prepare is not fused_lora:
            network(case).fuse_lora(lora_scale=scale)
        network(case).unload_lora()

    return twin


def peft_model(case: Case) -> None:
    from peft import get_peft_model

    replace(case, get_peft_model(network(case), _lora(0)).eval())


def merged_peft_model(case: Case) -> None:
    peft_model(case)
    replace(case, network(case).merge_and_unload())


class _Parallel(nn.DataParallel):
    """Of which a pipeline can ask what it asks its network."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


def parallel(case: Case) -> None:
    replace(case, _Parallel(network(case)))


def ip_adapter(case: Case) -> None:
    net, width = case.pipe.unet, 16
    draw = torch.Generator().manual_seed(5)
    attentions = [module for name, module in net.named_modules() if name.endswith("attn2")]
    weights = {
        f"{2 * place + 1}.to_{which}_ip.weight": torch.randn(at.inner_dim, at.cross_attention_dim, generator=draw) / 4
        for place, at in enumerate(attentions)
        for which in ("k", "v")
    }
    cross = net.config.cross_attention_dim
    image = {
        "proj.weight": torch.randn(4 * cross, width, generator=draw) / 4,
        "proj.bias": torch.zeros(4 * cross),
        "norm.weight": torch.ones(cross),
        "norm.bias": torch.zeros(cross),
    }
    net._load_ip_adapter_weights([{"image_proj": image, "ip_adapter": weights}], low_cpu_mem_usage=False)
    case.pipe.set_ip_adapter_scale(0.8)
    usual = case.arguments
    case.arguments = lambda ids: {
        **usual(ids),
        "ip_adapter_image_embeds": [torch.cat([torch.zeros(len(ids), 1, width), embed(ids, 1, width, salt=9)])],
    }


def learnt_word(case: Case) -> None:
    case.pipe.register_modules(text_encoder=texts.clip_text(), tokenizer=texts.clip_tokenizer())
    width = case.pipe.text_encoder.get_input_embeddings().weight.shape[1]
    learnt = torch.randn(width, generator=torch.Generator().manual_seed(3))
    case.pipe.load_textual_inversion({"<thing>": learnt}, token="<thing>")
    usual = case.arguments

    def arguments(ids: list[int]) -> dict[str, Any]:
        given = {name: value for name, value in usual(ids).items() if not name.endswith("prompt_embeds")}
        return {**given, "prompt": ["a <thing>"] * len(ids), "negative_prompt": ["a cat"] * len(ids)}

    case.arguments = arguments


def learnt_embeddings(case: Case) -> None:
    usual = case.arguments
    other = Case(copy.copy(case.pipe), usual)
    learnt_word(other)
    with torch.no_grad():
        words, negative = other.pipe.encode_prompt(["a <thing>"] * 2, CPU, 1, True, negative_prompt=["a cat"] * 2)
    case.arguments = lambda ids: {
        **usual(ids), "prompt_embeds": words[: len(ids)], "negative_prompt_embeds": negative[: len(ids)]
    }  # fmt: skip


def half(case: Case) -> None:
    case.pipe.to(torch.float16)
    usual = case.arguments

    def arguments(ids: list[int]) -> dict[str, Any]:
        return {name: each.half() if isinstance(each, torch.Tensor) else each for name, each in usual(ids).items()}

    case.arguments = arguments


def stored_in_8_bits(case: Case) -> None:
    network(case).enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


def rounded_to_8_bits(case: Case) -> None:
    other = twin_of(case)
    stored_in_8_bits(other)
    network(case).load_state_dict({name: weight.float() for name, weight in network(other).state_dict().items()})


def twin_of(case: Case) -> Case:
    return Case(copy.deepcopy(case.pipe), case.arguments)


def int8(case: Case) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(network(case), Int8WeightOnlyConfig())


def rounded_to_int8(case: Case) -> None:
    other = twin_of(case)
    int8(other)
    with torch.no_grad():
        for name, weight in network(other).named_parameters():
            if type(weight.data) is not torch.Tensor:
                network(case).get_parameter(name).copy_(weight.dequantize())
