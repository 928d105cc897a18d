"""Block caching: every transformer block follows a schedule of its own, calibrated by how fast its output changes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from postdiff.engine.errors import UsageError
from postdiff.engine.replay import Due, Replay, at
from postdiff.engine.selectors import spatial_transformers, with_all_inside
from postdiff.engine.state import State
from postdiff.methods.cache import Cache
from postdiff.methods.options import read_calibration, require

__all__ = ["BlockCache"]


@dataclass
class BlockCache(Cache):
    r"""Replay a spatial transformer's output while its measured changes since the last computed step add up to little.

    The change of a block at a step is |C_t - C_(t-1)| / |C_t|, L1 norms, mean over prompts, measured beforehand
    (`experiments/calibrate.py`) for model, solver and number of steps. The schedule that follows is fixed: it
    does not depend on the image. Convolutions, which carry the time embedding, always run.

    Args:
        threshold: a block is computed again before the sum exceeds it; 0 computes everything.
        changes: {name of a spatial transformer: its change at every step}, or the JSON file that holds them under the
            key "changes"; or one number that stands for every block and step, which gives all blocks the same
            uniform schedule. A file is read at once, so that the numbers belong to the identity of a run.

    Equation:
        C_t = C_k \qquad \text{while } \sum_{i=k+1}^{t} \frac{|C_i - C_{i-1}|}{|C_i|} \le \delta \text{, as calibrated}

    Works on:
        U-Nets.

    Oracle:
        A slow reference that computes everything and overwrites it.

    Reference:
        Wimbauer et al., "Cache Me if You Can: Accelerating Diffusion Models through Block Caching", CVPR 2024,
        arXiv:2312.03209, Sec. 3.2 and 3.3, without the distilled scale and shift, which are trained.
    """

    threshold: float = 0.25
    changes: float | str | dict[str, list[float]] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, self.threshold >= 0, "threshold", "0 or more")
        if isinstance(self.changes, str):
            self.changes = read_calibration(self.changes, "changes", "BlockCache")
        sound = isinstance(self.changes, dict) or (isinstance(self.changes, int | float) and self.changes > 0)
        require(self, sound, "changes", "a calibration or a number above 0")

    def claims(self, network: nn.Module) -> list[str]:
        return with_all_inside(spatial_transformers(network, "BlockCache"))

    def replays(self, network: nn.Module) -> list[Replay]:
        found = spatial_transformers(network, "BlockCache")

        def rule(name: str, state: State) -> Due:
            return at(scheduled(_of(self.changes, list(found), state.steps)[name], self.threshold))

        return [Replay({name: module}, partial(rule, name), name="block_cache") for name, module in found.items()]


def scheduled(changes: list[float], threshold: float) -> list[int]:
    """Steps at which a block is computed: again before the changes since the last one add up to over `threshold`."""
    computed, total = [0], 0.0
    for step in range(1, len(changes)):
        total += changes[step]
        if total > threshold:
            computed.append(step)
            total = 0.0
    return computed


def _of(changes: Any, names: list[str], steps: int) -> dict[str, list[float]]:
    """The changes of every block, for every step of the run."""
    if not isinstance(changes, dict):
        return {name: [float(changes)] * steps for name in names}
    if set(changes) != set(names):
        raise UsageError(
            f"BlockCache: the calibration is of {len(changes)} blocks of another network than this one with "
            f"{len(names)}; make one with experiments/calibrate.py"
        )
    if wrong := {len(values) for values in changes.values()} - {steps}:
        raise UsageError(
            f"BlockCache: the calibration is of {min(wrong)} steps, and this run has {steps}; calibrate anew"
        )
    return changes
