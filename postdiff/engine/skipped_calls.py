"""Calls of the network that are left out by what the solver sees, image by image.

A rule is asked after each step of the solver whether the next call may be left out. Where it is, x0 is guessed, and the
solver is given a prediction behind which x0 is the guessed one, so that every solver will do. Whatever the network gave
out last stands in for its output until then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor

from postdiff.engine import noise_levels
from postdiff.engine.replay.fills import Hold
from postdiff.engine.replay.network import NetworkPiece
from postdiff.engine.replay.rules import at
from postdiff.engine.state import State

__all__ = ["Seen", "SkippedCalls", "SolverRule"]


@dataclass(frozen=True)
class Seen:
    """What the solver sees of one image, x = alpha * x0 + sigma * noise; `x` and `x0` in float32 at least.

    Attributes:
        x: the sample.
        alpha: scalar tensor.
        sigma: scalar tensor.
        timestep: scalar tensor.
        prediction: of the network, after guidance; the last one if it was not called.
        x0: behind the prediction, or the guessed one.
        skipped: the network was not called.
    """

    x: Tensor
    alpha: Tensor
    sigma: Tensor
    timestep: Tensor
    prediction: Tensor
    x0: Tensor
    skipped: bool


class SolverRule(Protocol):
    """Written for one image, in scalars. `past` is that image's notebook, empty at first and at a new size."""

    def guess(self, past: SimpleNamespace, now: Seen, state: State) -> Tensor:
        """x0 at a step without a call of the network; `now.x0` is that behind the last prediction."""

    def note(self, past: SimpleNamespace, now: Seen, state: State) -> None:
        """At every step, before the solver makes it."""

    def measure(self, past: SimpleNamespace, x: Tensor, alpha: Tensor, sigma: Tensor, state: State) -> Tensor | bool:
        """At every step but the last: whether to skip the next call, or a number, by which `skips` will say so.

        Args:
            past: the notebook.
            x: the sample that the solver has made.
            alpha: of the next step.
            sigma: of the next step.
            state: of the run, still at this step.
        """

    def skips(self, past: SimpleNamespace, measured: float, state: State) -> bool:
        """Whether to skip the next call; numbers of all images have been read at once."""


class SkippedCalls(NetworkPiece):
    """Which images' calls are left out, in one run.

    Args:
        name: prefix of the counters in `state.counts`.
        rule: says so.
        state: of the run.
    """

    def __init__(self, name: str, rule: SolverRule, state: State) -> None:
        super().__init__(name, Hold(), state)
        self.due = at(())  # nothing is computed again by the number of the step
        self.solver_rule = rule
        self._skipped: set[int] = set()  # images of which the present step's calls are left out
        self._pasts: dict[int, SimpleNamespace] = defaultdict(SimpleNamespace)
        self._at: Hashable = None
        self._known: set[str] = set()  # branches

    def step_start(self) -> None:
        """Before the first call of every step: where guidance comes back, there is nothing to hold."""
        state = self.state
        branches = {state.only} if state.only in state.all_branches else {*state.all_branches}
        if not branches <= self._known:
            self._skipped = set()
        self._known |= branches

    def decide(self, at: Hashable, seen: Tensor) -> list[int]:
        """As of all caches; at a new size every image is computed, and nothing of what was noted is of use."""
        if at != self._at:
            self._at, self._skipped = at, set()
            self._pasts.clear()
        rows, place = self.state.rows, self._places[at]
        return [i for i, row in enumerate(rows) if row[1] not in self._skipped or place.find((row,)) is None]

    def step(self, forward: Callable[..., Tensor], output: Tensor, timestep: Any, sample: Tensor) -> Tensor:
        """In the place of the method's hook; at a skipped step only what is guessed reaches the solver."""
        state, scheduler, rule = self.state, self.state.scheduler, self.solver_rule
        now, x = torch.as_tensor(timestep, device=sample.device), _exact(sample)
        alpha, sigma = noise_levels.level(scheduler, now)
        x0 = noise_levels.predict_x0(scheduler, output, now, x)
        if self._skipped:
            output = output.clone()
        for image in range(state.samples):
            rows, past, skipped = self._rows(image, sample), self._pasts[image], image in self._skipped
            seen = Seen(x[rows], alpha, sigma, now, output[rows].clone(), x0[rows], skipped)
            if skipped:
                guessed = rule.guess(past, seen, state)
                output[rows, : x.shape[1]] = noise_levels.prediction_of(scheduler, guessed, now, x[rows]).to(output)
                seen = replace(seen, x0=guessed)
            rule.note(past, seen, state)
        moved = forward(output, timestep, sample)
        self._skipped = self._next(moved) if state.index + 1 < state.steps else set()
        return moved

    def _next(self, moved: Tensor) -> set[int]:
        """Images of which the next step's calls are left out."""
        state, rule, x = self.state, self.solver_rule, _exact(moved)
        alpha, sigma = noise_levels.level(state.scheduler, state.timesteps[state.index + 1].to(x.device))
        found = {
            image: rule.measure(self._pasts[image], x[self._rows(image, x)], alpha, sigma, state)
            for image in range(state.samples)
        }
        asked = {image: number for image, number in found.items() if isinstance(number, Tensor)}
        numbers = torch.stack([*asked.values()]).tolist() if asked else []  # the only time that a GPU is waited for
        skipped = {image for image, answer in found.items() if answer is True}
        for image, number in zip(asked, numbers, strict=True):
            if rule.skips(self._pasts[image], number, state):
                skipped.add(image)
        return skipped

    def _rows(self, image: int, sample: Tensor) -> slice:
        """Of an image, among those that the solver steps: several frames, or both halves of a guided batch."""
        state = self.state
        if state.family.step_rows == "doubled":
            return slice(image, None, state.samples)
        each = len(sample) // state.samples
        return slice(image * each, (image + 1) * each)


def _exact(sample: Tensor) -> Tensor:
    return sample.to(torch.promote_types(sample.dtype, torch.float32))
