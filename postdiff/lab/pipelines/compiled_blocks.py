"""torch.compile of a network's repeated blocks, beside methods that act inside them.

A method replaces `forward` of a module for a call. Compiled code would take the replacement in: it guards on it, so the
result would be right, but the replacement is new with every call and full of counters, so each call would compile
again, until torch gives up without a word and runs everything uncompiled (measured: at the second call of a small
U-Net). Therefore nothing is compiled that a method acts inside of: such a block is cut into its parts, and what is
compiled are the largest modules with nothing of a method in them. Every method stands outside of compiled code then,
and counts, caches and random draws stay Python's.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from postdiff.engine import wrapped
from postdiff.engine.driver import Driver
from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import intercept
from postdiff.engine.selectors import is_unet
from postdiff.engine.state import State

__all__ = ["blocks", "held", "parts"]

BACKEND = "inductor"
# Shapes that a class is compiled for: widths of a U-Net times sizes times batches, of which torch unites many. Beyond
# its own limit, 8, it would go on uncompiled.
LIMIT = 64
IN_UNETS = ("BasicTransformerBlock", "ResnetBlock2D")


def blocks(network: nn.Module) -> list[nn.Module]:
    """The blocks that are compiled: those that diffusers calls repeated, in U-Nets ResNet blocks too.

    Where diffusers names none they are the members of the network's own lists of blocks.

    Raises:
        UsageError: the network has no blocks.
    """
    names = {*(getattr(network, "_repeated_blocks", None) or ()), *(IN_UNETS if is_unet(network) else ())}
    found = [module for module in network.modules() if type(module).__name__ in names]
    if not found:
        lists = [child for child in network.children() if isinstance(child, nn.ModuleList)]
        found = [block for each in lists for block in each if next(block.children(), None) is not None]
    if not found:
        raise UsageError(f"network.compile=true finds no repeated blocks in {type(network).__name__}; leave it out")
    return found


def parts(network: nn.Module, driver: Any = None) -> list[nn.Module]:
    """The largest modules within those blocks that no method of the driver acts inside of.

    Args:
        network: the denoiser.
        driver: what will be called; without methods the blocks themselves are found.

    Raises:
        UsageError: a method acts everywhere in the blocks, or the driver is none of ours.
    """
    taken: set[nn.Module] = set()  # modules whose `forward` the methods replace
    if isinstance(driver, Driver):
        state = State(family=driver.family, scheduler=driver.pipe.scheduler)
        inner = wrapped.network(network)
        with ExitStack() as stack:
            for method in driver.methods:
                for context in copy.copy(method).attach(inner, state):
                    stack.enter_context(context)
            taken = {module for module in inner.modules() if "forward" in vars(module)}
    elif driver is not None:
        raise UsageError(
            f"network.compile=true cannot see what {type(driver).__name__} changes in the network; leave it out"
        )
    found = [part for block in blocks(network) for part in _whole(block, taken)]
    if not found:
        raise UsageError(
            f"network.compile=true: the methods act everywhere in the blocks of {type(network).__name__}; leave it out"
        )
    return found


@contextmanager
def held(network: nn.Module, driver: Any, attention: str | None) -> Iterator[None]:
    """Run them compiled for one call. The first call compiles, which takes minutes on a CPU.

    While operations are counted one by one (MACs, memory on a CPU) the network runs uncompiled: what it computes is the
    same, and compiled code could not be counted.

    Args:
        network: the denoiser.
        driver: as in `parts`.
        attention: the backend in force.

    Raises:
        UsageError: torch cannot compile a block, or somebody else watches modules inside one.
    """
    if _get_current_dispatch_mode() is not None:
        yield
        return
    if any("forward" in vars(module) for block in blocks(network) for module in block.modules()):
        raise UsageError(
            f"network.compile=true: something has replaced 'forward' inside the blocks of {type(network).__name__} "
            "already, and compiled code would pass it over; leave one of them out"
        )
    with ExitStack() as stack:
        for part in parts(network, driver):
            stack.enter_context(intercept(part, "forward", _around(part, attention)))
        try:
            yield
        except torch._dynamo.exc.TorchDynamoException as error:
            first = " ".join(str(error).split("\n\n")[0].split())[:200] or type(error).__name__
            raise UsageError(
                f"network.compile=true: torch cannot compile the blocks of {type(network).__name__} here ({first}); "
                "install a C++ compiler (on a GPU: triton), or leave it out"
            ) from error


def _around(part: nn.Module, attention: str | None) -> Callable[..., Any]:
    inside = [module for module in part.modules() if module is not part]
    kind: Any = type(part)

    def around(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # TeaCache looks inside its first block for a moment, and ends the block's run there.
        if any("forward" in vars(module) for module in inside):
            return forward(*args, **kwargs)
        return _compiled(kind, BACKEND, attention)(part, *args, **kwargs)

    return around


@functools.cache
def _compiled(cls: type[nn.Module], backend: str, attention: str | None) -> Callable[..., Any]:
    """One function for all blocks of a class, so that equal ones are compiled once."""
    compiled: Any = torch.compile  # its declared forms leave out the last two options
    found: Callable[..., Any] = compiled(cls.forward, backend=backend, isolate_recompiles=True, recompile_limit=LIMIT)
    return found


def _whole(module: nn.Module, taken: set[nn.Module]) -> Iterator[nn.Module]:
    if next(module.children(), None) is None:
        return  # a single operation: nothing to unite
    if isinstance(module, nn.ModuleList) or any(inner in taken for inner in module.modules() if inner is not module):
        for child in module.children():
            yield from _whole(child, taken)
    else:
        yield module
