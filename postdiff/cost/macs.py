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
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

from torch import nn

from postdiff.cost.groups import grouped
from postdiff.cost.known_blocks import KnownBlocks
from postdiff.cost.operations import Known, OperationCounter
from postdiff.cost.tally import CONVENTIONS, PARTS, Journal, Macs, Tally
from postdiff.engine.intercept import intercept

__all__ = ["CONVENTIONS", "components", "count_macs", "tally"]


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
    watch = OperationCounter(journal.add, known)
    # To watch takes time at every operation, and without weights only networks are worth it.
    inside, outside = (nullcontext(), watch) if blocks is None else (watch, nullcontext())
    with ExitStack() as stack:
        for stage, one in getattr(pipe, "pipes", {"": pipe}).items():
            for part, owner, method in components(one):
                place = f"{part}:{stage}" if stage else part
                stack.enter_context(intercept(owner, method, _marked(journal, inside, part=place)))
            for owner in dict.fromkeys(owner for _, owner, _ in components(one)):
                for module, group in grouped(owner):
                    stack.enter_context(intercept(module, "forward", _marked(journal, nullcontext(), group=group)))
            if blocks is not None:
                for network in (owner for part, owner, _ in components(one) if part == "denoiser"):
                    for interception in blocks.around(network, journal):
                        stack.enter_context(interception)
            if hasattr(one, "scheduler"):
                stack.enter_context(intercept(one.scheduler, "step", _counted(journal)))
        stack.enter_context(outside)
        call()
    return journal.tally()


def components(pipe: Any) -> Iterator[tuple[str, nn.Module, str]]:
    """Networks of a pipeline, each with the part that it is and the method by which it is called."""
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


def _marked(journal: Journal, watch: AbstractContextManager[Any], **place: str) -> Callable[..., Any]:
    def around(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with journal.within(**place), watch:
            return forward(*args, **kwargs)

    return around


def _counted(journal: Journal) -> Callable[..., Any]:
    def around(step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        journal.step += 1
        return result

    return around
