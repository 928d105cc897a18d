"""DeepCache: recompute only the shallow part of a U-Net, replay the rest from an earlier step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from postdiff.engine.errors import UsageError
from postdiff.engine.replay import Due, Replay, at, each
from postdiff.engine.selectors import layer_count, refuse_other_places, unet_blocks, unet_layers
from postdiff.engine.state import State
from postdiff.methods.cache import Cache
from postdiff.methods.options import require, require_moment

__all__ = ["DeepCache"]


@dataclass
class DeepCache(Cache):
    r"""Full network every `interval` steps; between them only what lies above one skip branch.

    A cheap step runs, counted from full resolution inwards, the down layers before the branch and the up layers up
    to it; everything deeper replays its last output. Equal to the authors' helper, bit for bit (tested). With FreeU,
    which scales features in place, the helper's cache is scaled once more at every hit; here it stays as it was.

    Args:
        interval: full steps are 0, interval, 2 interval, ...; 1 means always full.
        branch: which skip connection. In "helper" numbering (the DeepCache package, diffusers' docs) branch b is
            layer b mod (L+1) of level b div (L+1), with L layers a block; branch 0 runs only the last up layer.
        numbering: "helper", or "paper" (the authors' paper code), whose branch b is the helper's b + 1.
        restarts: steps (or fractions of the run) at which a full step is forced and the interval begins anew;
            PostDiff restarts at the last guided step and at the first one without guidance.
        schedule: "nonuniform" makes as many full steps as the interval would, denser around `center`; `restarts`
            then only add full steps.
        center: a step or a fraction of the run; read by the non-uniform schedule alone, as is `power`.
        power: above 1; the larger, the denser around the centre. It is lowered where rounding leaves fewer steps.

    Equation:
        F^{t}_{m+1} = F^{k}_{m+1}, \qquad k = N \lfloor t / N \rfloor, \qquad
        F^{t}_{m} = \mathrm{Up}_m(F^{k}_{m+1}, \mathrm{Down}_m(x_t))

    Works on:
        U-Nets.

    Oracle:
        The authors' package DeepCache 0.1.1, bit for bit, branches 0 to 5.

    Reference:
        Ma, Fang, Wang, "DeepCache: Accelerating Diffusion Models for Free", CVPR 2024, arXiv:2312.00858, Sec. 3.
    """

    interval: int = 2
    branch: int = 1
    numbering: Literal["helper", "paper"] = "helper"
    restarts: list[int | float] = field(default_factory=list)
    schedule: Literal["uniform", "nonuniform"] = "uniform"
    center: int | float = 0.3
    power: float = 1.4

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, self.interval >= 1, "interval", "1 or more")
        require(self, self.branch >= 0, "branch", "0 or more")
        require_moment(self, "center")
        require(self, self.power > 1, "power", "above 1")

    def replays(self, network: nn.Module) -> list[Replay]:
        return each(self._deep(network), self._rule, name="deepcache")

    def _rule(self, state: State) -> Due:
        restarts = [state.step_of(when, "restarts") for when in self.restarts]
        if self.schedule == "nonuniform" and self.interval > 1:
            center = state.step_of(self.center, "center")
            return at([*_nonuniform(state.steps, self.interval, center, self.power), *restarts])
        begins = sorted({0, *restarts})
        ends = [*begins[1:], state.steps]
        return at(step for begin, end in zip(begins, ends, strict=True) for step in range(begin, end, self.interval))

    def _deep(self, network: nn.Module) -> dict[str, nn.Module]:
        """Modules that a cheap step leaves out: whole blocks below the branch's level, single layers on it."""
        down, up = unet_blocks(network, "DeepCache")
        depth = layer_count(down[0]) + 1
        level, layer = divmod(self.branch + (self.numbering == "paper"), depth)
        if level >= len(down):
            raise UsageError(
                f"DeepCache: branch={self.branch} is deeper than {type(network).__name__}, whose last is "
                f"{len(down) * depth - 1 - (self.numbering == 'paper')}"
            )
        middle = getattr(network, "mid_block", None)  # distilled networks have none
        deep: dict[str, nn.Module] = {} if middle is None else {"mid_block": middle}
        for i in range(level + 1, len(down)):
            deep[f"down_blocks.{i}"] = down[i]
            deep[f"up_blocks.{len(up) - 1 - i}"] = up[i]
        if layer == 0:
            deep[f"down_blocks.{level}"] = down[level]
        else:
            for name, index, module in unet_layers(down[level]):
                if index >= layer:
                    deep[f"down_blocks.{level}.{name}"] = module
        for name, index, module in unet_layers(up[level]):
            from_shallow_end = layer_count(up[level]) - 1 - index
            if from_shallow_end > layer:
                deep[f"up_blocks.{len(up) - 1 - level}.{name}"] = module
        if not deep:
            raise UsageError(
                f"DeepCache: nothing lies below branch={self.branch} of {type(network).__name__}, which has no middle "
                f"block; use {self.branch - 1} or less"
            )
        refuse_other_places(deep, network, "DeepCache")
        return deep


def _nonuniform(steps: int, interval: int, center: int, power: float) -> list[int]:
    """Full steps that crowd around `center`: points equally far apart under a root, then raised to its power."""
    count = math.ceil(steps / interval)
    while power > 1:
        # Left of the centre the root is that of a negative number: complex, and so is its power on the way back, of
        # which the published schedules keep the real part. The curve that the formula suggests, with the sign taken
        # out of the root, gives other steps (0, 6, 11, 14, 15, ... instead of 0, 5, 9, 13, 17, ... of 50).
        first, last = complex(-center) ** (1 / power), complex(steps - center) ** (1 / power)
        offsets = sorted({int(((first + i * (last - first) / count) ** power).real) for i in range(count + 1)})
        full = [0, *(center + offset for offset in offsets[1:-1])]
        if len(full) == count:
            return full
        power -= 0.02
    raise UsageError(
        f"DeepCache: no non-uniform schedule has {count} full steps of {steps} around center={center}; "
        "use another center or interval"
    )
