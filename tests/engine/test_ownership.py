"""Copies that share memory until one of them is written to, and nested values taken apart and put together."""

import gc
import weakref
from collections import namedtuple

import numpy as np
import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput

from postdiff.cost.memory import peak_memory
from postdiff.engine.ownership import own, owned, put_together, same_memory, taken_apart

Pair = namedtuple("Pair", "one other")


def address(tensor):
    return torch._C._data_address(tensor)  # data_ptr() would end the sharing


LAYOUTS = {
    "dense": lambda: torch.randn(2, 4, 6, 6),
    "channels last": lambda: torch.randn(2, 4, 6, 6).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(4, 6).t(),
    "piece": lambda: torch.randn(4, 6)[1:3, 2:],
    "half": lambda: torch.randn(5).bfloat16(),
    "scalar": lambda: torch.tensor(3.0),
    "empty": lambda: torch.empty(0, 3),
    "numpy's memory": lambda: torch.from_numpy(np.ones((2, 3), np.float32)),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_writes_reach_neither_way(layout, inference):
    with torch.inference_mode(inference):
        for written in (0, 1):
            original = LAYOUTS[layout]()
            expected, both = original.clone(), [original, own([original])[0]]
            assert both[1].stride() == original.stride() and torch.equal(both[1], expected)
            both[written].mul_(-2)
            assert torch.equal(both[1 - written], expected)
            assert torch.equal(both[written], -2 * expected)


def test_nothing_is_copied_until_somebody_writes():
    original = torch.randn(100)
    copies = [own([original])[0] for _ in range(3)]
    assert {address(copy) for copy in copies} == {address(original)}
    first, second = original.chunk(2)
    second.zero_()  # through a view
    assert original[50:].abs().sum() == 0
    assert all(copy[50:].abs().sum() > 0 for copy in copies)
    assert len({address(copy) for copy in copies}) == 1 and address(first) != address(copies[0])


def test_where_memory_cannot_be_shared_it_is_copied(monkeypatch):
    monkeypatch.delattr(torch, "_lazy_clone")
    original = torch.randn(4, 3).t()
    copy = own([original])[0]
    assert torch.equal(copy, original) and address(copy) != address(original)


def test_a_tensor_in_two_places_stays_one():
    """A U-Net's block gives its last skip connection out as what goes on, too: who writes to one writes to both."""
    last = torch.ones(2)
    value = (last, (torch.zeros(2), last), [None, "text", {"more": last}])
    tensors, form = taken_apart(value)
    assert len(tensors) == 2
    copy = owned(value)
    copy[0].mul_(5)
    assert copy[1][1] is copy[0] and copy[2][2]["more"] is copy[0]
    assert last.tolist() == [1, 1]
    assert put_together(tensors, form)[1][1] is last
    copy[2].clear()
    assert len(value[2]) == 3


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(1),
        [torch.ones(1)],
        (),
        {"a": torch.ones(1)},
        Pair(torch.ones(1), 2),
        Transformer2DModelOutput(sample=torch.ones(1)),
        None,
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_value(value):
    copy = owned(value)
    assert type(copy) is type(value)
    pairs = list(zip(taken_apart(value)[0], taken_apart(copy)[0], strict=True))
    assert all(one is not other and same_memory(one, other) for one, other in pairs)


def test_shared_memory_is_counted_once():
    def shares():
        made = torch.zeros(1000)
        copies = own([made]) + own([made])
        del made
        return copies

    def writes():
        made = torch.zeros(1000)
        [copy] = own([made])
        copy.add_(1)
        return made, copy

    def keeps_one():
        first, second = shares()
        first.add_(1)
        return second

    def lets_go_first():
        first, second = shares()
        del second
        return first.add_(1)

    assert peak_memory(shares) == 4000
    assert peak_memory(writes) == 8000
    assert peak_memory(keeps_one) == 8000, "the other copy still holds the old memory"
    assert peak_memory(lets_go_first) == 4000, "who holds memory alone writes into it"


def test_what_is_taken_apart_is_let_go_at_once():
    """Not when Python looks for cycles: on a GPU the outputs of whole blocks would lie about until then."""
    gc.disable()
    try:
        tensor = torch.zeros(3)
        seen = weakref.ref(tensor)
        owned({"block": (tensor, [tensor])})
        del tensor
        assert seen() is None
    finally:
        gc.enable()
