"""What a reference reads of a run, and what it says: pieces of the network, and what each gives out instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from postdiff.engine.family import Family

__all__ = ["AtSolver", "Past", "Reference", "Setting", "tensorwise"]

# {branch: {step: what was computed}}: up to the present step, at the present size of the latents.
Past = dict[str, dict[int, Any]]


@dataclass(frozen=True)
class Setting:
    """What formulas read of a run.

    Attributes:
        scheduler: the pipeline's.
        times: what the network is told of the time, step by step.
        timesteps: the scheduler's own, step by step.
        scale: of guidance.
        size: of packed latents (height, width).
    """

    network: Any  # a module of diffusers, whose parts are read by their names
    controlnet: nn.Module | None
    family: Family
    scheduler: Any
    times: tuple[float, ...]
    timesteps: tuple[float, ...]
    scale: float
    size: tuple[int, int] = (0, 0)

    @property
    def steps(self) -> int:
        return len(self.timesteps)


@dataclass(frozen=True)
class Reference:
    """A method as a formula.

    Attributes:
        pieces: {name: (first module, last module)} of what is overwritten. x is what the first is given, image and
            text (or None); y is what the last gives out. The whole network may be one, twice.
        value: (name, step, branch, x, y) -> what the piece gives out at this step, for one branch.
        predictions: optional, (step, {branch: prediction}) -> the same as the solver is to see them.
        moved: optional, is told (latents before, after) of every step of the solver.
        solver: optional, what happens at the solver's step instead; it has `predictions` of its own.
    """

    pieces: dict[str, tuple[nn.Module, nn.Module]]
    value: Callable[[str, int, str, Past, Past], Any]
    predictions: Callable[[int, dict[str, Tensor]], dict[str, Tensor]] | None = None
    moved: Callable[[Tensor, Tensor], None] | None = None
    solver: AtSolver | None = None


class AtSolver(Protocol):
    """A method at the solver's step, for one image. After `restart` nothing is known."""

    def restart(self) -> None:
        """At the beginning, and at a new size of the latents."""

    def predictions(self, step: int, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """As of a reference."""

    def step(self, make: Callable[[Tensor], Tensor], step: int, output: Tensor, timestep: Any, sample: Tensor) -> None:
        """`make` has the solver make its step of a prediction, and gives the next sample."""


def tensorwise(change: Callable[..., Any], *values: Any) -> Any:
    """`change` of the tensors that stand in one place of several nested values."""
    if isinstance(values[0], Tensor):
        return change(*values)
    if isinstance(values[0], tuple | list):
        return type(values[0])(tensorwise(change, *items) for items in zip(*values, strict=True))
    if isinstance(values[0], dict):
        return {key: tensorwise(change, *[value[key] for value in values]) for key in values[0]}
    return values[0]
