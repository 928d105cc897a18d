"""MagCache: how much residuals shrink from step to step is known beforehand, and says which steps may be replayed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from postdiff.engine.residual_span import ResidualSpan, stacked_blocks
from postdiff.engine.selectors import with_all_inside
from postdiff.engine.state import State
from postdiff.methods.base import Method
from postdiff.methods.options import read_calibration, require

__all__ = ["MagCache"]


@dataclass
class MagCache(Method):
    r"""Replay what all transformer blocks added together, while the error predicted from magnitude ratios is small.

    The ratio of a step after the beginning is g_t = |residual_t| / |residual_(t-1)|. The product of ratios since the
    last computed step says how far the kept residual is off. Its distances from 1 add up, and the step is replayed
    while their sum is at most `threshold` and no more than `most` steps have been replayed in a row.

    Args:
        ratios: g_t for every step, from a calibration of model, solver and steps, or the JSON file that holds them
            (`experiments/calibrate.py`); another number of steps takes the nearest ones. A single number stands for
            all steps.
        threshold: bound of the sum; below 0 computes everything.
        most: steps replayed in a row at most.
        retention: share of the run at its beginning that is always computed.

    Equation:
        h_t = x_t + R_k \qquad \text{while } \sum_{i=k+1}^{t} \left| 1 - \prod_{j=k+1}^{i} g_j \right| \le \delta

    Works on:
        Transformers with a chain of blocks.

    Oracle:
        The hook of diffusers, bit for bit where it runs.

    Reference:
        Ma et al., "MagCache: Fast Video Generation with Magnitude-Aware Cache", NeurIPS 2025, arXiv:2506.09045.
    """

    ratios: float | str | list[float] = 1.0
    threshold: float = 0.06
    most: int = 3
    retention: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.ratios, str):
            self.ratios = read_calibration(self.ratios, "ratios", "MagCache")
        given = self.ratios if isinstance(self.ratios, list | tuple) else [self.ratios]
        sound = len(given) > 0 and all(isinstance(ratio, int | float) and ratio > 0 for ratio in given)
        require(self, sound, "ratios", "numbers above 0")
        require(self, self.most >= 0, "most", "0 or more")
        require(self, 0 <= self.retention <= 1, "retention", "a share of the run (0.0 to 1.0)")

    def claims(self, network: nn.Module) -> list[str]:
        return with_all_inside(stacked_blocks(network, "MagCache"))

    def attach(self, network: nn.Module, state: State) -> Iterator[AbstractContextManager[None]]:
        sums: dict[object, tuple[float, float, int]] = {}  # product of ratios, sum of errors, steps replayed

        def decide(branch: str, place: int, known: bool) -> Tensor:
            key, replay = (state.size, branch), False
            if known and state.index >= int(self.retention * state.steps + 0.5):
                product, error, passed = sums.get(key, (1.0, 0.0, 0))
                product *= self._ratios[state.index]
                error, passed = error + abs(1 - product), passed + 1
                replay = error <= self.threshold and passed <= self.most
                sums[key] = (product, error, passed) if replay else (1.0, 0.0, 0)
            return torch.full((state.samples,), replay, device="cpu")

        yield from ResidualSpan("mag_cache", stacked_blocks(network, "MagCache"), state, decide).attach()

    def start(self, state: State) -> None:
        assert not isinstance(self.ratios, str), "a file is read when the method is made"
        self._ratios = _nearest(self.ratios, state.steps)


def _nearest(ratios: float | Sequence[float], steps: int) -> list[float]:
    """One ratio a step, the nearest in the run's proportion."""
    if not isinstance(ratios, list | tuple):
        return [float(ratios)] * steps  # type: ignore[arg-type]
    last = max(steps - 1, 1)
    return [float(ratios[round(step * (len(ratios) - 1) / last)]) for step in range(steps)]
