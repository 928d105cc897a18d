"""Choosing lines by hashes: no random number generator, so a choice is the same with every version of everything.

Things are drawn in the order of SHA-256("seed:kind:name"), the first ones being the choice. So a smaller choice with
the same seed is the beginning of a larger one.

Prompts come `in_order`, the first ones of the file, or `random`, drawn without repetition. Classes come `balanced`, all
of them in turn so that every multiple of their number is balanced too, or `random`, each line's drawn by itself as in
DiT's sampling script. Captions: `postdiff.datasets.coco`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from postdiff.datasets.lines import Line
from postdiff.engine.errors import UsageError, unknown

__all__ = ["CLASS_RULES", "PROMPT_RULES", "choose_classes", "choose_prompts", "sampled", "enough"]

PROMPT_RULES = ("in_order", "random")
CLASS_RULES = ("balanced", "random")
T = TypeVar("T")


def _digest(seed: int, kind: str, name: object) -> bytes:
    return hashlib.sha256(f"{seed}:{kind}:{name}".encode()).digest()


def sampled(items: Sequence[T], count: int, seed: int, kind: str, name: Callable[[T], object]) -> list[T]:
    """`count` of the items without repetition, in the order drawn.

    Args:
        items: each with a name of its own.
        count: at most their number.
        seed: of the draw.
        kind: what they are, so that two draws with one seed are independent.
        name: of an item.
    """
    return sorted(items, key=lambda item: _digest(seed, kind, name(item)))[:count]


def enough(count: int | None, available: int, what: str, where: str) -> int:
    """The number of lines to choose.

    Args:
        count: asked for; None means all.
        available: how many there are.
        what: of what, for messages.
        where: file, for messages.

    Raises:
        UsageError: more than there are.
    """
    if count is None:
        return available
    if count > available:
        raise UsageError(f"count={count}, but {where} has {available} {what}; use at most that")
    return count


def choose_prompts(
    lines: Sequence[Line], rule: str, count: int | None, seed: int, where: str
) -> tuple[list[Line], str]:
    """The lines chosen, and a sentence that says how.

    Args:
        lines: all of the file.
        rule: one of `PROMPT_RULES`.
        count: number of lines; None means all.
        seed: of a random choice.
        where: file, for messages.

    Raises:
        UsageError: no such rule, or fewer lines than asked for.
    """
    if rule not in PROMPT_RULES:
        raise unknown("rule for prompts", rule, PROMPT_RULES)
    count = enough(count, len(lines), "prompts", where)
    if rule == "in_order":
        how = f"the first {count} of" if count < len(lines) else "all"
        return list(lines[:count]), f"{how} {len(lines)} prompts"
    numbered = sampled(list(enumerate(lines)), count, seed, "line", lambda item: item[0])
    return [line for _, line in numbered], f"{count} of {len(lines)} prompts drawn with seed {seed}"


def choose_classes(classes: Sequence[Line], rule: str, count: int | None, seed: int) -> tuple[list[Line], str]:
    """The classes to draw, each with its name as prompt, and a sentence that says how.

    Args:
        classes: every class once, with its number.
        rule: one of `CLASS_RULES`.
        count: number of lines; None means every class once.
        seed: of random labels.

    Raises:
        UsageError: no such rule, or a count that cannot be balanced.
    """
    if rule not in CLASS_RULES:
        raise unknown("rule for classes", rule, CLASS_RULES)
    count = len(classes) if count is None else count
    if rule == "balanced":
        each, rest = divmod(count, len(classes))
        if rest:
            raise UsageError(
                f"count={count} is no multiple of {len(classes)} classes, so it cannot be balanced; use "
                f"{(each + 1) * len(classes)}, or --choose random"
            )
        picked = [classes[i % len(classes)] for i in range(count)]
        how = f"each of {len(classes)} classes {'once' if each == 1 else f'{each} times'}"
    else:
        # A whole number below that of classes, each as likely as the others.
        digests = (int.from_bytes(_digest(seed, "label", i), "big") for i in range(count))
        picked = [classes[digest % len(classes)] for digest in digests]
        how = f"{count} labels of {len(classes)} classes drawn at random with seed {seed}"
    return [dataclasses.replace(line, id=str(i)) for i, line in enumerate(picked)], how
