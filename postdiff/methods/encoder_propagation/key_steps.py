"""Key steps: where a method computes in full. Published sets as data, and uniform ones.

All steps count from 0 = the first, noisiest one. The papers count down from the number of steps T, so their step t is
T - t here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from postdiff.engine.errors import UsageError, unknown

__all__ = ["KEY_SETS", "KeySet", "key_steps"]

PAPER = "Li et al., Faster Diffusion, NeurIPS 2024, arXiv:2312.09608"
CODE = "code released with arXiv:2312.09608"


@dataclass(frozen=True)
class KeySet:
    """A published choice of key steps.

    Attributes:
        steps: the key steps.
        of: number of steps of the run it was made for.
        source: where it is printed.
    """

    steps: tuple[int, ...]
    of: int
    source: str


def _all_but(skipped: Iterable[int], steps: int) -> tuple[int, ...]:
    """Every step of a run of `steps` but those skipped."""
    return tuple(sorted(set(range(steps)) - set(skipped)))


# Steps that the evaluation script of the DiT code leaves out; the 175 others are keys.
_DIT_SKIPPED = (
    2, 6, 7, 12, 14, 15, 16, 19, 20, 23, 24, 27, 33, 34, 36, 41, 46, 49, 51, 52, 54, 56, 58, 60, 62, 64, 65, 69, 70,
    72, 74, 81, 84, 85, 87, 88, 90, 94, 99, 101, 116, 121, 123, 126, 129, 130, 135, 142, 143, 145, 150, 151, 154, 156,
    162, 163, 172, 173, 178, 179, 180, 181, 184, 186, 187, 200, 201, 210, 220, 222, 223, 233, 235, 239, 241,
)  # fmt: skip

KEY_SETS: dict[str, KeySet] = {
    "sd_50": KeySet((0, 1, 2, 3, 5, 10, 15, 25, 35), 50, f"{PAPER}, Sec. 3.3: SD, ControlNet and video, DDIM"),
    "sd_20": KeySet((0, 1, 2, 3, 5, 10, 15), 20, f"{PAPER}, App. F.2: SD with DPM-Solver and DPM-Solver++"),
    "personalised_50": KeySet(
        (0, 1, 2, 3, 5, 10, 15, 25, 35, 40), 50, f"{PAPER}, App. F.2: DreamBooth and Custom Diffusion, DDIM"
    ),
    "nonuniform_1_50": KeySet((0, 10, 11, 12, 20, 25, 30, 35, 45), 50, f"{PAPER}, Table 5, non-uniform I"),
    "nonuniform_2_50": KeySet((0, 20, 25, 30, 35, 36, 45, 46, 47), 50, f"{PAPER}, Table 5, non-uniform II"),
    "nonuniform_3_50": KeySet((0, 9, 13, 15, 28, 29, 32, 36, 45), 50, f"{PAPER}, Table 5, non-uniform III"),
    "code_2_50": KeySet((0, 10, 11, 12, 15, 20, 25, 30, 35, 45), 50, f"{CODE}, '50ls2'"),
    "code_3_50": KeySet((0, 20, 25, 30, 35, 45, 46, 47, 48, 49), 50, f"{CODE}, '50ls3'"),
    "code_4_50": KeySet((0, 9, 13, 14, 15, 28, 29, 32, 36, 45), 50, f"{CODE}, '50ls4'"),
    # The paper's ellipsis would mean every step between; its code follows a stride of 5 there, and so does this.
    "if_1_100": KeySet(
        tuple(step for step in range(100) if step < 10 or step > 85 or step % 5 == 0), 100,
        f"{PAPER}, App. F.2: DeepFloyd-IF stage 1",
    ),
    "if_3_75": KeySet((0, 2, 5, 9, 14, 20, 27, 35, 44, 54, 65), 75, f"{PAPER}, App. F.2: DeepFloyd-IF stage 3"),
    "code_if_75": KeySet(
        tuple(step for step in range(75) if step < 10 or step > 65 or step % 5 == 0), 75, f"{CODE}, '75ls'"
    ),
    "code_if_2_75": KeySet((0, 1, 2, 3, 5, 10, 15, 25, 35, 45, 55, 65), 75, f"{CODE}, '75ls2'"),
    "code_if_2_50": KeySet(
        tuple(step for step in range(50) if step < 20 or step > 40 or step % 2 == 0), 50, f"{CODE}, 's2'"
    ),
    "dit_113_250": KeySet(
        _all_but((step for step in range(1, 230) if step % 10 < 6), 250), 250,
        "DiT code of the authors of arXiv:2312.09608, demonstration: their time was taken with it",
    ),
    "dit_175_250": KeySet(
        _all_but(_DIT_SKIPPED, 250), 250,
        "DiT code of the authors of arXiv:2312.09608, evaluation script: their FID was taken with it",
    ),
}  # fmt: skip


def key_steps(keys: int | str | Sequence[int], steps: int, method: str) -> list[int]:
    """The key steps of a run.

    Args:
        keys: a stride (0, stride, 2 stride, ...), the name of a published set, or the steps themselves.
        steps: solver calls of the run.
        method: who asks, for messages.

    Raises:
        UsageError: no such set, a set for another number of steps, no step 0, or steps outside the run.
    """
    if isinstance(keys, int):
        return list(range(0, steps, keys))
    if isinstance(keys, str):
        if keys not in KEY_SETS:
            raise unknown(f"key set of {method}", keys, KEY_SETS)
        named = KEY_SETS[keys]
        if named.of != steps:
            fitting = [name for name, one in KEY_SETS.items() if one.of == steps]
            raise UsageError(
                f"{method}: key set '{keys}' is for {named.of} steps, this run has {steps}; use "
                f"{' or '.join(fitting) or 'a stride or a list of steps'}"
            )
        return list(named.steps)
    chosen = sorted(set(keys))
    if not chosen or chosen[0] != 0:
        raise UsageError(f"{method}: keys={list(keys)} must hold step 0: before it there is nothing to propagate")
    if chosen[-1] >= steps:
        raise UsageError(f"{method}: key step {chosen[-1]} is past the end of this run of {steps} steps")
    return chosen
