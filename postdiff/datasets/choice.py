"""Choosing lines by hashes: no random number generator, so a choice is the same with every version of everything.

Things are drawn in the order of SHA-256("seed:kind:name"), the first ones being the choice. So a smaller choice with
the same seed is the beginning of a larger one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from postdiff.engine.errors import UsageError

__all__ = ["drawn", "enough", "number"]

T = TypeVar("T")


def _digest(seed: int, kind: str, name: object) -> bytes:
    return hashlib.sha256(f"{seed}:{kind}:{name}".encode()).digest()


def drawn(items: Sequence[T], count: int, seed: int, kind: str, name: Callable[[T], object]) -> list[T]:
    """`count` of the items without repetition, in the order drawn.

    Args:
        items: each with a name of its own.
        count: at most their number.
        seed: of the draw.
        kind: what they are, so that two draws with one seed are independent.
        name: of an item.
    """
    return sorted(items, key=lambda item: _digest(seed, kind, name(item)))[:count]


def number(below: int, seed: int, kind: str, name: object) -> int:
    """A whole number from 0 to `below` - 1, each as likely as the others."""
    return int.from_bytes(_digest(seed, kind, name), "big") % below


def enough(count: int | None, available: int, what: str, where: str) -> int:
    """The number of lines to choose.

    Args:
        count: asked for; None means all.
        available: how many there are.
        what: of what, for messages.
        where: file, for messages.

    Raises:
        UsageError: fewer than 1, or more than there are.
    """
    if count is None:
        return available
    if count < 1:
        raise UsageError(f"count={count} is too small; use at least 1")
    if count > available:
        raise UsageError(f"count={count}, but {where} has {available} {what}; use at most that")
    return count
