"""Which combinations are held out of everything that is trained: read from `held_out.json`, never drawn anew.

`python -m experiments.styles.split` made that file. A tenth of the (concept, style) pairs is held out, at most one of a
concept, and one colour of every style; so every concept, style and colour is seen, and these combinations never.
"""

import itertools
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from experiments.styles.captions import COLOURS, STYLES
from experiments.styles.icons import read_concepts

FILE = Path(__file__).parent / "held_out.json"
# One colour of every style, four different ones.
STYLE_COLOURS = {"cartoon": "green", "stencil": "yellow", "pixel": "blue", "outline": "red"}


@dataclass(frozen=True)
class Split:
    """All concepts, and the pairs that no training may see."""

    concepts: tuple[str, ...]
    pairs: frozenset[tuple[str, str]]
    style_colours: frozenset[tuple[str, str]]

    def held(self, concept: str, style: str, colour: str) -> bool:
        """Whether an image of these three is held out."""
        return (concept, style) in self.pairs or (style, colour) in self.style_colours

    def seen_pairs(self) -> list[tuple[str, str]]:
        """(concept, style) in the order of the listing, those of training."""
        return [pair for pair in itertools.product(self.concepts, STYLES) if pair not in self.pairs]

    def held_pairs(self) -> list[tuple[str, str]]:
        """(concept, style) in the order of the listing, those held out."""
        return [pair for pair in itertools.product(self.concepts, STYLES) if pair in self.pairs]

    def seen(self) -> Iterator[tuple[str, str, str]]:
        """(concept, style, colour) of every image that training may see."""
        for concept, style in self.seen_pairs():
            for colour in COLOURS:
                if not self.held(concept, style, colour):
                    yield concept, style, colour

    def numbered(self, combinations: Iterable[tuple[str, str, str]]) -> list[tuple[int, str, str]]:
        """(concept, style, colour) each, with the concept's number for its name, as `Drawings` has them."""
        number = {concept: index for index, concept in enumerate(self.concepts)}
        return [(number[concept], style, colour) for concept, style, colour in combinations]

    def seen_colours(self, style: str) -> list[str]:
        """The background colours that a style is trained on."""
        return [colour for colour in COLOURS if (style, colour) not in self.style_colours]


def choose(concepts: list[str], seed: int = 0) -> Split:
    """Hold out a tenth of the pairs, as evenly over the styles as it goes, each from another concept."""
    randomness = random.Random(seed)
    count = round(len(concepts) * len(STYLES) / 10)
    chosen = randomness.sample(concepts, count)
    pairs = frozenset((concept, STYLES[index % len(STYLES)]) for index, concept in enumerate(chosen))
    return Split(tuple(concepts), pairs, frozenset(STYLE_COLOURS.items()))


def read_split(file: Path = FILE) -> Split:
    """The split that the repository keeps."""
    stored = json.loads(file.read_text())
    pairs = frozenset((concept, style) for style, concepts in stored["pairs"].items() for concept in concepts)
    return Split(tuple(read_concepts()), pairs, frozenset(stored["style_colours"].items()))


def main() -> None:
    split = choose(list(read_concepts()))
    pairs = {style: [concept for concept, other in split.held_pairs() if other == style] for style in STYLES}
    FILE.write_text(json.dumps({"pairs": pairs, "style_colours": STYLE_COLOURS}, indent=2) + "\n")


if __name__ == "__main__":
    main()
