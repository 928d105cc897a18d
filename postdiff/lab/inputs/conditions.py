"""Pictures that go into a pipeline: cut to the run's size, then turned into what a ControlNet was trained on."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from postdiff.datasets.content import shown
from postdiff.engine.errors import UsageError, unknown
from postdiff.lab.inputs import picture_files
from postdiff.lab.inputs.picture_files import refuse_unreadable

__all__ = ["CONDITIONS", "Condition", "check", "prepared", "refuse_unreadable"]

Picture = Image.Image


@dataclass
class Condition:
    """What is made of a picture: a name of `CONDITIONS` and its options."""

    name: str = "none"
    options: dict[str, Any] = field(default_factory=dict)


def none(picture: Picture) -> Picture:
    """The picture itself: where image-to-image starts, or a condition that was made elsewhere."""
    return picture


def canny(picture: Picture, low: int = 100, high: int = 200) -> Picture:
    """White edges on black by OpenCV's Canny.

    Args:
        picture: RGB.
        low: gradient above which an edge goes on.
        high: gradient above which an edge begins. 100 and 200 as ControlNet's authors have them.
    """
    return _grey(_opencv("canny").Canny(np.array(picture), low, high))


def scribble(picture: Picture) -> Picture:
    """White strokes on black as the scribble ControlNet was trained on: HED edges, thinned and thickened again.

    By controlnet_aux, with its own weights from the hub (lllyasviel/Annotators).
    """
    found = _hed()(picture, scribble=True, detect_resolution=min(picture.size), image_resolution=min(picture.size))
    return found.convert("RGB").resize(picture.size)


def scribble_xdog(picture: Picture, fine: float = 0.5, coarse: float = 5.0, threshold: int = 32) -> Picture:
    """White strokes on black without a network: where a picture is darker than its surroundings.

    The difference of two Gaussian blurs, cut at a threshold: the idea of XDoG (Winnemöller et al., 2012), with the
    numbers that users of the scribble ControlNet know. Not what it was trained on: figures of `scribble` and of this
    do not compare.

    Args:
        picture: RGB.
        fine: standard deviation of the weaker blur in pixels.
        coarse: that of the stronger one.
        threshold: a stroke is where twice the difference of the darkest channel is above it; 0 to 255.
    """
    cv2 = _opencv("scribble_xdog")
    pixels = np.array(picture).astype(np.float32)
    blurred = [cv2.GaussianBlur(pixels, (0, 0), sigma) for sigma in (fine, coarse)]
    darker = (blurred[1] - blurred[0]).max(axis=2)
    return _grey(np.where(2 * darker.clip(0, 255) > threshold, 255, 0).astype(np.uint8))


CONDITIONS: dict[str, Callable[..., Picture]] = {
    "none": none,
    "canny": canny,
    "scribble": scribble,
    "scribble_xdog": scribble_xdog,
}


# What options may be: beyond these edges and strokes vanish, or a blur takes minutes.
RANGES: dict[str, dict[str, tuple[float, float]]] = {
    # The largest gradient of 8-bit pixels under Sobel's filter is 2040.
    "canny": {"low": (0, 2040), "high": (0, 2040)},
    "scribble_xdog": {"fine": (0.1, 100), "coarse": (0.1, 100), "threshold": (0, 255)},
}
ORDERED = {"canny": ("low", "high"), "scribble_xdog": ("fine", "coarse")}


def check(condition: Condition) -> None:
    """Refuse what does not exist, and packages that are not there, before anything is loaded.

    Raises:
        UsageError: unknown name or option, a value out of range, or a missing package.
    """
    if condition.name not in CONDITIONS:
        raise unknown("condition", condition.name, CONDITIONS)
    known = list(inspect.signature(CONDITIONS[condition.name]).parameters)[1:]
    for option in condition.options:
        if option not in known:
            if not known:
                raise UsageError(f"condition '{condition.name}' has no options; leave '{option}' out")
            raise unknown(f"option of condition {condition.name}", option, known)
        _check_value(condition.name, option, condition.options[option])
    if condition.name in ORDERED:
        _check_order(condition)
    if condition.name in ("canny", "scribble_xdog"):
        _opencv(condition.name)
    elif condition.name == "scribble":
        _controlnet_aux()


def _check_value(name: str, option: str, value: Any) -> None:
    least, most = RANGES[name][option]
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise UsageError(f"condition '{name}': {option}={shown(value)} is no number from {least} to {most}; correct it")


def _check_order(condition: Condition) -> None:
    below, above = ORDERED[condition.name]
    usual = inspect.signature(CONDITIONS[condition.name]).parameters
    values = [condition.options.get(name, usual[name].default) for name in (below, above)]
    # OpenCV's thresholds may be equal; the difference of equal blurs is nothing.
    if values[0] > values[1] or (condition.name == "scribble_xdog" and values[0] == values[1]):
        told = f"{below}={values[0]} is not below {above}={values[1]}"
        raise UsageError(f"condition '{condition.name}': {told}; exchange or change them")


def prepared(file: Path, size: tuple[int, int], condition: Condition) -> Picture:
    """The picture of a file, ready for a pipeline: RGB, the middle of it in the run's shape, then its condition.

    Args:
        file: see `picture_files.opened`; what is transparent becomes white, and it stands as its camera was held.
        size: height and width in pixels.
        condition: what is made of it.

    Raises:
        UsageError: the file cannot be read, or the condition fails on it.
    """
    return _prepared(file, size, condition.name, tuple(sorted(condition.options.items())))


# A call that is timed several times must not read its pictures each time.
@functools.lru_cache(maxsize=64)
def _prepared(file: Path, size: tuple[int, int], name: str, options: tuple[tuple[str, Any], ...]) -> Picture:
    with picture_files.opened(file) as opened:
        picture = _on_white(ImageOps.exif_transpose(opened))
    height, width = size
    fitted = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    return _made(CONDITIONS[name], fitted, dict(options), file)


def _made(make: Callable[..., Picture], picture: Picture, options: Mapping[str, Any], file: Path) -> Picture:
    try:
        return make(picture, **options)
    except UsageError:
        raise
    except Exception as error:  # OpenCV and the annotators raise kinds of their own
        reason = " ".join(str(error).split())[:300]
        raise UsageError(
            f"condition '{make.__name__}' fails on {file}: {reason}; see to its options in the data card"
        ) from error


def _on_white(picture: Picture) -> Picture:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    whole = picture.convert("RGBA")
    white = Image.new("RGBA", whole.size, "white")
    return Image.alpha_composite(white, whole).convert("RGB")


def _grey(pixels: Any) -> Picture:
    return Image.fromarray(np.asarray(pixels)).convert("RGB")


def _opencv(name: str) -> Any:
    try:
        import cv2
    except ImportError as error:
        raise UsageError(
            f"condition '{name}' needs OpenCV, which is not installed; pip install 'postdiff[control]'"
        ) from error
    return cv2


def _controlnet_aux() -> Any:
    try:
        import controlnet_aux
    except ImportError as error:
        raise UsageError(
            "condition 'scribble' needs the package controlnet_aux, which is not installed; pip install "
            "controlnet_aux, or use scribble_xdog, or 'none' with scribbles made elsewhere"
        ) from error
    return controlnet_aux


@functools.cache
def _hed() -> Any:
    try:
        return _controlnet_aux().HEDdetector.from_pretrained("lllyasviel/Annotators")
    except Exception as error:  # whatever the hub's client raises without a connection
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"condition 'scribble' cannot have its weights, lllyasviel/Annotators on the hub ({reason}); connect once "
            "to fetch them, or use scribble_xdog"
        ) from error
