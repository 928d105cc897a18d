"""Replay: skip a piece of a network at some steps, and give something in the place of its output.

A cache method says three things: where (modules one by one, a chain of blocks, or the whole network), by which rule
(at which steps to compute), and with which fill (what stands in between). All else is the same for every one of them
and is done here: memory for every size, call, guidance branch and image, copies, calls that serve several steps, and
planned turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

from torch import nn

from postdiff.engine.claims import IMAGES_APART, WHOLE_CALLS
from postdiff.engine.intercept import intercept
from postdiff.engine.replay.apart import RowsApart
from postdiff.engine.replay.chain import ChainPiece, Look
from postdiff.engine.replay.changes import Change, Changes
from postdiff.engine.replay.fills import Fill, Hold, Residual, Taylor, TaylorResidual, Weighted
from postdiff.engine.replay.merged import Merge
from postdiff.engine.replay.module import ModulePiece
from postdiff.engine.replay.network import NetworkPiece
from postdiff.engine.replay.piece import Piece
from postdiff.engine.replay.rules import Due, Watch, at, before, turns
from postdiff.engine.selectors import with_all_inside
from postdiff.engine.spans import for_first_step
from postdiff.engine.state import State

__all__ = [
    "NETWORK",
    "Change",
    "Changes",
    "Due",
    "Hold",
    "Replay",
    "Residual",
    "Rule",
    "Taylor",
    "TaylorResidual",
    "Watch",
    "Weighted",
    "at",
    "before",
    "each",
    "turns",
]

NETWORK: Literal["network"] = "network"
# A rule by steps can be told once these are known.
Rule = Watch | Callable[[State], Due]


@dataclass(eq=False)
class Replay:
    """One piece of a network with its rule and its fill.

    Args:
        where: {dotted name: module} of one module or of consecutive blocks of a transformer, or `NETWORK`.
        rule: a `Watch`, or a function of the run's state that gives `due(written, now)`.
        fill: what stands in for the output.
        name: prefix of the counters in `state.counts`.
        merge: of a single module: turns fresh outputs {branch: tensor} into those to be kept, if not these.
        front: blocks at the beginning of a chain that always run; a watch sees what they have added.
        look: what a watch on a chain sees, in the place of that or of the chain's input.
        once: a call that serves several steps computes the piece for the first of them.
    """

    where: dict[str, nn.Module] | Literal["network"]
    rule: Rule
    fill: Fill = Hold()  # noqa: RUF009  # it holds nothing that changes
    _: KW_ONLY
    name: str
    merge: Merge | None = None
    front: int = 0
    look: Look | None = None
    once: bool = False
    piece: Piece = field(init=False)

    @property
    def claims(self) -> list[str]:
        """What no other method may act on."""
        if self.where == NETWORK:
            return [*IMAGES_APART] if isinstance(self.rule, Watch) else [WHOLE_CALLS]
        return list(self.where) if self._single else with_all_inside(self.where)

    @property
    def _single(self) -> bool:
        return len(self.where) == 1 and not self.fill.of_input and not isinstance(self.rule, Watch)

    def attach(self, state: State) -> Iterator[AbstractContextManager[None]]:
        """Contexts to hold open during the call."""
        if self.where == NETWORK:
            self.piece = NetworkPiece(self.name, self.fill, state)
        elif self._single:
            [(name, module)] = self.where.items()
            self.piece = piece = ModulePiece(self.name, name, self.fill, self.merge, state)
            yield intercept(module, "forward", for_first_step(piece, state) if self.once else piece)
        else:
            self.piece = chain = ChainPiece(self.name, self.fill, state, [*self.where.values()], self.front, self.look)
            yield from chain.attach()

    def start(self, rule: Due | Watch) -> None:
        """The steps of the run are known, and with them the rule."""
        if isinstance(rule, Watch):
            assert isinstance(self.piece, RowsApart)
            self.piece.watch = rule
        else:
            self.piece.due = rule


def each(modules: dict[str, nn.Module], rule: Rule, fill: Fill = Hold(), **options: Any) -> list[Replay]:  # noqa: B008
    """A piece a module; further options as of `Replay`."""
    return [Replay({name: module}, rule, fill, **options) for name, module in modules.items()]
