"""Refresh schedules, and entries by size and branch."""

import pytest
import torch

from postdiff.engine.cache import ModuleCache, Refresh
from postdiff.engine.family import Family
from postdiff.engine.rows import join_rows, split_rows
from postdiff.engine.state import State


def full_steps(steps, interval, restarts=(), misses=()):
    """The steps at which one module is computed; `misses` are forced from outside."""
    refresh, written, computed = Refresh.every(interval, steps, restarts), None, []
    for now in range(steps):
        if written is None or now in misses or refresh.due(written, now):
            computed.append(now)
            written = now
    return computed


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((10, 1), list(range(10))),
        ((10, 3), [0, 3, 6, 9]),
        ((20, 2, (14, 15)), [0, 2, 4, 6, 8, 10, 12, 14, 15, 17, 19]),
        # A miss at 11 (a resolution switch) adds a full step and leaves the phase alone.
        ((16, 2, (), (11,)), [0, 2, 4, 6, 8, 10, 11, 12, 14]),
    ],
)
def test_refresh(arguments, expected):
    assert full_steps(*arguments) == expected


def test_split_and_join_nested_rows():
    value = (torch.arange(6.0).reshape(6, 1), (torch.ones(4, 2), None))
    parts = split_rows(value, 2)
    assert parts[1][0].flatten().tolist() == [3, 4, 5]
    joined = join_rows(parts)
    assert torch.equal(joined[0], value[0])
    assert torch.equal(joined[1][0], value[1][0])
    assert joined[1][1] is None


def test_size_and_branch_are_part_of_the_key():
    state = State(family=Family("unet"), scheduler=None, steps=9)
    call = ModuleCache("test", lambda written, now: False).around("module", state)
    ran = []

    def forward(x):
        ran.append(x.shape)
        return x * 2

    state.size, state.branches = (8, 8), ("uncond", "cond")
    rows = torch.tensor([[1.0], [2.0]])
    assert torch.equal(call(forward, rows), rows * 2)
    assert torch.equal(call(forward, rows * 0), rows * 2), "second call replays"
    state.branches = ("cond",)
    assert torch.equal(call(forward, rows[:1] * 0), rows[1:] * 2), "dropping uncond keeps cond"
    state.size = (4, 4)
    assert torch.equal(call(forward, rows[:1]), rows[:1] * 2), "another size is computed"
    assert len(ran) == 2
    assert state.counts == {"test hits": 2, "test misses": 2}


def test_replaying_all_branches_copies_nothing():
    state = State(family=Family("unet"), scheduler=None, steps=9)
    state.size, state.branches = (8, 8), ("uncond", "cond")
    call = ModuleCache("test", lambda written, now: now == 3).around("module", state)
    output = (torch.tensor([[1.0], [2.0]]), [torch.tensor([[3.0], [4.0]]), None])
    first = call(lambda: output)
    again = call(lambda: None)
    assert first is output
    assert again[0] is output[0]
    assert again[1][0] is output[1][0]
    again[1].clear()
    assert call(lambda: None)[1] == output[1], "whoever empties a list of ours empties a copy"
    state.branches = ("cond", "uncond")
    assert call(lambda: None)[0].tolist() == [[2.0], [1.0]], "in another order they are joined anew"
    # One branch is written alone, so the pieces are no longer of one output.
    state.branches, state.index = ("cond",), 3
    call(lambda: (torch.tensor([[5.0]]), [torch.tensor([[6.0]]), None]))
    state.branches, state.index = ("uncond", "cond"), 4
    assert call(lambda: None)[0].tolist() == [[1.0], [5.0]]
