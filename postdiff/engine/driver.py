"""Runs a stock diffusers pipeline under a stack of methods, for the length of one call.

The pipeline keeps its own `__call__`. From outside, two things are wrapped: the network's `forward` and
`scheduler.step` (and a ControlNet's `forward`). Methods act there and on modules they intercept themselves. So an
algorithm is not readable as one loop here: it is split between a method's `denoise` (what the network sees) and its
`step` (what the solver sees); the straight loops stand in the tests, as oracles.

What the driver relies on: one `scheduler.step` after each group of network calls, a scheduler that is not swapped
during the call, and `pipe._num_timesteps` where a pipeline starts late.
"""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from torch import nn

from postdiff.engine.call import Run
from postdiff.engine.errors import UsageError
from postdiff.engine.family import Family, family_of
from postdiff.engine.state import State

__all__ = ["Driver", "accelerate"]

HOOKS = ("innermost", "attach", "claims", "start", "step_start", "denoise", "condition", "step")


class Driver:
    """A pipeline with methods; call it as you would call the pipeline.

    Attributes:
        pipe: the wrapped pipeline, untouched between calls.
        methods: the stack, first method outermost; those that must be innermost have been moved to its end.
        counts: what the last call really ran, for instance {"network calls": 20, "deepcache hits": 90, ...}.
    """

    def __init__(self, pipe: Any, methods: Sequence[Any] = (), family: Family | None = None) -> None:
        for method in methods:
            if isinstance(method, type) or not all(hasattr(method, hook) for hook in HOOKS):
                raise UsageError(f"{method!r} is not a method; pass instances such as DeepCache(interval=2)")
        self.pipe = pipe
        self.methods = sorted(methods, key=lambda method: method.innermost)
        self.family = family or family_of(pipe)
        self.counts: Counter[str] = Counter()
        _check_claims(self.methods, self.network)

    @property
    def network(self) -> nn.Module:
        """The denoiser: `pipe.unet` or `pipe.transformer`."""
        return getattr(self.pipe, self.family.network)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the pipeline with its own arguments and return its own result.

        Raises:
            UsageError: a method does not fit this network, solver or number of steps.
        """
        call = inspect.signature(type(self.pipe).__call__).bind(self.pipe, *args, **kwargs)
        call.apply_defaults()
        state = State(
            family=self.family,
            scheduler=self.pipe.scheduler,
            vae=getattr(self.pipe, "vae", None),
            generators=call.arguments.get("generator"),
            guidance_scale=call.arguments.get(self.family.scale) or 1.0,
        )
        _check_networks(self.pipe)
        self.counts = state.counts
        # Copies: what a method notes down during a call dies with the call.
        negative = any(
            value is not None for name, value in call.arguments.items() if name.startswith("negative_prompt")
        )
        run = Run(self.pipe, self.network, [copy.copy(method) for method in self.methods], state, negative)
        with ExitStack() as stack:
            run.enter(stack)
            return self.pipe(*args, **kwargs)


def accelerate(pipe: Any, methods: Sequence[Any] = (), family: Family | None = None) -> Driver:
    """Make `pipe` faster: `fast = accelerate(pipe, [DeepCache(interval=2)]); fast("a red apple").images`.

    Args:
        pipe: a loaded diffusers pipeline; it is not changed.
        methods: instances from `postdiff.methods`, first outermost.
        family: how the pipeline is wired; found by class name if omitted.

    Raises:
        UsageError: unknown pipeline, something that is not a method, or two methods that claim the same modules.
    """
    return Driver(pipe, methods, family)


def _check_claims(methods: Sequence[Any], network: nn.Module) -> None:
    owners: dict[str, str] = {}
    for method in methods:
        name = type(method).__name__
        for claim in method.claims(network):
            if claim in owners:
                raise UsageError(f"{owners[claim]} and {name} both act on '{claim}'; use one of them")
            owners[claim] = name


def _check_networks(pipe: Any) -> None:
    if getattr(pipe, "transformer_2", None) is not None and pipe.config.boundary_ratio is not None:
        raise UsageError(
            f"{type(pipe).__name__} with two networks that take turns cannot be accelerated; use a model with one"
        )
