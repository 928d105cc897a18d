"""Weights of convolutions with channels last in memory, for the length of a call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from postdiff.engine.errors import UsageError

__all__ = ["channels_last"]

# {network: (its weights as they are, the same with channels last) in order of `_weights`}. The second copy is kept, so
# that rows in turns pay for it once; it takes the memory of the convolutions' weights.
_kept: WeakKeyDictionary[nn.Module, list[tuple[Tensor, Tensor]]] = WeakKeyDictionary()


@contextmanager
def channels_last(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Let convolutions see channels-last weights, which makes them work and give out in that format.

    What is the same as `network.to(memory_format=torch.channels_last)` inside the block is undone after it.

    Args:
        networks: those to convert.

    Raises:
        UsageError: none of them has a two-dimensional convolution.
    """
    if not any(_weights(network) for network in networks):
        names = ", ".join(type(network).__name__ for network in networks)
        raise UsageError(f"network.channels_last=true is for two-dimensional convolutions, and {names} have none")
    try:
        for network in networks:
            pairs = _pairs(network)
            for weight, (_, converted) in zip(_weights(network), pairs, strict=True):
                weight.data = converted
        yield
    finally:
        for network in networks:
            for weight, (plain, converted) in zip(_weights(network), _kept.get(network, []), strict=False):
                if _same(weight.data, converted):
                    weight.data = plain
                elif not _same(weight.data, plain):  # a pipeline may cast its VAE to and fro during a call
                    weight.data = weight.data.contiguous()


def _weights(network: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in network.parameters() if weight.dim() == 4]


def _pairs(network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    weights, known = _weights(network), _kept.get(network, [])
    if len(known) != len(weights):
        known = [(torch.empty(0), torch.empty(0))] * len(weights)
    _kept[network] = [
        pair if _same(weight.data, pair[0]) else (weight.data, weight.data.to(memory_format=torch.channels_last))
        for weight, pair in zip(weights, known, strict=True)
    ]
    return _kept[network]


def _same(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.dtype == other.dtype and one.stride() == other.stride()
