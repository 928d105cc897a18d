"""Denoisers that a user has wrapped: compiled as a whole, given adapters by peft, made ready for several processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from postdiff.engine.errors import UsageError

__all__ = ["network", "outermost", "refuse_compiled", "refuse_torn_groups"]


def network(outer: nn.Module) -> nn.Module:
    """The network itself, on whose modules methods act.

    Args:
        outer: what the pipeline calls.
    """
    inner = _inside(outer)
    return outer if inner is None else network(inner)


def outermost(outer: nn.Module) -> nn.Module:
    """Where a network's call is intercepted: around compiled code, never within it."""
    inner = _inside(outer)
    return outer if inner is None or _is_compiled(outer) else outermost(inner)


def refuse_compiled(outer: nn.Module, inner: nn.Module, acted_on: Iterable[Any]) -> None:
    """Refuse methods that act within compiled code, which would be compiled anew at every call.

    Args:
        outer: what the pipeline calls.
        inner: its `network`.
        acted_on: objects of which an attribute is replaced.

    Raises:
        UsageError: one of them is, or lies within, a compiled module.
    """
    roots = [module for module in inner.modules() if getattr(module, "_compiled_call_impl", None) is not None]
    if _is_compiled(outer):
        roots.append(inner)
    within = {module for root in roots for module in root.modules()}
    if any(isinstance(owner, nn.Module) and owner in within for owner in acted_on):
        raise UsageError(
            f"the methods act inside {type(inner).__name__}, which is compiled, and compiled code would pass them "
            "over; give the pipeline the network as it was before torch.compile (its _orig_mod)"
        )


def refuse_torn_groups(acted_on: Iterable[Any]) -> None:
    """Refuse methods that may leave out a block with which diffusers' group offloading brings others to the device.

    Args:
        acted_on: objects of which an attribute is replaced.

    Raises:
        UsageError: one of them is offloaded in a group with others.
    """
    for owner in acted_on:
        hook = getattr(getattr(owner, "_diffusers_hook", None), "hooks", {}).get("group_offloading")
        if hook is not None and len(hook.group.modules) > 1 and any(owner is one for one in hook.group.modules):
            raise UsageError(
                f"blocks are offloaded in groups of {len(hook.group.modules)}, where one brings the others to the "
                f"device, and a method acts on one by itself ({type(owner).__name__}), which it may leave out; use "
                "num_blocks_per_group=1, or offload_type='leaf_level'"
            )


def _inside(outer: nn.Module) -> nn.Module | None:
    if isinstance(inner := getattr(outer, "_orig_mod", None), nn.Module):
        return inner
    if callable(base := getattr(outer, "get_base_model", None)):
        found: nn.Module = base()
        return found
    if isinstance(outer, nn.parallel.DistributedDataParallel | nn.DataParallel):
        kept: nn.Module = outer.module
        return kept
    return None


def _is_compiled(outer: nn.Module) -> bool:
    return isinstance(getattr(outer, "_orig_mod", None), nn.Module)
