"""Presets for tiny networks with random weights and six steps, where published settings would leave nothing out.

Tests of such networks import `preset` and `build_methods` from here in the place of `postdiff.presets`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from postdiff import presets
from postdiff.methods.base import Method
from postdiff.presets import Preset, Spec

__all__ = ["build_methods", "preset"]

# {preset: options of its one method}, over those of the preset. Not for the setting without effect, but for what it
# must have to fit the network.
OPTIONS: dict[str, dict[str, Any]] = {
    "adaptive_diffusion": {"threshold": 0.5, "warmup": 3},
    "dbcache": {"front": 1, "threshold": 0.4, "warmup": 1, "order": 1},
    "easy_cache": {"threshold": 1.0, "warmup": 2},
    "sea_cache": {"threshold": 0.8},
    "sea_cache_network": {"threshold": 0.8},
    "spectrum": {"warmup": 2},
}


def preset(name: str) -> Preset:
    """A preset, in a setting for tiny networks if it needs one."""
    published = presets.preset(name)
    if name not in OPTIONS:
        return published
    [spec], [neutral] = published.methods, published.identity
    assert not isinstance(spec, str) and not isinstance(neutral, str)
    [(method, options)], [without] = spec.items(), neutral.values()
    methods, identity = {**options, **OPTIONS[name]}, {**OPTIONS[name], **without}
    return dataclasses.replace(published, methods=({method: methods},), identity=({method: identity},))


def build_methods(specs: Sequence[Spec]) -> list[Method]:
    """Of a stack, with names of presets as they are for tiny networks."""
    return [
        method
        for spec in specs
        for method in presets.build_methods(preset(spec).methods if isinstance(spec, str) else [spec])
    ]
