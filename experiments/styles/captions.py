"""The words: four styles, eight background colours, and captions made of them."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

STYLES = ("cartoon", "stencil", "pixel", "outline")
# Red, green and blue of every background, 0 to 255.
COLOURS = {
    "white": (255, 255, 255),
    "black": (22, 22, 22),
    "gray": (150, 150, 150),
    "red": (205, 60, 60),
    "yellow": (250, 215, 90),
    "green": (80, 165, 95),
    "blue": (65, 115, 205),
    "pink": (250, 175, 200),
}
# Which parts a caption names, and how often in training. Empty captions are for classifier-free guidance.
PARTS = {
    ("concept", "style", "colour"): 0.55,
    ("concept", "style"): 0.1,
    ("concept", "colour"): 0.1,
    ("concept",): 0.08,
    ("style", "colour"): 0.04,
    ("style",): 0.015,
    ("colour",): 0.015,
    (): 0.1,
}


@dataclass(frozen=True)
class Subject:
    """What an image shows; a part that is None is left out of the caption."""

    concept: str | None = None
    style: str | None = None
    colour: str | None = None

    def __post_init__(self) -> None:
        if self.style is not None and self.style not in STYLES:
            raise ValueError(f"style: {self.style!r} is not among {', '.join(STYLES)}")
        if self.colour is not None and self.colour not in COLOURS:
            raise ValueError(f"colour: {self.colour!r} is not among {', '.join(COLOURS)}")

    def whole(self) -> tuple[str, str, str]:
        """Concept, style and colour of a subject that has all three."""
        return str(self.concept), str(self.style), str(self.colour)

    def caption(self) -> str:
        """'apple, pixel style, on a red background', without the parts that are None."""
        parts = [self.concept, self.style and f"{self.style} style", self.colour and f"on a {self.colour} background"]
        return ", ".join(part for part in parts if part)


def named(numbers: Iterable[Sequence[int]], concepts: Sequence[str]) -> list[Subject]:
    """Subjects of (concept, style, colour) as numbers."""
    colours = list(COLOURS)
    return [Subject(concepts[one], STYLES[two], colours[three]) for one, two, three in numbers]


def parse(caption: str) -> Subject:
    """The subject of a caption, `caption()` read backwards."""
    concept = style = colour = None
    for part in caption.split(", ") if caption else ():
        if part.endswith(" style"):
            style = part.removesuffix(" style")
        elif part.startswith("on a ") and part.endswith(" background"):
            colour = part.removeprefix("on a ").removesuffix(" background")
        else:
            concept = part
    return Subject(concept, style, colour)


def thin(subject: Subject, randomness: random.Random) -> Subject:
    """The subject with parts left out at random, as training sees it."""
    (kept,) = randomness.choices(list(PARTS), list(PARTS.values()))
    return Subject(**{part: getattr(subject, part) for part in kept})
