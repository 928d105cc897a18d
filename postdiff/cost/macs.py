"""Multiply-accumulates (MACs) of a real pipeline call: work that a method skips is not executed, so not counted.

Three conventions, because papers differ:

- `dense`: convolutions and linear layers. PostDiff, DeepCache and T-GATE count so.
- `fvcore`: dense plus one of the two attention products. Faster Diffusion counts so, because its counter (fvcore)
  sees the product with the values but not the one of queries and keys. Both have the same size.
- `all`: dense plus both attention products.

Norms, activations and resampling are in none of them. The papers' counters include norm layers, about 0.07 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import intercept

__all__ = ["CONVENTIONS", "count_macs"]

CONVENTIONS = ("dense", "fvcore", "all")

_DENSE = ("convolution", "_convolution", "mm", "addmm")
_ATTENTION = ("bmm", "baddbmm")

Macs = dict[str, int]


def count_macs(pipe: Any, call: Callable[[], object]) -> dict[str, Macs]:
    """Run `call` once and count.

    Args:
        pipe: the pipeline whose components the work is attributed to.
        call: runs the pipeline or a driver over it; every image of its batch is counted.

    Returns:
        {"denoiser" | "text_encoder" | "vae" | "total": {"dense" | "fvcore" | "all": MACs}}. A ControlNet counts as
        denoiser. Parts the pipeline lacks read 0.

    Raises:
        UsageError: an operation with a known cost that belongs to no convention.
    """
    parts: dict[str, Macs] = {name: dict.fromkeys(CONVENTIONS, 0) for name in ("denoiser", "text_encoder", "vae")}
    counter = FlopCounterMode(display=False)
    with ExitStack() as stack:
        for part, owner, method in _components(pipe):
            stack.enter_context(_attribute(counter, parts[part], owner, method))
        stack.enter_context(counter)
        call()
    return {**parts, "total": _macs(counter)}


def _components(pipe: Any) -> Iterator[tuple[str, nn.Module, str]]:
    for name, component in pipe.components.items():
        if not isinstance(component, nn.Module):
            continue
        if name in ("unet", "transformer", "controlnet"):
            yield "denoiser", component, "forward"
        elif name.startswith("text_encoder"):
            yield "text_encoder", component, "forward"
        elif name in ("vae", "vqvae"):
            yield "vae", component, "encode"
            yield "vae", component, "decode"


@contextmanager
def _attribute(counter: FlopCounterMode, part: Macs, owner: nn.Module, method: str) -> Iterator[None]:
    """Add what runs inside `owner.method` to `part`."""

    def around(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        before = _macs(counter)
        result = forward(*args, **kwargs)
        after = _macs(counter)
        for convention in CONVENTIONS:
            part[convention] += after[convention] - before[convention]
        return result

    with intercept(owner, method, around):
        yield


def _macs(counter: FlopCounterMode) -> Macs:
    dense = attention = 0
    for operation, flops in counter.get_flop_counts().get("Global", {}).items():
        name = getattr(operation, "__name__", str(operation)).rpartition(".")[2]
        if name in _DENSE:
            dense += flops
        elif name in _ATTENTION or "attention" in name:
            attention += flops
        elif flops:
            raise UsageError(f"operation '{name}' is in no MAC convention; add it to postdiff/cost/macs.py")
    # torch counts two operations a multiply-accumulate.
    return {"dense": dense // 2, "fvcore": dense // 2 + attention // 4, "all": dense // 2 + attention // 2}
