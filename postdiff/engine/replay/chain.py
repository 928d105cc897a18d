"""Replaying what a chain of transformer blocks gives out, image tokens and text tokens.

A pipeline may leave blocks out of some calls (Stable Diffusion 3's skip-layer guidance). A call without the first or
the last block of the chain is computed as it is, and nothing of it is kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from postdiff.engine.blocks import MAIN, stream_names, streams_of
from postdiff.engine.branches import on_batched
from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import beneath, intercept
from postdiff.engine.ownership import Form, owned, put_together, taken_apart
from postdiff.engine.replay.apart import RowsApart

__all__ = ["ChainPiece", "Look"]

Streams = dict[str, Tensor]
# (first block, a function that runs it on copies of what it is given) -> what a watch is to look at, all rows.
Look = Callable[[nn.Module, Callable[[], Any]], Tensor]


class ChainPiece:
    """Consecutive blocks, in one run.

    Args:
        apart: decides and keeps.
        blocks: in order of execution.
        front: how many of them always run: the chain is the others, and a watch sees what these have added.
        look: what a watch sees instead of that, or of the chain's input.
    """

    def __init__(self, apart: RowsApart, blocks: list[nn.Module], front: int = 0, look: Look | None = None) -> None:
        self.apart, self.blocks, self.front, self.look = apart, blocks, front, look
        self.state = apart.state
        self._outputs: dict[int, tuple[tuple[str, ...], Form]] = {}  # of a block: its streams, and how it gives them
        self._entered = self._begun = -1  # calls of the network in which the first block, and the chain's, ran last
        self._nth = 0  # of its calls within a call of the network
        self._computed: list[int] = []

    def attach(self) -> Iterator[AbstractContextManager[None]]:
        """Contexts to hold open during the call."""
        for place, block in enumerate(self.blocks):
            names, original = list(inspect.signature(block.forward).parameters), beneath(block, "forward")

            def around(
                forward: Callable[..., Any],
                *args: Any,
                _place: int = place,
                _names: list[str] = names,
                _original: Callable[..., Any] = original,
                **kwargs: Any,
            ) -> Any:
                given = dict(zip(_names, args, strict=False)) | kwargs
                if _place == 0:
                    self._enter(_original, given)
                return self._call(_place, forward, given)

            yield intercept(block, "forward", around)

    def _enter(self, original: Callable[..., Any], given: dict[str, Any]) -> None:
        self._nth = self._nth + 1 if self._entered == self.state.network_call else 0
        self._entered = self.state.network_call
        # A block may write into its input.
        streams = owned(streams_of(given))
        self._seen = streams[MAIN]
        if self.look is not None:
            self._seen = self.look(self.blocks[0], lambda: original(**(given | streams)))

    def _call(self, place: int, forward: Callable[..., Any], given: dict[str, Any]) -> Any:
        state, last = self.state, place == len(self.blocks) - 1
        if place < self.front:
            output = forward(**given)
            if place == self.front - 1 and self._entered == state.network_call:
                tensors, _ = taken_apart(output)
                self._seen = tensors[self._names(place, tensors, streams_of(given)).index(MAIN)] - self._seen
            return output
        streams = streams_of(given)
        if place == self.front and self._entered == state.network_call:
            self._begin(streams)
        if self._begun != state.network_call:
            return forward(**given)
        if len(self._computed) == len(state.rows):
            output = forward(**given)
            tensors, form = taken_apart(output)
            if place not in self._outputs:
                self._outputs[place] = self._names(place, tensors, streams), form
            names, _ = self._outputs[place]
            if not last:
                return output
            finished = self._end(names, tensors)
            return output if finished is tensors else put_together(finished, form)
        names, form = self._outputs[place]
        if self._computed:
            streams = self._some(names, forward, given, streams)
        tensors = [streams[name] for name in names]
        return put_together(self._end(names, tensors) if last else tensors, form)

    def _begin(self, streams: Streams) -> None:
        # What stands in for a block's output is the input itself, so it is to be owned.
        state, self._begun, self._input = self.state, self.state.network_call, owned(streams)
        self._computed = self.apart.decide((state.size, self._nth), self._seen)
        self.apart.count(len(self._computed))

    def _some(
        self, names: tuple[str, ...], forward: Callable[..., Any], given: dict[str, Any], streams: Streams
    ) -> Streams:
        of, image = len(self.state.rows), streams[MAIN]
        each = image.shape[0] // of
        rows = torch.tensor([i * each + j for i in self._computed for j in range(each)], device="cpu")
        rows = rows.to(image.device, non_blocking=True)
        part = on_batched(lambda tensor: tensor[rows], given, image.shape[0], self.state.family)
        computed, _ = taken_apart(forward(**part))
        return streams | {
            name: streams[name].index_copy(0, rows, value) for name, value in zip(names, computed, strict=True)
        }

    def _names(self, place: int, tensors: list[Tensor], streams: Streams) -> tuple[str, ...]:
        names = stream_names(self.blocks[place], tensors, streams)
        if names is None or MAIN not in names:
            raise UsageError(
                f"{self.apart.name}: which of its inputs the outputs of {type(self.blocks[place]).__name__} go on from "
                "cannot be told; leave this method out"
            )
        return names

    def _end(self, names: tuple[str, ...], tensors: list[Tensor]) -> list[Tensor]:
        x = [self._input[name] for name in names]
        if any(before.shape != after.shape for before, after in zip(x, tensors, strict=True)):
            raise UsageError(
                f"{self.apart.name}: the blocks give out other tokens than they are given, as where text and image are "
                "joined on the way; leave this method out"
            )
        return self.apart.finish((self.state.size, self._nth), self._computed, self._seen, x, tensors)
