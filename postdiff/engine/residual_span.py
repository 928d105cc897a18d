"""Replaying what a chain of transformer blocks adds: output = input + (output - input) of an earlier step.

Whether a step is replayed is decided for every row of the batch by itself, so that an image does not depend on its
neighbours: the rows to be computed go through the blocks alone, the others keep what the chain added last time.

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

from postdiff.engine.branches import on_batched
from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import intercept
from postdiff.engine.ownership import owned
from postdiff.engine.state import State

__all__ = ["STREAMS", "Decide", "ResidualSpan", "arguments_of", "main_stream", "refuse_meta", "stacked_blocks"]

# What the blocks hand on: image tokens, and text tokens where a block gives these out as well.
STREAMS = ("hidden_states", "encoder_hidden_states")
STACKS = ("transformer_blocks", "blocks", "single_transformer_blocks")
# Blocks that give out (image, text); the other blocks with two outputs give (text, image).
IMAGE_FIRST = ("CogView4TransformerBlock", "CogVideoXBlock")

Streams = dict[str, Tensor]
# (branch, its place among the branches of this call, whether a residual is known) -> (samples,) bool: replay?
Decide = Callable[[str, int, bool], Tensor]


def stacked_blocks(network: nn.Module, method: str) -> dict[str, nn.Module]:
    """{dotted name: block} of a transformer, in order of execution.

    Args:
        network: a denoiser.
        method: who asks, for messages.

    Raises:
        UsageError: not a transformer, one with fewer than two blocks, or one whose blocks are not all different.
    """
    stacks = [name for name in STACKS if isinstance(getattr(network, name, None), nn.ModuleList)]
    # Not `children()`, which gives a block that stands in two places once.
    found = {f"{name}.{i}": block for name in stacks for i, block in enumerate(getattr(network, name))}
    if len(found) < 2:
        raise UsageError(
            f"{method} needs a transformer with a chain of blocks; {type(network).__name__} has none. DeepCache and "
            "encoder_propagation serve U-Nets"
        )
    if len(set(found.values())) < len(found):
        raise UsageError(f"{method}: one block stands in several places of {type(network).__name__}; leave it out")
    return found


def arguments_of(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A block's arguments by name."""
    return dict(inspect.signature(forward).bind(*args, **kwargs).arguments)


def main_stream(block: nn.Module, output: Any) -> Tensor:
    """The image tokens in a block's output."""
    return output if isinstance(output, Tensor) else output[0 if type(block).__name__ in IMAGE_FIRST else -1]


class ResidualSpan:
    """The chain, in one pipeline call.

    Args:
        name: prefix of the counters in `state.counts`.
        blocks: consecutive blocks of a transformer.
        state: of the run.
        decide: asked at the first block, branch by branch.
    """

    def __init__(self, name: str, blocks: dict[str, nn.Module], state: State, decide: Decide) -> None:
        self.name, self.blocks, self.state, self.decide = name, list(blocks.values()), state, decide
        # {(latent size, branch): what the chain added to each stream, one row a sample}
        self._residuals: dict[tuple[tuple[int, int], str], Streams] = {}
        self._forms: dict[int, tuple[str | None, ...]] = {}
        self._input: Streams = {}
        self._begun = -1  # the call of the network in which the first block ran last
        self._replayed = torch.zeros(0, dtype=torch.bool, device="cpu")

    def attach(self) -> Iterator[AbstractContextManager[None]]:
        """Contexts to hold open during the call."""
        for place, block in enumerate(self.blocks):

            def around(forward: Callable[..., Any], *args: Any, _place: int = place, **kwargs: Any) -> Any:
                return self._call(_place, forward, arguments_of(forward, args, kwargs))

            yield intercept(block, "forward", around)

    def _call(self, place: int, forward: Callable[..., Any], given: dict[str, Any]) -> Any:
        streams = {name: given[name] for name in STREAMS if isinstance(given.get(name), Tensor)}
        if place == 0:
            self._begin(streams)
        elif self._begun != self.state.network_call:
            return forward(**given)
        last = place == len(self.blocks) - 1
        if not self._replayed.any():
            output = forward(**given)
            self._forms[place] = self._form(place, output)
            found = self._named(place, output)
        elif self._replayed.all():
            found = streams
        else:
            found = self._some(place, forward, given, streams)
        if last:
            found = self._end(found)
        if not self._replayed.any():
            return output
        values = [found.get(name) if name else None for name in self._forms[place]]
        return values[0] if len(values) == 1 else tuple(values)

    def _begin(self, streams: Streams) -> None:
        # Owned: a block may write into its input, and what stands in for a block's output is the input itself.
        self._input, self._begun, size = owned(streams), self.state.network_call, self.state.size
        known = [(size, branch) in self._residuals for branch in self.state.branches]
        asked = [self.decide(branch, i, known[i]) & known[i] for i, branch in enumerate(self.state.branches)]
        self._replayed = torch.cat(asked)
        replayed = int(self._replayed.sum())
        self.state.counts[f"{self.name} rows replayed"] += replayed
        self.state.counts[f"{self.name} rows computed"] += len(self._replayed) - replayed

    def _some(self, place: int, forward: Callable[..., Any], given: dict[str, Any], streams: Streams) -> Streams:
        rows = (~self._replayed).nonzero().flatten().to(streams["hidden_states"].device, non_blocking=True)
        part = on_batched(lambda tensor: tensor[rows], given, len(self._replayed), self.state.family)
        computed = self._named(place, forward(**part))
        return streams | {name: streams[name].index_copy(0, rows, value) for name, value in computed.items()}

    def _end(self, found: Streams) -> Streams:
        """The streams after the chain; what it added is kept for rows that were computed."""
        parts, size = len(self.state.branches), self.state.size
        result: Streams = {}
        for name in filter(None, self._forms[len(self.blocks) - 1]):
            begin, fresh = self._input[name].chunk(parts), found[name].chunk(parts)
            rows = self._replayed.to(found[name].device, non_blocking=True).chunk(parts)
            each = []
            for branch, before, after, replayed in zip(self.state.branches, begin, fresh, rows, strict=True):
                kept = self._residuals.setdefault((size, branch), {})
                chosen = replayed.view(-1, *[1] * (after.ndim - 1))
                added = torch.where(chosen, kept[name], after - before) if name in kept else after - before
                each.append(torch.where(chosen, before + added, after))
                kept[name] = added
            result[name] = torch.cat(each)
        return result

    def _form(self, place: int, output: Any) -> tuple[str | None, ...]:
        """Which stream each item of a block's output is; None for what it leaves out."""
        if isinstance(output, Tensor):
            return ("hidden_states",)
        names = STREAMS if type(self.blocks[place]).__name__ in IMAGE_FIRST else STREAMS[::-1]
        return tuple(name if isinstance(item, Tensor) else None for name, item in zip(names, output, strict=True))

    def _named(self, place: int, output: Any) -> Streams:
        items = (output,) if isinstance(output, Tensor) else output
        return {name: item for name, item in zip(self._forms[place], items, strict=True) if name is not None}


def refuse_meta(tensor: Tensor, method: str) -> None:
    """Refuse to decide by features that have no values.

    Raises:
        UsageError: the network is on the meta device.
    """
    if tensor.is_meta:
        raise UsageError(
            f"{method} decides by the features of each image, so its work cannot be counted without weights; run the "
            "experiment, whose records hold it"
        )
