"""Block caching: every transformer block follows a schedule of its own, calibrated by how fast its output changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from postdiff.engine.cache import ModuleCache, Refresh
from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import intercept
from postdiff.engine.selectors import spatial_transformers, with_all_inside
from postdiff.engine.state import State
from postdiff.methods.base import Method
from postdiff.methods.options import require

__all__ = ["BlockCache"]


@dataclass
class BlockCache(Method):
    """Replay a spatial transformer's output while its measured changes since the last computed step add up to little.

    The change of a block at a step is |C_t - C_(t-1)| / |C_t|, L1 norms, mean over prompts, measured beforehand
    (`experiments/block_changes.py`) for model, solver and number of steps. The schedule that follows is fixed: it
    does not depend on the picture. Convolutions, which carry the time embedding, always run.

    Args:
        threshold: a block is computed again before the sum exceeds it; 0 computes everything.
        changes: the JSON file of a calibration; or one number that stands for every block and step, which gives
            all blocks the same uniform schedule.

    Reference:
        Wimbauer et al., "Cache Me if You Can: Accelerating Diffusion Models through Block Caching", CVPR 2024,
        arXiv:2312.03209, Sec. 3.2 and 3.3, without the distilled scale and shift, which are trained.
    """

    threshold: float = 0.25
    changes: float | str = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, self.threshold >= 0, "threshold", "0 or more")
        require(self, isinstance(self.changes, str) or self.changes > 0, "changes", "a file, or a number above 0")

    def claims(self, network: nn.Module) -> list[str]:
        return with_all_inside(spatial_transformers(network, "BlockCache"))

    def attach(self, network: nn.Module, state: State) -> Iterator[AbstractContextManager[None]]:
        found = spatial_transformers(network, "BlockCache")
        self._names = list(found)
        for name, module in found.items():
            yield intercept(module, "forward", self._cache(name).around(name, state))

    def start(self, state: State) -> None:
        measured = _read(self.changes, self._names, state.steps)
        self._refresh = {}
        for name in self._names:
            self._refresh[name] = Refresh(scheduled(measured[name], self.threshold))
            state.boundaries |= self._refresh[name].turns(state.steps)

    def _cache(self, name: str) -> ModuleCache:
        return ModuleCache("block_cache", lambda written, now: self._refresh[name].due(written, now))


def scheduled(changes: list[float], threshold: float) -> list[int]:
    """Steps at which a block is computed: again before the changes since the last one add up to over `threshold`."""
    computed, total = [0], 0.0
    for step in range(1, len(changes)):
        total += changes[step]
        if total > threshold:
            computed.append(step)
            total = 0.0
    return computed


def _read(changes: float | str, names: list[str], steps: int) -> dict[str, list[float]]:
    if not isinstance(changes, str):
        return {name: [float(changes)] * steps for name in names}
    file = Path(changes).expanduser()
    try:
        content: Any = json.loads(file.read_text())["changes"]
        found = {name: [float(value) for value in content[name]] for name in names}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"BlockCache: changes={changes} is no calibration of this network ({type(error).__name__}: {error}); make "
            "one with experiments/block_changes.py"
        ) from None
    if wrong := [len(values) for values in found.values() if len(values) != steps]:
        raise UsageError(
            f"BlockCache: changes={changes} is of {wrong[0]} steps, and this run has {steps}; calibrate anew"
        )
    return found
