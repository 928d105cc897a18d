"""Replaying what the whole network gives out: where no image is computed, it is not called, nor is its ControlNet."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from postdiff.engine.branches import on_batched
from postdiff.engine.ownership import own, owned
from postdiff.engine.replay.apart import At, RowsApart
from postdiff.engine.replay.fills import Fill
from postdiff.engine.replay.memory import laid_over, take
from postdiff.engine.rows import rows_of_branches, tile_rows
from postdiff.engine.state import State

__all__ = ["NetworkPiece"]


class NetworkPiece(RowsApart):
    """All calls of the network, in one run. Its size is that of the sample, not of the call before.

    A watch decides for all branches together.
    """

    def __init__(self, name: str, fill: Fill, state: State) -> None:
        super().__init__(name, fill, state)
        self._control: dict[At, tuple[tuple[str, ...], Any]] = {}  # {size and network: (branches, residuals)}

    def denoise(self, forward: Any, sample: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """In the place of the method's hook; `sample` (rows, C, ..., H, W)."""
        state, at = self.state, self._where(sample)
        [given] = own([sample])
        rows, of = state.rows, len(state.rows)
        decided = {rows[i][1] for i in self.decide(at, given)}
        computed = [i for i, (_, image) in enumerate(rows) if image in decided]
        output = given
        if len(computed) == of:
            output = forward(sample, kwargs)
        elif computed:
            images = state.images
            state.images = tuple(image for image in images if image in decided)
            try:
                part = forward(
                    take(sample, computed, of),
                    on_batched(lambda tensor: take(tensor, computed, of), kwargs, len(sample), state.family),
                )
            finally:
                state.images = images
            each = len(part) // len(computed)
            output = laid_over(part.new_zeros(of * each, *part.shape[1:]), computed, of, part)
        [found] = self.noted(at, computed, given, [given], [output])
        return found

    def _where(self, sample: Tensor) -> At:
        """A change of network is an ordinary miss, as a change of size is."""
        return (sample.shape[-2], sample.shape[-1]), self.state.network

    def condition(self, forward: Any, kwargs: dict[str, Any]) -> Any:
        """Around a ControlNet, which is called before the network: decided here, and obeyed there."""
        state, sample = self.state, kwargs["sample"]
        at = self._where(sample)
        held = self._control.get(at)
        if held is not None and set(state.branches) <= set(held[0]) and not self._wanted(at, sample):
            return owned(rows_of_branches(held[1], held[0], state.branches))
        residuals = forward(kwargs)
        self._control[at] = state.branches, owned(residuals)
        return residuals

    def _wanted(self, at: At, sample: Tensor) -> bool:
        """Whether the network will be computed for any image in this step."""
        state, sent = self.state, self.state.branches
        if not state.separate:  # guess mode sends the conditional rows alone
            state.branches = (state.only,) if state.only in state.all_branches else state.all_branches
        try:
            return bool(self.decide(at, tile_rows(sample, 1, len(state.branches) // len(sent))))
        finally:
            state.branches = sent
