"""Tiny twins of the pipelines that people ran in 2026, by name; two calls of one builder are two pipelines."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from tests.support.twins import controls, flux, images, perturbed, qwen, siblings, unets, video, z_image
from tests.support.twins.parts import Twin

__all__ = ["TWINS", "Twin"]


def _builds(member: Any, module: Any) -> bool:
    if not inspect.isfunction(member) or member.__module__ != module.__name__ or member.__name__.startswith("_"):
        return False
    signature = inspect.signature(member)
    whole = all(
        each.default is not inspect.Parameter.empty
        for each in signature.parameters.values()
        if each.kind is not each.VAR_KEYWORD
    )
    return whole and signature.return_annotation == "Twin"


TWINS: dict[str, Callable[[], Twin]] = {
    name: member
    for module in (unets, controls, flux, qwen, z_image, video, images, siblings, perturbed)
    for name, member in vars(module).items()
    if _builds(member, module)
}
