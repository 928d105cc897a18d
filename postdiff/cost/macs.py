"""Multiply-accumulates (MACs) of a real pipeline call: work that a method skips is not executed, so not counted.

Three conventions, because papers differ:

- `dense`: convolutions and linear layers. PostDiff, DeepCache and T-GATE count so.
- `fvcore`: dense plus one of the two attention products. Faster Diffusion counts so, because its counter (fvcore)
  sees the product with the values but not the one of queries and keys. Both have the same size.
- `all`: dense plus both attention products. Twice that are the FLOPs that papers on FLUX.1 and its kind print.

Norms, activations and resampling are in none of them. The papers' counters include norm layers, about 0.07 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any

from torch import nn

from postdiff.cost.known_blocks import KnownBlocks
from postdiff.cost.operations import Known, OperationCounter
from postdiff.cost.tally import CONVENTIONS, PARTS, Journal, Macs, Tally
from postdiff.engine.intercept import intercept

__all__ = ["CONVENTIONS", "GROUPS", "components", "count_macs", "grouped", "tally"]

GROUPS = ("resnets", "self-attention", "cross-attention", "feed-forward", "other")

# Where a module does not say itself whether it looks at text.
_LOOKS_AT_TEXT = {"attn1": False, "attn2": True, "self_attn": False, "SelfAttention": False}
_FEED_FORWARD = ("ff", "ff_context", "mlp", "DenseReluDense")


def count_macs(pipe: Any, call: Callable[[], object]) -> dict[str, Macs]:
    """Run `call` once and count.

    Args:
        pipe: the pipeline whose components the work is attributed to, or a cascade: `pipe.pipes` is {stage: pipeline}.
        call: runs the pipeline or a driver over it; every image of its batch is counted.

    Returns:
        {"denoiser" | "text_encoder" | "vae" | "total": {"dense" | "fvcore" | "all": MACs}}. A ControlNet counts as
        denoiser. Parts the pipeline lacks read 0. Of a cascade, "denoiser:stage" and so on follow, whose sum "denoiser"
        is.

    Raises:
        UsageError: an operation with a known cost that belongs to no convention.
    """
    found = tally(pipe, call)
    staged = sorted({part for part, _, _ in found.cells if ":" in part})
    return {**{part: found.macs(part) for part in (*PARTS, *staged)}, "total": found.macs()}


def tally(
    pipe: Any, call: Callable[[], object], known: Known | None = None, blocks: KnownBlocks | None = None
) -> Tally:
    """Run `call` once and count, apart by part of the pipeline, step (solver call) and group of modules.

    Args:
        pipe: as for `count_macs`.
        call: as for `count_macs`.
        known: what an earlier count has found out about operations on the meta device, which saves time there.
        blocks: the same about whole blocks, of a pipeline whose denoiser has no weights; what is done outside of its
            networks, by the solver for instance, is then left out.

    Raises:
        UsageError: an operation with a known cost that belongs to no convention.
    """
    journal = Journal()

    def step(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        journal.step += 1
        return result

    watch = OperationCounter(journal.add, known)
    # To watch takes time at every operation, and without weights only networks are worth it.
    inside, outside = (nullcontext(), watch) if blocks is None else (watch, nullcontext())
    with ExitStack() as stack:
        for stage, one in getattr(pipe, "pipes", {"": pipe}).items():
            for part, owner, method in components(one):
                place = f"{part}:{stage}" if stage else part
                stack.enter_context(intercept(owner, method, partial(_within, journal, "part", place, inside)))
            for owner in dict.fromkeys(owner for _, owner, _ in components(one)):
                for module, group in grouped(owner):
                    within = partial(_within, journal, "group", group, nullcontext())
                    stack.enter_context(intercept(module, "forward", within))
            if blocks is not None:
                for network in (owner for part, owner, _ in components(one) if part == "denoiser"):
                    for interception in blocks.around(network, journal):
                        stack.enter_context(interception)
            if hasattr(one, "scheduler"):
                stack.enter_context(intercept(one.scheduler, "step", step))
        stack.enter_context(outside)
        call()
    return Tally(dict(journal.cells), journal.step)


def components(pipe: Any) -> Iterator[tuple[str, nn.Module, str]]:
    """Networks of a pipeline, each with the part that it is and the method by which it is called."""
    for name, component in pipe.components.items():
        if not isinstance(component, nn.Module):
            continue
        if name in ("unet", "transformer", "transformer_2", "controlnet"):
            yield "denoiser", component, "forward"
        elif name.startswith("text_encoder"):
            yield "text_encoder", component, "forward"
        elif name in ("vae", "vqvae"):
            yield "vae", component, "encode"
            yield "vae", component, "decode"


def grouped(owner: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Modules that begin a group, with its name. What runs in none of them is "other".

    Names are those of diffusers and transformers. Attention over image and text tokens together (SD3) is
    self-attention. What a method adds around a module, for instance ToMe's matching of tokens, is "other".
    """
    for path, module in owner.named_modules():
        name = path.rpartition(".")[2]
        looks_at_text = getattr(module, "is_cross_attention", _LOOKS_AT_TEXT.get(name))
        if looks_at_text is not None:
            yield module, "cross-attention" if looks_at_text else "self-attention"
        elif name in _FEED_FORWARD:
            yield module, "feed-forward"
        elif type(module).__name__.startswith("Resnet"):
            yield module, "resnets"


def _within(
    journal: Journal,
    kind: str,
    name: str,
    watch: AbstractContextManager[Any],
    forward: Callable[..., Any],
    /,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Run `forward` under the counter, as work of the part or group of that name."""
    before = getattr(journal, kind)
    setattr(journal, kind, name)
    try:
        with watch:
            return forward(*args, **kwargs)
    finally:
        setattr(journal, kind, before)
