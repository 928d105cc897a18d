"""The size that is generated: both sides are asked for, or neither, and what comes back has the size asked for."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

from postdiff import hub
from postdiff.cost import structure_file
from postdiff.engine.errors import UsageError
from postdiff.engine.family import family_of
from postdiff.lab.files.weights import package_file
from postdiff.lab.pipelines import models
from postdiff.lab.pipelines.cards import PipelineCard, parts

__all__ = ["SIDES", "Size", "check_generated", "of_card", "of_pipeline", "of_structure", "whole"]

Size = tuple[int, int]  # height and width in pixels
SIDES = ("height", "width")


def whole(height: int | None, width: int | None, usual: Callable[[], Size | None]) -> tuple[int | None, int | None]:
    """Both sides, or neither: a pipeline that is given one alone passes over it in silence.

    Args:
        height: in pixels, or None.
        width: in pixels, or None.
        usual: gives what the pipeline generates if asked for none.

    Raises:
        UsageError: one side is given, and what the other one usually is cannot be told.
    """
    if (height is None) == (width is None):
        return height, width
    if (found := usual()) is None:
        given, missing = SIDES if width is None else SIDES[::-1]
        side = height if width is None else width
        raise UsageError(f"{given}={side} alone: the model does not tell its usual {missing}; give {missing} too")
    return (found[0] if height is None else height), (found[1] if width is None else width)


def of_pipeline(pipe: Any) -> Size | None:
    """What a pipeline generates if asked for no size; None if its network does not tell."""
    vae = getattr(pipe, "vae", None)
    network = getattr(pipe, family_of(pipe).network)
    config, factor = {} if vae is None else vae.config, getattr(pipe, "vae_scale_factor", None)
    return _usual(type(pipe), network.config, config, factor)


def of_card(model: PipelineCard) -> Size | None:
    """The same before anything is loaded; None as well if the configs are not on this machine."""
    if (cls := models.pipeline_class(model)) is None:
        return None
    return _usual(cls, _config(model, family_of(cls).network, "network"), _config(model, "vae", "vae"))


def of_structure(name: str) -> Size | None:
    """The same of a file of `configs/structures`."""
    structure = structure_file.read(name)
    vae = {"block_out_channels": [0] * 4, **structure.content.get("vae", {}).get("config", {})}
    network, factor = structure.content["network"]["config"], structure.content.get("vae_scale_factor")
    return _usual(structure.pipeline, network, vae, factor)


def check_generated(pipe: Any, result: Any, height: int | None, width: int | None, frames: int | None = None) -> None:
    """Refuse images of another size, or videos of another length, than was asked for and will be recorded.

    Args:
        pipe: whose `result` it is.
        result: images (B, 3, H, W) or videos (B, F, 3, H, W), under its usual name.
        height: in pixels; None if none was asked for.
        width: the same.
        frames: length of a video; None for images.

    Raises:
        UsageError: with both sizes, or both lengths.
    """
    found = tuple((result.frames if hasattr(result, "frames") else result.images).shape)
    name = type(pipe).__name__
    if height is not None and width is not None and found[-2:] != (height, width):
        raise UsageError(
            f"{name} generates {found[-2]} x {found[-1]} px where height={height} and width={width} were asked for; "
            "ask for a size that it can generate"
        )
    if frames is not None and found[1] != frames:
        raise UsageError(f"{name} makes {found[1]} frames where frames={frames} were asked for; use {found[1]}")


def _usual(cls: Any, network: Mapping[str, Any], vae: Mapping[str, Any], factor: int | None = None) -> Size | None:
    """From the pipeline's class, the configs of denoiser and VAE, and pixels along a side of a latent, if it tells."""
    taken = inspect.signature(cls.__call__).parameters
    height, width = (taken[name].default if name in taken else None for name in SIDES)
    if isinstance(height, int) and isinstance(width, int):
        return height, width
    levels = vae.get("block_out_channels")
    if "vae" not in inspect.signature(cls.__init__).parameters:
        factor = 1  # it generates pixels
    elif not factor and isinstance(levels, list | tuple):  # DiT's pipeline is the one that does not tell
        factor = 2 ** (len(levels) - 1)
    size = network.get("sample_size")
    sides = [size, size] if isinstance(size, int) else list(size or ())[-2:]
    if not factor or len(sides) != len(SIDES) or not all(isinstance(side, int) for side in sides):
        return None
    return sides[0] * factor, sides[1] * factor


def _config(model: PipelineCard, part: str, key: str) -> dict[str, Any]:
    """What the config of a part says; nothing if there is no such part. `key` is what cards call one from elsewhere."""
    brought = parts(model).get(key)
    source, name = (model, f"{part}/config.json") if brought is None else (brought, "config.json")
    try:
        if source.hub is None:
            file = package_file(str(source.folder)) / name
        else:
            file = hub.fetch_file(source.hub, source.revision, name)
        found = json.loads(file.read_text(encoding="utf-8"))
    except (UsageError, OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
