"""Captions of the COCO data sets: which caption of which image.

An annotation file has images, each with five captions or more. Three rules choose among them:

- `first`: different images, of each the caption that stands first in the file;
- `random`: different images, of each a caption drawn at random;
- `captions`: captions drawn at random among all, so two may belong to one image.

With the first two, all images come in the order of their numbers; fewer than all are drawn at random and come in the
order drawn. White space around a caption is removed, and line breaks in it become spaces: some have them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from postdiff.datasets import choice
from postdiff.datasets.content import is_whole, parsed_json
from postdiff.datasets.lines import Line, checked_image, checked_prompt
from postdiff.engine.errors import UsageError, unknown

__all__ = ["RULES", "Captions", "choose", "is_coco", "parse"]

RULES = ("first", "random", "captions")


@dataclass
class _Image:
    id: int
    name: str
    captions: list[tuple[int, str]] = field(default_factory=list)

    def line(self, number: int, caption: str) -> Line:
        return Line(f"{self.id}-{number}", caption, self.name)


@dataclass(frozen=True)
class Captions:
    """An annotation file, checked.

    Attributes:
        where: its name, for messages.
        images: those with captions, in the order of their numbers.
    """

    where: str
    images: tuple[_Image, ...]


def is_coco(text: str) -> bool:
    """Whether JSON text looks like an annotation file, without reading all of it."""
    return text.lstrip()[:1] == "{" and '"annotations"' in text and '"images"' in text


def parse(text: str, where: str) -> Captions:
    """Read an annotation file (`captions_val2014.json`).

    Raises:
        UsageError: broken JSON, no such file, or an entry that does not fit the others.
    """
    content = parsed_json(text, where, "fetch it again")
    entries = content if isinstance(content, dict) else {}
    images, annotations = entries.get("images"), entries.get("annotations")
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise UsageError(f"{where} is no COCO annotation file (no lists 'images', 'annotations'); use captions_*.json")
    found: dict[int, _Image] = {}
    for at, image in enumerate(images, 1):
        message = f"{where}, image {at}"
        number = _number(image, "id", message)
        if number in found:
            raise UsageError(f"{message}: two images have the id {number}; fetch the file again")
        found[number] = _Image(number, checked_image(image.get("file_name"), message))
    _add_captions(found, annotations, where)
    having = sorted((image for image in found.values() if image.captions), key=lambda image: image.id)
    if not having:
        raise UsageError(f"{where} holds no captions; use captions_*.json")
    return Captions(where, tuple(having))


def _add_captions(images: dict[int, _Image], annotations: list[Any], where: str) -> None:
    seen: set[int] = set()
    for place, annotation in enumerate(annotations, 1):
        message = f"{where}, annotation {place}"
        number, image = _number(annotation, "id", message), _number(annotation, "image_id", message)
        if "caption" not in annotation:
            raise UsageError(f"{message} has no key 'caption'; use captions_*.json, not that of instances or keypoints")
        if number in seen:
            raise UsageError(f"{message}: two annotations have the id {number}; fetch the file again")
        if image not in images:
            raise UsageError(f"{message} belongs to image {image}, which the file does not hold; fetch it again")
        seen.add(number)
        caption = annotation["caption"]
        if isinstance(caption, str):
            caption = " ".join(caption.split())
        images[image].captions.append((number, checked_prompt(caption, message, empty=False)))


def _number(entry: Any, key: str, message: str) -> int:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not is_whole(value):
        raise UsageError(f"{message} has no whole number '{key}' below 2**63; fetch the file again")
    return value


def choose(captions: Captions, rule: str, count: int | None, seed: int) -> tuple[list[Line], str]:
    """The lines chosen, and a sentence that says how.

    Args:
        captions: of an annotation file.
        rule: one of `RULES`.
        count: number of lines; None means all images (or captions).
        seed: of everything drawn.

    Raises:
        UsageError: no such rule, or fewer images or captions than asked for.
    """
    if rule not in RULES:
        raise unknown("rule for captions", rule, RULES)
    images = list(captions.images)
    if rule == "captions":
        every = [image.line(*caption) for image in images for caption in image.captions]
        count = choice.enough(count, len(every), "captions", captions.where)
        lines = choice.sampled(every, count, seed, "caption", lambda line: line.id.partition("-")[2])
        return lines, f"{count} of {len(every)} captions drawn with seed {seed}"
    count = choice.enough(count, len(images), "images with captions", captions.where)
    how = f"all {count} images" if count == len(images) else f"{count} of {len(images)} images, seed {seed}"
    if count < len(images):
        images = choice.sampled(images, count, seed, "image", lambda image: image.id)
    if rule == "first":
        return [image.line(*image.captions[0]) for image in images], f"{how}; the first caption of each"
    one = [choice.sampled(image.captions, 1, seed, "caption", lambda caption: caption[0])[0] for image in images]
    lines = [image.line(*caption) for image, caption in zip(images, one, strict=True)]
    return lines, f"{how}; a random caption of each, seed {seed}"
