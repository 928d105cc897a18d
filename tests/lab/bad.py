"""What a bad input to the command line is, and the words of a short run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

RUN = ("run", "tiny", "--rows", "plain")
# No reference images, no features, no timing.
FEW = ("count=1", "seeds=[0]", "metrics=[]", "bench.repeats=0")


@dataclass(frozen=True)
class Bad:
    """One bad input.

    Attributes:
        words: of the command line; HERE stands for a fresh folder that is in POSTDIFF_PATH.
        told: parts of the one line, in this order: the thing, the cause, the remedy.
        files: {path below HERE: content}, written before; HERE stands for the folder in these too.
    """

    words: tuple[str, ...]
    message: tuple[str, ...]
    files: dict[str, Any] = field(default_factory=dict)


def run(*words: str) -> tuple[str, ...]:
    """A short run with `words`, which stand in the place of what they set."""
    return (*RUN, *instead(FEW, words))


def instead(usual: Iterable[str], words: Sequence[str]) -> tuple[str, ...]:
    """`words`, and those of `usual` that set something else."""
    own = {word.partition("=")[0] for word in words}
    return (*(word for word in usual if word.partition("=")[0] not in own), *words)


def experiment(content: Any, name: str = "mine") -> dict[str, Any]:
    return {f"configs/experiments/{name}.yaml": content}


def model(content: Any) -> dict[str, Any]:
    return {"configs/models/mine.yaml": content}


def data(content: Any, **files: Any) -> dict[str, Any]:
    return {"configs/data/mine.yaml": content, **files}


def preset(content: Any) -> dict[str, Any]:
    return {"configs/methods/mine.yaml": content}


def rows(**named: Any) -> dict[str, Any]:
    return {"base": {"model": "tiny", "data": "tiny"}, "rows": named}
