"""What a method is: a dataclass of options with hooks that do nothing until overridden.

One technique, one file; the file's name is the method's name. Methods never import each other. The driver runs a
shallow copy of each method per call, so whatever a hook notes on `self` dies with the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from postdiff.engine.state import State
from postdiff.methods.options import check_types

__all__ = ["Method"]


@dataclass
class Method:
    """Base of all methods. `first` in a stack means outermost: it sees the pipeline's arguments first."""

    def __post_init__(self) -> None:
        """Check the types of all options; methods add their ranges.

        Raises:
            UsageError: an option has the wrong type or is out of range.
        """
        check_types(self)

    def claims(self, network: nn.Module) -> Iterable[str]:
        """Names of modules or resources that no other method of a stack may claim as well.

        Raises:
            UsageError: the network has none of the modules that the method acts on.
        """
        return ()

    def attach(self, network: nn.Module, state: State) -> Iterable[AbstractContextManager[None]]:
        """Contexts to hold open during the call, usually of `intercept`. `state.steps` is not known yet."""
        return ()

    def start(self, state: State) -> None:
        """Once, before the first network call: check options against `state.steps`, plan `state.boundaries`."""

    def step_start(self, state: State) -> None:
        """Before the first network call of every step."""

    def denoise(
        self,
        forward: Callable[[Tensor, dict[str, Any]], Tensor],
        sample: Tensor,
        kwargs: dict[str, Any],
        state: State,
    ) -> Tensor:
        """Around the network. `sample` (rows, C, H, W) or (rows, C, F, H, W); `kwargs`: its other arguments."""
        return forward(sample, kwargs)

    def condition(self, forward: Callable[[dict[str, Any]], Any], kwargs: dict[str, Any], state: State) -> Any:
        """Around a ControlNet's forward; `kwargs`: all its arguments by name."""
        return forward(kwargs)

    def step(
        self,
        forward: Callable[[Tensor, Any, Tensor], Tensor],
        output: Tensor,
        timestep: Any,
        sample: Tensor,
        state: State,
    ) -> Tensor:
        """Around `scheduler.step`: prediction after guidance and latents in, latents of the next step out."""
        return forward(output, timestep, sample)
