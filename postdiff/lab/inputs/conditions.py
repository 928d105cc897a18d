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

from postdiff.engine.errors import UsageError, unknown

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


def check(condition: Condition) -> None:
    """Refuse what does not exist, and packages that are not there, before anything is loaded.

    Raises:
        UsageError: unknown name or option, or a missing package.
    """
    if condition.name not in CONDITIONS:
        raise unknown("condition", condition.name, CONDITIONS)
    known = list(inspect.signature(CONDITIONS[condition.name]).parameters)[1:]
    for option in condition.options:
        if option not in known:
            if not known:
                raise UsageError(f"condition '{condition.name}' has no options; leave '{option}' out")
            raise unknown(f"option of condition {condition.name}", option, known)
    if condition.name in ("canny", "scribble_xdog"):
        _opencv(condition.name)
    elif condition.name == "scribble":
        _controlnet_aux()


def prepared(file: Path, size: tuple[int, int], condition: Condition) -> Picture:
    """The picture of a file, ready for a pipeline: RGB, the middle of it in the run's shape, then its condition.

    Args:
        file: any format that Pillow reads; what is transparent becomes white.
        size: height and width in pixels.
        condition: what is made of it.

    Raises:
        UsageError: the file cannot be read, or the condition fails on it.
    """
    return _prepared(file, size, condition.name, tuple(sorted(condition.options.items())))


# A call that is timed several times must not read its pictures each time.
@functools.lru_cache(maxsize=64)
def _prepared(file: Path, size: tuple[int, int], name: str, options: tuple[tuple[str, Any], ...]) -> Picture:
    try:
        with Image.open(file) as opened:
            picture = _on_white(ImageOps.exif_transpose(opened))
    except (OSError, SyntaxError, ValueError) as error:
        raise _unreadable(file) from error
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


def refuse_unreadable(file: Path) -> None:
    """A quick look at a picture's first bytes, long before it is drawn on.

    Raises:
        UsageError: it is no picture.
    """
    try:
        with Image.open(file):
            pass
    except (OSError, SyntaxError, ValueError) as error:
        raise _unreadable(file) from error


def _unreadable(file: Path) -> UsageError:
    return UsageError(f"picture {file} cannot be read; put it right, or take it out of the data card's images")


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
