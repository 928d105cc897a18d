"""Replaying what a chain of transformer blocks gives out, image tokens and text tokens.

Where text and image are joined to one stream on the way, the chain falls into sections: what each adds is replayed
for itself, all of them by one decision. Together they add what the chain has added.

A pipeline may leave blocks out of some calls (Stable Diffusion 3's skip-layer guidance). A call without the first or
the last block of the chain is computed as it is, and nothing of it is kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from postdiff.engine.blocks import stream_names, streams_of, streams_that_go_on
from postdiff.engine.branches import on_batched
from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import beneath, intercept
from postdiff.engine.ownership import Form, own, owned, put_together, taken_apart
from postdiff.engine.replay.apart import RowsApart
from postdiff.engine.replay.fills import Fill
from postdiff.engine.replay.memory import laid_over, take
from postdiff.engine.state import State

__all__ = ["ChainPiece", "Look"]

Streams = dict[str, Tensor]
# (first block, a function that runs it on copies of what it is given) -> what a watch is to look at, all rows.
Look = Callable[[nn.Module, Callable[[], Any]], Tensor]


class _Fresh(NamedTuple):
    """What a block has given out for the first time; the next one will tell what becomes of it."""

    place: int
    tensors: list[Tensor]
    own: list[Tensor]
    form: Form
    names: tuple[str, ...] | None


class ChainPiece(RowsApart):
    """Consecutive blocks, in one run.

    Args:
        name: prefix of the counters in `state.counts`.
        fill: what stands in for what they give out.
        state: of the run.
        blocks: in order of execution.
        front: how many of them always run: the chain is the others, and a watch sees what these have added.
        look: what a watch sees instead of that, or of the chain's input.
    """

    def __init__(
        self, name: str, fill: Fill, state: State, blocks: list[nn.Module], front: int = 0, look: Look | None = None
    ) -> None:
        super().__init__(name, fill, state)
        self.blocks, self.front, self.look = blocks, front, look
        self._mains: list[str] = []  # of each block, the stream that it is given first
        self._outputs: dict[int, tuple[tuple[str, ...], Form]] = {}  # of a block: its streams, and how it gives them
        self._begins = {front}  # blocks with which a section begins
        self._fresh: _Fresh | None = None
        self._entered = self._begun = -1  # calls of the network in which the first block, and the chain's, ran last
        self._nth = 0  # of its calls within a call of the network
        self._lengths: dict[Any, int] = {}  # {size and row: number of tokens}
        self._computed: list[int] = []

    def attach(self) -> Iterator[AbstractContextManager[None]]:
        """Contexts to hold open during the call."""
        self._first = beneath(self.blocks[0], "forward")
        for place, block in enumerate(self.blocks):
            names = list(inspect.signature(block.forward).parameters)
            self._mains.append(names[0])
            yield intercept(block, "forward", partial(self._around, place, names))

    def _around(self, place: int, names: list[str], forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        if place == 0:
            self._enter(given)
        return self._call(place, forward, given)

    def _enter(self, given: dict[str, Any]) -> None:
        self._nth = self._nth + 1 if self._entered == self.state.network_call else 0
        self._entered, self._at, self._fresh = self.state.network_call, -1, None
        # A block may write into its input.
        streams = owned(streams_of(self._mains[0], given))
        self._seen = streams[self._mains[0]]
        if self.look is not None:
            self._seen = self.look(self.blocks[0], lambda: self._first(**(given | streams)))

    def _call(self, place: int, forward: Callable[..., Any], given: dict[str, Any]) -> Any:
        state, entered, last = self.state, self._entered == self.state.network_call, place == len(self.blocks) - 1
        if entered and place <= self._at:
            raise UsageError(f"{self.name}: the blocks do not run in the order in which they stand; leave it out")
        self._at = place
        if place < self.front - 1:
            return forward(**given)
        if self._fresh is not None and entered:
            self._follow(place, given)
        if place < self.front:
            output = forward(**given)
            tensors, form = taken_apart(output)
            names = self._named(place, tensors, form, given)
            if entered and names is not None:
                self._look_back(names, tensors)
            return output
        if place in self._begins and entered and (place == self.front or self._begun == state.network_call):
            self._begin(place, given)
        if self._begun != state.network_call:
            return forward(**given)
        ends = last or place + 1 in self._begins
        if len(self._computed) == len(state.rows):
            output = forward(**given)
            if not ends and place in self._outputs:
                return output
            tensors, form = taken_apart(output)
            named = self._named(place, tensors, form, given)
            if not ends:
                return output
            finished = self._end(place, named or self._unclear(place), tensors)
            return output if finished is tensors else put_together(finished, form)
        names, form = self._outputs[place]
        tensors = self._some(place, names, forward, given) if self._computed else [given[name] for name in names]
        return put_together(self._end(place, names, tensors) if ends else tensors, form)

    def _named(self, place: int, tensors: list[Tensor], form: Form, given: dict[str, Any]) -> tuple[str, ...] | None:
        """The streams that a block gives out, as found when it ran for the first time, or None before the next runs."""
        if place in self._outputs:
            return self._outputs[place][0]
        main = self._mains[place]
        names = stream_names(main, tensors, streams_of(main, given))
        if names is None:
            kind = type(self.blocks[place])
            names = next((found for at, (found, _) in self._outputs.items() if type(self.blocks[at]) is kind), None)
        if place + 1 < len(self.blocks) and self._entered == self.state.network_call:
            self._fresh = _Fresh(place, tensors, own(tensors), form, names)
        if names is not None:
            if main not in names:
                self._unclear(place)
            self._outputs[place] = names, form
        return names

    def _follow(self, place: int, given: dict[str, Any]) -> None:
        """A block is called after one that ran for the first time."""
        assert self._fresh is not None
        before, tensors, kept, form, known = self._fresh
        self._fresh, main, now = None, self._mains[before], self._mains[place]
        names = known or streams_that_go_on(tensors, streams_of(now, given))
        if names is None or main not in names:
            names = self._unclear(before)
        self._outputs[before] = names, form
        if before == self.front - 1:
            if known is None:
                self._look_back(names, kept)
        elif main != now or kept[names.index(main)].shape[1:] != given[now].shape[1:]:
            self._begins.add(place)
            if self._begun == self.state.network_call:
                self._end(before, names, kept)

    def _look_back(self, names: tuple[str, ...], tensors: list[Tensor]) -> None:
        """At the end of the blocks that always run."""
        now = tensors[names.index(self._mains[self.front - 1])]
        if now.shape != self._seen.shape:
            raise UsageError(
                f"{self.name}: text and image are joined within the first {self.front} blocks, which do "
                "not add one thing to them; give a smaller front"
            )
        self._seen = now - self._seen

    def _begin(self, place: int, given: dict[str, Any]) -> None:
        # What stands in for a block's output is the input itself, so it is to be owned.
        state, self._input, self._section = self.state, owned(streams_of(self._mains[place], given)), place
        if place != self.front:
            return
        self._begun, tokens = state.network_call, given[self._mains[place]].shape[1]
        if any(self._lengths.setdefault((state.size, row), tokens) != tokens for row in state.rows):
            self.forget()  # a text is filled up to the longest of those that are sent along
            self._lengths = dict.fromkeys(((state.size, row) for row in state.rows), tokens)
        self._computed = self.decide((state.size, self._nth), self._seen)

    def _some(
        self, place: int, names: tuple[str, ...], forward: Callable[..., Any], given: dict[str, Any]
    ) -> list[Tensor]:
        computed, of = self._computed, len(self.state.rows)
        rows = len(given[self._mains[place]])
        part = on_batched(lambda tensor: take(tensor, computed, of), given, rows, self.state.family)
        fresh, _ = taken_apart(forward(**part))
        return [laid_over(given[name], computed, of, value) for name, value in zip(names, fresh, strict=True)]

    def _unclear(self, place: int) -> tuple[str, ...]:
        raise UsageError(
            f"{self.name}: which of its inputs the outputs of {type(self.blocks[place]).__name__} go on from "
            "cannot be told; leave this method out"
        )

    def _end(self, place: int, names: tuple[str, ...], tensors: list[Tensor]) -> list[Tensor]:
        """The output of a section; what it was decided by is noted at the end of the last one."""
        x = [self._input.get(name) for name in names]
        if any(before is None or before.shape != after.shape for before, after in zip(x, tensors, strict=True)):
            raise UsageError(
                f"{self.name}: the blocks give out other tokens than they are given, as where text and image are "
                "joined on the way; leave this method out"
            )
        last = place == len(self.blocks) - 1
        at = (self.state.size, self._nth) if last else (self.state.size, self._nth, self._section)
        return self.noted(at, self._computed, self._seen, x, tensors, whole=last)
