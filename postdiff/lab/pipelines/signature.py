"""What a pipeline takes, read from the signature of its call, and whether card, data and run give just that."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from postdiff.engine.errors import UsageError, unknown
from postdiff.engine.family import family_of
from postdiff.lab.config.schema import RunConfig
from postdiff.lab.data.data_cards import DataCard

__all__ = ["FRAMES", "Signature", "check", "check_arguments", "guidance", "in_pixels", "signature_of"]

FRAMES = "num_frames"  # what video pipelines call their length
# What the lab itself hands to every pipeline that takes it, and to a pipeline that is no stage of a cascade.
GIVEN = (
    *("self", "prompt", "image", "generator", "output_type", "num_inference_steps", "guidance_scale"),
    *("height", "width"),
)
GIVEN_ALONE = ("mask_image", "class_labels", "strength", FRAMES)
# They edit an image if they are given one, and generate from text alone otherwise.
ALSO_WITHOUT_IMAGE = ("FluxKontextPipeline", "Flux2Pipeline", "Flux2KleinPipeline")
# Several images of one call are those of one prompt.
ONE_PROMPT_WITH_IMAGE = ("Flux2Pipeline", "Flux2KleinPipeline", "QwenImageEditPlusPipeline")


@dataclass(frozen=True)
class Signature:
    """What a pipeline class takes.

    Attributes:
        name: of the class.
        accepted: all arguments of its call.
        prompts: whether it takes text.
        classes: whether it takes class labels.
        image: whether it takes an image: a ControlNet's condition, where image-to-image starts, or what is edited.
        mask: whether it takes a mask of what is repainted.
        default_frames: the length of a video; None if it makes single images.
        default_steps: inference steps.
    """

    name: str
    accepted: frozenset[str]
    prompts: bool
    classes: bool
    image: bool
    mask: bool
    default_frames: int | None
    default_steps: int


def signature_of(cls: Any) -> Signature:
    """What the pipelines of a class take; a subclass whose call passes on what it does not name takes its parent's."""
    found: dict[str, inspect.Parameter] = {}
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for owner in (each for each in cls.__mro__ if "__call__" in vars(each)):
        own = inspect.signature(vars(owner)["__call__"]).parameters
        found = {name: parameter for name, parameter in own.items() if parameter.kind not in variable} | found
        if all(parameter.kind != inspect.Parameter.VAR_KEYWORD for parameter in own.values()):
            break
    return Signature(
        name=cls.__name__,
        accepted=frozenset(found),
        prompts="prompt" in found,
        classes="class_labels" in found,
        image="image" in found,
        mask="mask_image" in found,
        default_frames=int(found[FRAMES].default) if FRAMES in found else None,
        default_steps=int(found["num_inference_steps"].default) if "num_inference_steps" in found else 50,
    )


def check(wanted: Signature, config: RunConfig, data_card: DataCard) -> None:
    """Refuse what does not fit, either way.

    Args:
        wanted: what the pipeline takes.
        config: of the row, with the model card's strength and frames where it has none of its own.
        data_card: of the row.

    Raises:
        UsageError: one line with the first thing that is missing or of no use.
    """
    name, data = wanted.name, f"data '{config.data}'"
    images, classes = data_card.images is not None, data_card.classes is not None
    if wanted.classes and not classes:
        raise UsageError(f"{name} takes no prompt but a class, and {data} has prompts; use data=imagenet")
    if not wanted.classes and not wanted.prompts:
        raise UsageError(f"{name} takes no prompt; experiments need a text-to-image or class-conditional model")
    if not wanted.classes and classes:
        raise UsageError(f"{data} has classes, and {name} takes prompts; use data of prompts")
    if wanted.image and not images and name not in ALSO_WITHOUT_IMAGE:
        raise UsageError(f"{name} needs an image for each prompt, and {data} has none; name them under 'images' there")
    if not wanted.image and images:
        raise UsageError(f"{data} has images, and {name} takes none; use data without 'images'")
    if wanted.mask and "control_image" in wanted.accepted:
        raise UsageError(f"{name} needs a control image beside the image, which no data card has; use another pipeline")
    if wanted.mask and data_card.masks is None:
        raise UsageError(f"{name} needs a mask for each image, and {data} has none; name them under 'masks' there")
    if not wanted.mask and data_card.masks is not None:
        raise UsageError(f"{data} has masks, and {name} takes none; use data without 'masks'")
    for key, size in {"batch_size": config.batch_size, "bench.batch_size": config.bench.batch_size}.items():
        if images and size > 1 and name in ONE_PROMPT_WITH_IMAGE:
            raise UsageError(f"{key}={size}: {name} takes one prompt a call where there is an image; use {key}=1")
    if config.strength is not None and "strength" not in wanted.accepted:
        raise UsageError(f"strength={config.strength} is for image-to-image, and {name} is none; leave it out")
    if config.frames is not None and wanted.default_frames is None:
        raise UsageError(f"frames={config.frames} is for videos, and {name} makes single images; leave it out")


def check_arguments(wanted: Signature, arguments: Mapping[str, Any], *, stage: bool = False) -> None:
    """Refuse what a card hands to its pipeline, if that does not take it or has it from the lab.

    Args:
        wanted: what the pipeline takes.
        arguments: of the card.
        stage: whether it is one of a cascade.

    Raises:
        UsageError: the first one that does not fit.
    """
    given = GIVEN if stage else (*GIVEN, *GIVEN_ALONE)
    for argument in arguments:
        if argument in given or argument not in wanted.accepted:
            raise unknown(f"argument of {wanted.name}", argument, wanted.accepted.difference(given))


def guidance(pipe: Any) -> str:
    """The argument that `guidance_scale` of cards and runs goes to.

    That of the same name is a condition where guidance is embedded in the network. Where there is another one for
    guidance by two branches, and nothing is embedded, it has no effect.
    """
    family = family_of(pipe)
    embedded = getattr(pipe, family.network).config.get("guidance_embeds", False)
    return "guidance_scale" if embedded else family.scale


def in_pixels(pipe: Any) -> bool:
    """Whether the pipeline diffuses pixels: its images are then in [-1, 1] as tensors, all others' in [0, 1]."""
    return getattr(pipe, "vae", None) is None
