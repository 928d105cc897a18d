"""Finding out at which step latents stop being numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from postdiff.engine.state import State
from postdiff.methods.base import Method, StepCall

__all__ = ["FiniteLatents"]


class FiniteLatents(Method):
    """Changes nothing; as the outermost method, notes after every step which rows of the latents are finite."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def step(self, forward: StepCall, output: Tensor, timestep: Any, sample: Tensor, state: State) -> Tensor:
        latents = forward(output, timestep, sample)
        # The largest value of a row is NaN or infinite if any is; on a GPU nothing waits for the answer.
        self.found.append(torch.isfinite(latents.detach().float().abs().flatten(1).amax(1)))
        return latents

    def first_bad(self, calls: int) -> dict[int, int]:
        """{row of the call: step, from 0, after which its latents hold NaN or infinity}, and forgets what was noted.

        Args:
            calls: rows of the call; guidance may have doubled them.
        """
        noted, self.found = self.found, []
        bad: dict[int, int] = {}
        for step, rows in enumerate(noted):
            for row in torch.nonzero(~rows).flatten().tolist():
                bad.setdefault(row % calls, step)
        return bad
