"""What a method is: a dataclass of options with hooks that do nothing until overridden.

One technique, one file; the file's name is the method's name. Methods never import each other. The driver runs a
shallow copy of each method per call, so whatever a hook notes on `self` dies with the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from postdiff.engine.state import State
from postdiff.methods.options import check_types

__all__ = ["ControlNetCall", "Method", "NetworkCall", "StepCall"]

# What a hook is handed as `forward`: the rest of the chain down to the real thing.
NetworkCall = Callable[[Tensor, dict[str, Any]], Tensor]
ControlNetCall = Callable[[dict[str, Any]], Any]
StepCall = Callable[[Tensor, Any, Tensor], Tensor]


@dataclass
class Method:
    """Base of all methods. `first` in a stack means outermost: it sees the pipeline's arguments first.

    Attributes:
        innermost: rank. 1 stands inside all others around the network, and outside them around its modules, wherever
            the stack names it: it calls the network for more or fewer steps than it is asked for, or watches what
            blocks give out when all others have had their say. 0.5, of a method that leaves whole calls out, stands
            just outside of these. Of one rank, the first in the stack is outermost in both places.
        adaptive: decides by the features of an image, so that the work differs from image to image.
    """

    innermost: ClassVar[float] = 0
    adaptive: ClassVar[bool] = False

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
        """Before the first network call of every step; `state.only` may be set here."""

    def denoise(self, forward: NetworkCall, sample: Tensor, kwargs: dict[str, Any], state: State) -> Tensor:
        """Around the network. `sample` (rows, C, H, W) or (rows, C, F, H, W); `kwargs`: its other arguments."""
        return forward(sample, kwargs)

    def condition(self, forward: ControlNetCall, kwargs: dict[str, Any], state: State) -> Any:
        """Around a ControlNet's forward; `kwargs`: all its arguments by name."""
        return forward(kwargs)

    def step(self, forward: StepCall, output: Tensor, timestep: Any, sample: Tensor, state: State) -> Tensor:
        """Around `scheduler.step`: prediction after guidance and latents in, latents of the next step out."""
        return forward(output, timestep, sample)
