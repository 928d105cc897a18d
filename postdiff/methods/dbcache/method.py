"""DBCache: the first blocks tell whether the middle ones are replayed, and the last blocks mend what that leaves."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from types import SimpleNamespace
from typing import ClassVar

from torch import Tensor, nn

from postdiff.engine.blocks import stacked_blocks
from postdiff.engine.errors import UsageError
from postdiff.engine.replay import Change, Replay, Residual, TaylorResidual
from postdiff.engine.state import State
from postdiff.methods.cache import Cache
from postdiff.methods.options import require

__all__ = ["DBCache"]


@dataclass
class DBCache(Cache):
    r"""Run the first and the last transformer blocks; replay what the middle ones add while the first add the same.

    The change is |r - r0| / |r0|, means over the tokens of one row, r being what the first blocks add and r0 the same
    at the last step that was computed in full. The first `warmup` steps and the last `last` are computed. Every row of
    the batch is decided for itself. With one block in front, none at the back and no warm-up this is First-Block
    cache, which also replays at a change of exactly its threshold.

    Args:
        front: blocks at the beginning that always run.
        back: blocks at the end that always run.
        threshold: replay below this change; 0 computes everything, 1 or more replays everything after the warm-up.
        warmup: steps computed at the beginning.
        most: steps replayed in a run at most; -1 for any number.
        in_a_row: steps replayed one after the other at most; -1 for any number.
        order: of the series that what the middle blocks add follows, at most 10; 0 replays it as it was.
        last: steps computed at the end.

    Equation:
        h_t = x_t + r_t + R_k \qquad \text{while } \frac{|r_t - r_k|}{|r_k|} < \delta,
        \qquad R_k \text{ what the middle blocks added at step } k

    Works on:
        Transformers with a chain of blocks, more than `front` and `back` together.

    Oracle:
        The authors' package on FLUX, and a slow reference.

    Reference:
        DBCache of cache-dit (vipshop), 1.5.3, which decides for the whole batch at once. Its defaults; its examples
        use 1 block in front and thresholds from 0.08 to 0.35. `order` is its TaylorSeer calibrator.
    """

    adaptive: ClassVar[bool] = True
    front: int = 8
    back: int = 0
    threshold: float = 0.08
    warmup: int = 8
    most: int = -1
    in_a_row: int = -1
    order: int = 0
    last: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, self.front >= 1, "front", "1 or more")
        require(self, self.threshold >= 0, "threshold", "0 or more")
        for option in ("back", "warmup", "last"):
            require(self, getattr(self, option) >= 0, option, "0 or more")
        for option in ("most", "in_a_row"):
            require(self, getattr(self, option) >= -1, option, "0 or more, or -1 for any number")
        require(self, 0 <= self.order <= 10, "order", "from 0 to 10")

    def replays(self, network: nn.Module) -> list[Replay]:
        blocks = stacked_blocks(network, "DBCache")
        if self.front + self.back >= len(blocks):
            raise UsageError(
                f"DBCache: front={self.front} and back={self.back} leave none of the {len(blocks)} blocks of "
                f"{type(network).__name__} to replay; give fewer, {len(blocks) - 1} together at most"
            )
        chain = dict(islice(blocks.items(), len(blocks) - self.back))
        fill = TaylorResidual(self.order) if self.order else Residual()
        return [Replay(chain, _Capped(self._little, self), fill, front=self.front, name="dbcache")]

    def _little(self, change: float) -> bool:
        return change < self.threshold or self.threshold >= 1


@dataclass
class _Capped(Change):
    options: DBCache

    def measure(self, past: SimpleNamespace, seen: Tensor, state: State) -> Tensor | None:
        of = self.options
        if not (past.computed and of.warmup <= state.index < state.steps - of.last):
            return None
        capped = 0 <= of.most <= past.replayed or 0 <= of.in_a_row <= past.in_a_row
        return None if capped else super().measure(past, seen, state)

    def due(self, past: SimpleNamespace, measured: float, state: State) -> bool:
        due = super().due(past, measured, state)
        past.replayed, past.in_a_row = past.replayed + (not due), past.in_a_row + (not due)
        return due

    def note(self, past: SimpleNamespace, seen: Tensor, x: Tensor, y: Tensor, state: State) -> None:
        super().note(past, seen, x, y, state)
        past.replayed, past.in_a_row = getattr(past, "replayed", 0), 0
