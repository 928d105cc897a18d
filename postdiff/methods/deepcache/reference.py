"""The formula of DeepCache in the symbols of its paper, without speed and without state."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from postdiff.methods.formulas import Reference, Setting, alone, hold

__all__ = ["reference"]


def reference(method: Any, run: Setting) -> Reference:
    """Up_m(F_k, Down_m(x_t)): all that lies deeper than the skip branch gives out what it gave at k."""
    down, up = list(run.network.down_blocks), list(run.network.up_blocks)[::-1]
    n = len(down[0].resnets)
    level, layer = divmod(method.branch + (method.numbering == "paper"), n + 1)
    deep: dict[str, nn.Module] = {"middle": run.network.mid_block}
    for i in range(level + 1, len(down)):
        deep |= {f"down {i}": down[i], f"up {i}": up[i]}
    kinds = ("resnets", "attentions", "motion_modules", "temp_convs", "temp_attentions")
    for kind in kinds:
        deep |= {f"down {kind} {j}": m for j, m in enumerate(getattr(down[level], kind, None) or ()) if j >= layer}
        deep |= {f"up {kind} {j}": m for j, m in enumerate(getattr(up[level], kind, None) or ()) if j + layer < n}
    deep |= {f"downsampler {j}": m for j, m in enumerate(getattr(down[level], "downsamplers", None) or ())}
    if layer == 0:  # the whole block, whose outputs are skip connections as well
        deep = {name: m for name, m in deep.items() if not name.startswith(("down resn", "down att", "down temp"))}
        deep = {name: m for name, m in deep.items() if not name.startswith(("down motion", "downsampler"))}
        deep["down"] = down[level]
    if method.schedule == "nonuniform":
        return Reference(alone(deep), hold(crowded(run.steps, method.interval, method.center, method.power)))
    begins = sorted({0, *(int(r * run.steps + 0.5) if isinstance(r, float) else r for r in method.restarts)})
    ends = [*begins[1:], run.steps]
    due = [t for begin, end in zip(begins, ends, strict=True) for t in range(begin, end, method.interval)]
    return Reference(alone(deep), hold(due))


def crowded(steps: int, interval: int, center: float, power: float) -> list[int]:
    """c + trunc(Re z^p), z at even distances from (-c)^(1/p) to (T - c)^(1/p); p falls until there are T/n steps."""
    c, n = int(center * steps + 0.5), math.ceil(steps / interval)
    begin, end = complex(-c) ** (1 / power), complex(steps - c) ** (1 / power)
    offsets = {int((((begin * (n - i) + end * i) / n) ** power).real) for i in range(n + 1)}
    due = [0, *(c + offset for offset in sorted(offsets)[1:-1])]
    return due if len(due) == n else crowded(steps, interval, center, power - 0.02)
