"""Methods that leave whole calls of the network out by what the solver sees, for one image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from postdiff.engine import noise_levels
from postdiff.methods.formulas.run import Reference, Setting

__all__ = ["Held", "at_solver"]


class Held:
    """What is common: at steps in `left_out` the network gives what it gave before."""

    def __init__(self, method: Any, run: Setting) -> None:
        self.method, self.run, self.scheduler = method, run, run.scheduler
        self.restart()

    def restart(self) -> None:
        self.left_out: set[int] = set()
        self.held: dict[str, Tensor] = {}

    def predictions(self, step: int, found: dict[str, Tensor]) -> dict[str, Tensor]:
        if step not in self.left_out:
            self.held = {**found}
        return self.held

    def step(self, make: Callable[[Tensor], Tensor], step: int, output: Tensor, timestep: Any, sample: Tensor) -> None:
        """As `AtSolver` says it; each method has its own."""
        raise NotImplementedError

    def given(self, x0: Tensor, output: Tensor, time: Tensor, x: Tensor) -> Tensor:
        """The prediction behind `x0`; what there is beyond it (a variance) stays."""
        prediction = noise_levels.prediction_of(self.scheduler, x0, time, x)
        return torch.cat([prediction, output[:, x.shape[1] :]], 1)


def at_solver(formula: type[Held]) -> Callable[[Any, Setting], Reference]:
    return lambda method, run: Reference({}, lambda *_: None, solver=formula(method, run))
