"""Images that go into a pipeline: cut to the run's size, then turned into what a ControlNet was trained on.

A condition is a class; `conditions/NAME.py` in a folder of one's own adds one (`postdiff.engine.plugins`).
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image, ImageOps
from pydantic import Field

from postdiff.engine import plugins
from postdiff.engine.errors import UsageError
from postdiff.lab.config.layers import merged
from postdiff.lab.data import image_files

__all__ = ["CONDITIONS", "Condition", "ConditionConfig", "build", "find", "prepared"]

PILImage = Image.Image
# The largest gradient of 8-bit pixels under Sobel's filter is 2040.
Gradient = Annotated[float, Field(ge=0, le=2040, allow_inf_nan=False)]
Blur = Annotated[float, Field(ge=0.1, le=100, allow_inf_nan=False)]  # strokes vanish below, and above it takes minutes


@dataclass
class ConditionConfig:
    """What is made of an image: the name of a condition and its options."""

    name: str = "none"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Condition:
    """Base of all conditions. Fields are options, checked by their annotations; what `__post_init__` raises is told."""

    def __call__(self, image: PILImage) -> PILImage:
        """The condition of an RGB image, as large as that."""
        raise NotImplementedError


@dataclass
class Unchanged(Condition):
    """The image itself: where image-to-image starts, or a condition that was made elsewhere."""

    def __call__(self, image: PILImage) -> PILImage:
        return image


@dataclass
class Canny(Condition):
    """White edges on black by OpenCV's Canny.

    Attributes:
        low: gradient above which an edge goes on.
        high: gradient above which an edge begins. 100 and 200 as ControlNet's authors have them.
    """

    low: Gradient = 100
    high: Gradient = 200

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise UsageError(f"low={self.low:g} is not below high={self.high:g}; exchange or change them")
        _opencv()

    def __call__(self, image: PILImage) -> PILImage:
        return _grey(_opencv().Canny(np.array(image), self.low, self.high))


@dataclass
class Scribble(Condition):
    """White strokes on black as the scribble ControlNet was trained on: HED edges, thinned and thickened again.

    By controlnet_aux, with its own weights from the hub (lllyasviel/Annotators).
    """

    def __post_init__(self) -> None:
        _controlnet_aux()

    def __call__(self, image: PILImage) -> PILImage:
        side = min(image.size)
        found = _hed()(image, scribble=True, detect_resolution=side, image_resolution=side)
        return found.convert("RGB").resize(image.size)


@dataclass
class ScribbleXDoG(Condition):
    """White strokes on black without a network: where an image is darker than its surroundings.

    The difference of two Gaussian blurs, cut at a threshold: the idea of XDoG (Winnemöller et al., 2012), with the
    numbers that users of the scribble ControlNet know. Not what it was trained on: values of `scribble` and of this
    do not compare.

    Attributes:
        fine: standard deviation of the weaker blur in pixels.
        coarse: that of the stronger one.
        threshold: a stroke is where twice the difference of the darkest channel is above it; 0 to 255.
    """

    fine: Blur = 0.5
    coarse: Blur = 5.0
    threshold: Annotated[float, Field(ge=0, le=255, allow_inf_nan=False)] = 32

    def __post_init__(self) -> None:
        if self.fine >= self.coarse:
            raise UsageError(f"fine={self.fine:g} is not below coarse={self.coarse:g}; exchange or change them")
        _opencv()

    def __call__(self, image: PILImage) -> PILImage:
        cv2 = _opencv()
        pixels = np.array(image).astype(np.float32)
        blurred = [cv2.GaussianBlur(pixels, (0, 0), sigma) for sigma in (self.fine, self.coarse)]
        darker = (blurred[1] - blurred[0]).max(axis=2)
        return _grey(np.where(2 * darker.clip(0, 255) > self.threshold, 255, 0).astype(np.uint8))


CONDITIONS: dict[str, type[Condition]] = {
    "none": Unchanged,
    "canny": Canny,
    "scribble": Scribble,
    "scribble_xdog": ScribbleXDoG,
}


def find(name: str) -> type[Condition]:
    """The class of a condition, ours or of a folder of `POSTDIFF_PATH`.

    Raises:
        UsageError: see `plugins.find`.
    """
    found: type[Condition] | None = plugins.find("conditions", name, Condition, CONDITIONS)
    return CONDITIONS[name] if found is None else found


def build(config: ConditionConfig) -> Condition:
    """The condition of that name with its options.

    Raises:
        UsageError: unknown name or option, a value out of range, a missing package, or a broken file.
    """
    cls = find(config.name)
    if config.options and not dataclasses.fields(cls):
        raise UsageError(f"condition '{config.name}' has no options; leave '{next(iter(config.options))}' out")
    try:
        return merged(cls, [(f"condition '{config.name}'", config.options)])
    except UsageError:
        raise
    except Exception as error:  # a class of somebody's own may raise anything
        raise plugins.broken("conditions", config.name, "built", error, inspect.getfile(cls)) from error


def prepared(file: Path, size: tuple[int, int], condition: ConditionConfig) -> PILImage:
    """The image of a file, ready for a pipeline: RGB, the middle of it in the run's shape, then its condition.

    Args:
        file: see `image_files.opened`; what is transparent becomes white, and it stands as its camera was held.
        size: height and width in pixels.
        condition: what is made of it.

    Raises:
        UsageError: the file cannot be read, or the condition fails on it.
    """
    return _prepared(file, size, condition.name, tuple(sorted(condition.options.items())))


# A call that is timed several times must not read its images each time.
@functools.lru_cache(maxsize=64)
def _prepared(file: Path, size: tuple[int, int], name: str, options: tuple[tuple[str, Any], ...]) -> PILImage:
    with image_files.opened(file) as opened:
        image = _on_white(ImageOps.exif_transpose(opened))
    height, width = size
    fitted = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    made = build(ConditionConfig(name, dict(options)))
    try:
        return made(fitted)
    except UsageError:
        raise
    except Exception as error:  # OpenCV and the annotators raise kinds of their own
        reason = " ".join(str(error).split())[:300]
        raise UsageError(
            f"condition '{name}' fails on {file}: {reason}; see to its options in the data card"
        ) from error


def mask(file: Path, size: tuple[int, int]) -> PILImage:
    """The mask of an image, fitted as `prepared` fits the image, in shades of grey.

    Args:
        file: as for `prepared`.
        size: height and width in pixels.

    Raises:
        UsageError: the file cannot be read.
    """
    return prepared(file, size, ConditionConfig()).convert("L")


def _on_white(image: PILImage) -> PILImage:
    if not image.has_transparency_data:
        return image.convert("RGB")
    whole = image.convert("RGBA")
    white = Image.new("RGBA", whole.size, "white")
    return Image.alpha_composite(white, whole).convert("RGB")


def _grey(pixels: Any) -> PILImage:
    return Image.fromarray(np.asarray(pixels)).convert("RGB")


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise UsageError("needs OpenCV, which is not installed; pip install 'postdiff[control]'") from error
    return cv2


def _controlnet_aux() -> Any:
    try:
        import controlnet_aux
    except ImportError as error:
        raise UsageError(
            "needs the package controlnet_aux, which is not installed; pip install "
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
