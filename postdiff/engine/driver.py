"""Runs a stock diffusers pipeline under a stack of methods, for the length of one call.

The pipeline keeps its own `__call__`. From outside, two things are wrapped: the network's `forward` and
`scheduler.step` (and a ControlNet's `forward`). Methods act there and on modules they intercept themselves. So an
algorithm is not readable as one loop here: it is split between a method's `denoise` (what the network sees) and its
`step` (what the solver sees); the straight loops stand in the tests, as oracles.

What the driver relies on: one `scheduler.step` after each group of network calls, and a scheduler that is not swapped
during the call. Which steps a run makes it takes from the timesteps that come, and `pipe._num_timesteps`.
"""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from postdiff.engine import users_call, wrapped
from postdiff.engine.call import Call
from postdiff.engine.errors import UsageError
from postdiff.engine.family import Family, family_of

__all__ = ["Driver", "accelerate"]

OWN = ("pipe", "methods", "family", "counts", "_checked")
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
        self._check()

    @property
    def network(self) -> nn.Module:
        """The denoiser: `pipe.unet` or `pipe.transformer`, or what is inside if that was compiled or given adapters.

        Of two that take turns in a run it is the first.
        """
        return self._networks()[0]

    def _networks(self) -> list[nn.Module]:
        return [wrapped.network(outer) for outer in self.family.networks(self.pipe)]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the pipeline with its own arguments and return its own result.

        Several threads may call one driver, or drivers of pipelines that share a network, and so may a callback.

        Raises:
            UsageError: a method does not fit this network, solver or number of steps, or the pipeline does what methods
                cannot follow.
        """
        if self._networks() != self._checked:
            self._check()
        self.counts = Counter()
        call = Call(self.pipe, self.family, self.methods, users_call.by_name(self.pipe, args, kwargs), self.counts)
        args, kwargs = users_call.outside(self.pipe, args, kwargs, call.scope)
        try:
            try:
                call.enter()
                result = self.pipe(*args, **kwargs)
                call.finish()
                return result
            finally:
                call.close()
        finally:
            call.close()  # an interrupt may have ended the first one early

    def __getattr__(self, name: str) -> Any:
        """Whatever else a pipeline has: `fast.to("cuda")` moves it and gives the accelerated pipeline back."""
        if name.startswith("__") or name in OWN:
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        found = getattr(self.pipe, name)
        return _handed_on(found, self) if inspect.ismethod(found) and found.__self__ is self.pipe else found

    def __setattr__(self, name: str, value: Any) -> None:
        """Settings of the pipeline go to the pipeline: `fast.scheduler = ...` is `fast.pipe.scheduler = ...`.

        Raises:
            AttributeError: neither has it.
        """
        if name in OWN:
            super().__setattr__(name, value)
        elif hasattr(self.pipe, name):
            setattr(self.pipe, name, value)
        else:
            raise AttributeError(f"neither the driver nor {type(self.pipe).__name__} has '{name}'; set it on fast.pipe")

    def _check(self) -> None:
        self._checked = self._networks()
        for network in self._checked:
            _check_claims(self.methods, network)


def _handed_on(method: Callable[..., Any], driver: Driver) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        return driver if result is driver.pipe else result

    return call


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
