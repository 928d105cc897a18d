"""The formula of PyramidAttentionBroadcast in the symbols of its paper, without speed and without state."""

from __future__ import annotations

from typing import Any

from postdiff.methods.formulas import Reference, Setting, alone, attentions, hold, looks_at_text

__all__ = ["reference"]


def reference(method: Any, run: Setting) -> Reference:
    """A_t = A_k, k = n floor(t / n) with n of the kind, strictly inside the window of timesteps."""
    found = attentions(run.network)
    low, high = method.window
    outside = [t for t, timestep in enumerate(run.timesteps) if not low < timestep < high]

    def every(name: str) -> int:
        along_time = {"transformer_in", "temp_attentions", "motion_modules"} & set(name.split("."))
        if along_time:
            return int(method.temporal)
        return int(method.cross if looks_at_text(name, found[name]) else method.spatial)

    values = {name: hold([*outside, *range(0, run.steps, every(name))]) for name in found}
    return Reference(alone(found), lambda name, t, b, x, y: values[name](name, t, b, x, y))
