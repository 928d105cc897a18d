"""The best steps to compute the network at, for a given number of them: annealing, then hill climbing.

After BudCache's first stage (arXiv:2606.13496), with three changes. The temperature is in units of the first loss, the
climb begins with the best mask and not with the last one, and the best is kept wherever it is met.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["Effort", "Found", "even", "search"]

Mask = tuple[int, ...]
HOT, COLD = 0.05, 1e-5
NEAR = 3  # steps that a near move goes at most


@dataclass(frozen=True)
class Effort:
    """How long to search.

    Attributes:
        annealing: moves.
        climbing: rounds, each of which looks at all near moves.
        masks: different masks in all, at most.
    """

    annealing: int = 60
    climbing: int = 3
    masks: int = 100


@dataclass(frozen=True)
class Found:
    """What a search has found.

    Attributes:
        mask: steps that are computed, rising from 0.
        loss: its.
        first: loss of the mask of even distances, which the search begins with.
        tried: different masks.
    """

    mask: Mask
    loss: float
    first: float
    tried: int


def even(steps: int, computed: int) -> Mask:
    """The first quarter of the computed steps at the beginning, the others at even distances."""
    prefix = _prefix(computed)
    rest, left = computed - prefix, steps - prefix
    return (*range(prefix), *(prefix + (2 * place + 1) * left // (2 * rest) for place in range(rest)))


def search(steps: int, computed: int, loss: Callable[[Mask], float], effort: Effort, seed: int = 0) -> Found:
    """Search.

    Args:
        steps: of the run.
        computed: how many of them are, from 1 to all.
        loss: of a mask; asked once for each.
        effort: how long.
        seed: of the moves, which are the same each time.
    """
    chance = random.Random(seed)
    known: dict[Mask, float] = {}

    def of(mask: Mask) -> float:
        if mask not in known:
            known[mask] = loss(mask)
        return known[mask]

    mask = even(steps, computed)
    first = own = of(mask)
    scale = first or 1.0
    if computed < steps:
        for turn in range(effort.annealing):
            if len(known) >= effort.masks:
                break
            other = _moved(mask, steps, chance)
            heat = HOT * (COLD / HOT) ** (turn / effort.annealing) * scale
            if of(other) < own or chance.random() < math.exp((own - of(other)) / heat):
                mask, own = other, of(other)
        mask = min(known, key=lambda each: (known[each], each))
        for _ in range(effort.climbing):
            best = mask
            for other in _near(mask, steps):
                if other not in known and len(known) >= effort.masks:
                    break
                best = min(best, other, key=lambda each: (of(each), each))
            if best == mask:
                break
            mask = best
    best = min(known, key=lambda each: (known[each], each))
    return Found(best, known[best], first, len(known))


def _prefix(computed: int) -> int:
    """Steps at the beginning that are always computed."""
    return max(1, computed // 4)


def _moved(mask: Mask, steps: int, chance: random.Random) -> Mask:
    """One computed step elsewhere, mostly near; or two of them anywhere."""
    for _ in range(1 if chance.random() < 0.9 else 2):
        place = chance.randrange(_prefix(len(mask)), len(mask)) if len(mask) > _prefix(len(mask)) else None
        if place is None:
            return mask
        free = [step for step in range(_prefix(len(mask)), steps) if step not in mask]
        near = [step for step in free if abs(step - mask[place]) <= NEAR]
        choices = near if near and chance.random() < 0.7 else free
        mask = tuple(sorted({*mask[:place], *mask[place + 1 :], chance.choice(choices)}))
    return mask


def _near(mask: Mask, steps: int) -> Iterator[Mask]:
    """All moves of one step to a near place."""
    for place in range(_prefix(len(mask)), len(mask)):
        for step in range(max(_prefix(len(mask)), mask[place] - NEAR), min(steps, mask[place] + NEAR + 1)):
            if step not in mask:
                yield tuple(sorted({*mask[:place], *mask[place + 1 :], step}))
