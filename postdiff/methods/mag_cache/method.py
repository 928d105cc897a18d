"""MagCache: how much residuals shrink from step to step is known beforehand, and says which steps may be replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from postdiff.engine.blocks import stacked_blocks
from postdiff.engine.replay import Due, Replay, Residual
from postdiff.engine.state import State
from postdiff.methods.cache import Cache
from postdiff.methods.options import read_calibration, require

__all__ = ["MagCache"]


@dataclass
class MagCache(Cache):
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

    def replays(self, network: nn.Module) -> list[Replay]:
        return [Replay(stacked_blocks(network, "MagCache"), self._rule, Residual(), name="mag_cache")]

    def _rule(self, state: State) -> Due:
        assert not isinstance(self.ratios, str), "a file is read when the method is made"
        ratios, begin = _nearest(self.ratios, state.steps), int(self.retention * state.steps + 0.5)

        def due(written: int, now: int) -> bool:
            product, error = 1.0, 0.0
            for step in range(written + 1, now + 1):
                product *= ratios[step]
                error += abs(1 - product)
            return now < begin or now - written > self.most or not error <= self.threshold

        return due


def _nearest(ratios: float | Sequence[float], steps: int) -> list[float]:
    """One ratio a step, the nearest in the run's proportion."""
    if not isinstance(ratios, list | tuple):
        return [float(ratios)] * steps  # type: ignore[arg-type]
    last = max(steps - 1, 1)
    return [float(ratios[round(step * (len(ratios) - 1) / last)]) for step in range(steps)]
