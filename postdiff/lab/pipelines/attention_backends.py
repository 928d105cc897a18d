"""Which code computes a network's attention: one of torch's kernels, or the classic products and softmax."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from diffusers.models.attention_processor import (
    AttnAddedKVProcessor,
    AttnAddedKVProcessor2_0,
    AttnProcessor,
    AttnProcessor2_0,
)
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import intercept

__all__ = ["CUDA_ONLY", "check", "held"]

KERNELS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
CUDA_ONLY = ("efficient", "cudnn")
# What diffusers itself uses where torch has no fused attention.
CLASSIC: dict[type, type] = {AttnProcessor2_0: AttnProcessor, AttnAddedKVProcessor2_0: AttnAddedKVProcessor}
# How torch says that no kernel allowed can do it, on a GPU and on a CPU.
NO_KERNEL = ("No available kernel", "No viable backend")


def check(network: nn.Module, attention: str) -> None:
    """Refuse a backend that could not act on the denoiser.

    Args:
        network: the denoiser.
        attention: "eager" or one of the kernels.

    Raises:
        UsageError: the network has no attention, does not use torch's, or has one without a classic form.
    """
    kinds = {type(processor) for _, processor in _processors(network)}
    what, name = f"network.attention={attention}", type(network).__name__
    if not kinds:
        raise UsageError(f"{what}: {name} has no attention; leave it out")
    if kinds <= set(CLASSIC.values()):
        raise UsageError(f"{what}: {name} computes attention in the classic way already; leave it out")
    strange = sorted(kind.__name__ for kind in kinds - CLASSIC.keys() - set(CLASSIC.values()))
    if attention == "eager" and strange:
        raise UsageError(
            f"{what}: {name} computes attention with {', '.join(strange)}, which has no classic form; use math"
        )


@contextmanager
def held(network: nn.Module, attention: str) -> Iterator[None]:
    """Let the network's attention run so, and nobody else's: text encoders have masks, VAEs very wide heads.

    Models of diffusers that dispatch their attention end in torch's function too, so one way serves all; diffusers'
    own switch would stay on for pipelines loaded later.

    Args:
        network: the denoiser, or a ControlNet.
        attention: as in `check`.

    Raises:
        UsageError: no kernel for this device, type, mask or shape.
    """

    def around(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            with sdpa_kernel(KERNELS[attention]):
                return forward(*args, **kwargs)
        except RuntimeError as error:
            if not any(words in str(error) for words in NO_KERNEL):
                raise
            weight = next(network.parameters())
            raise UsageError(
                f"network.attention={attention} cannot serve {type(network).__name__} with {weight.dtype} on "
                f"{weight.device} (its head size, an attention mask or the device may be the reason); use math, or "
                "leave it out"
            ) from error

    with ExitStack() as stack:
        if attention != "eager":
            stack.enter_context(intercept(network, "forward", around))
        else:
            for module, processor in _processors(network):
                if type(processor) in CLASSIC:
                    stack.callback(setattr, module, "processor", processor)
                    module.processor = CLASSIC[type(processor)]()
        yield


def _processors(network: nn.Module) -> list[tuple[Any, Any]]:
    layers = (module for module in network.modules() if hasattr(module, "to_q"))
    return [(layer, layer.processor) for layer in layers if getattr(layer, "processor", None) is not None]
