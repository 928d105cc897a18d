"""Choosing among lines that stand by themselves: prompts, and classes to draw.

Prompts come `in_order`, the first ones of the file, or `random`, drawn without repetition. Classes come `balanced`, all
of them in turn so that every multiple of their number is balanced too, or `random`, each line's drawn by itself as in
DiT's sampling script.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from postdiff.datasets import choice
from postdiff.datasets.lines import Line
from postdiff.engine.errors import UsageError, unknown

__all__ = ["CLASS_RULES", "PROMPT_RULES", "choose_classes", "choose_prompts"]

PROMPT_RULES = ("in_order", "random")
CLASS_RULES = ("balanced", "random")


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
    count = choice.enough(count, len(lines), "prompts", where)
    if rule == "in_order":
        how = f"the first {count} of" if count < len(lines) else "all"
        return list(lines[:count]), f"{how} {len(lines)} prompts"
    numbered = choice.drawn(list(enumerate(lines)), count, seed, "line", lambda item: item[0])
    return [line for _, line in numbered], f"{count} of {len(lines)} prompts drawn with seed {seed}"


def choose_classes(classes: Sequence[Line], rule: str, count: int | None, seed: int) -> tuple[list[Line], str]:
    """The classes to draw, each with its name as prompt, and a sentence that says how.

    Args:
        classes: every class once, with its number.
        rule: one of `CLASS_RULES`.
        count: number of lines; None means every class once.
        seed: of random labels.

    Raises:
        UsageError: no such rule, a count below 1, or one that cannot be balanced.
    """
    if rule not in CLASS_RULES:
        raise unknown("rule for classes", rule, CLASS_RULES)
    count = len(classes) if count is None else count
    if count < 1:
        raise UsageError(f"count={count} is too small; use at least 1")
    if rule == "balanced":
        each, rest = divmod(count, len(classes))
        if rest:
            raise UsageError(
                f"count={count} is no multiple of {len(classes)} classes, so it cannot be balanced; use "
                f"{(each + 1) * len(classes)}, or --choose random"
            )
        picked, how = (
            [classes[i % len(classes)] for i in range(count)],
            f"each of {len(classes)} classes {'once' if each == 1 else f'{each} times'}",
        )
    else:
        picked = [classes[choice.number(len(classes), seed, "label", i)] for i in range(count)]
        how = f"{count} labels of {len(classes)} classes drawn at random with seed {seed}"
    return [dataclasses.replace(line, id=str(i)) for i, line in enumerate(picked)], how
