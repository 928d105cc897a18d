"""Refresh schedules, and entries by size and branch."""

import pytest
import torch
from postdiff.engine.cache import ModuleCache, Refresh
from postdiff.engine.forecast import ForecastCache

from postdiff.engine.errors import UsageError
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


def around(cache, state):
    """The module's forward under a cache; every call is in a call of the network of its own."""
    inner = cache.around("module", state)

    def call(forward, *args):
        state.network_call += 1
        return inner(forward, *args)

    return call


def test_size_and_branch_are_part_of_the_key():
    state = State(family=Family("unet"), scheduler=None, steps=9)
    call = around(ModuleCache("test", lambda written, now: False), state)
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


def address(tensor):
    return torch._C._data_address(tensor)  # data_ptr() would end the sharing


def test_replaying_all_branches_copies_nothing():
    state = State(family=Family("unet"), scheduler=None, steps=9)
    state.size, state.branches = (8, 8), ("uncond", "cond")
    call = around(ModuleCache("test", lambda written, now: now == 3), state)
    output = (torch.tensor([[1.0], [2.0]]), [torch.tensor([[3.0], [4.0]]), None])
    first = call(lambda: output)
    again = call(lambda: None)
    assert first is output
    assert address(again[0]) == address(output[0])
    assert address(again[1][0]) == address(output[1][0])
    again[1].clear()
    third = call(lambda: None)
    assert third[1][0].tolist() == [[3.0], [4.0]], "whoever empties a list of ours empties a copy"
    for given in (output, third):
        given[0].mul_(7)
        assert call(lambda: None)[0].tolist() == [[1.0], [2.0]], "whoever writes into a tensor writes into a copy"
    state.branches = ("cond", "uncond")
    assert call(lambda: None)[0].tolist() == [[2.0], [1.0]], "in another order they are joined anew"
    # One branch is written alone, so the pieces are no longer of one output.
    state.branches, state.index = ("cond",), 3
    call(lambda: (torch.tensor([[5.0]]), [torch.tensor([[6.0]]), None]))
    state.index = 4
    alone = call(lambda: None)
    assert alone[0].mul_(9).tolist() == [[45.0]]
    state.branches = ("uncond", "cond")
    assert call(lambda: None)[0].tolist() == [[1.0], [5.0]]


def numbered(cache, state, rows, calls=3):
    """What `calls` calls of one module within a call of the network give out, each of `rows` rows."""
    inner = cache.around("module", state)
    made = iter(range(1000))

    def network(state_branches, rows=rows, calls=calls):
        state.branches, state.network_call = state_branches, state.network_call + 1
        return [inner(lambda: torch.full((rows, 1), float(next(made)))).flatten().tolist() for _ in range(calls)]

    return network


@pytest.mark.parametrize("video", [False, True])
@pytest.mark.parametrize("order", [None, 0, 1])
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_each_call_within_a_call_of_the_network_has_an_entry_of_its_own(rows, order, video):
    """Four rows are two branches of two samples; fewer are a part of the batch."""
    state = State(family=Family("unet"), scheduler=None, steps=9, first_rows=torch.zeros(2, 4, *[8] * (2 + video)))
    state.size = (8, 8)
    never = lambda written, now: False  # noqa: E731
    cache = ModuleCache("test", never) if order is None else ForecastCache("test", never, order)
    network = numbered(cache, state, rows)
    both = ("uncond", "cond")
    computed = [[0.0] * rows, [1.0] * rows, [2.0] * rows]
    assert network(both) == computed
    state.index = 1
    assert network(both) == computed
    assert state.counts == {"test misses": 3, "test hits": 3}
    # With one branch the same number of rows is another part of the batch.
    if rows == 4 and not video:
        assert network(("cond",), rows=2) == [[0.0] * 2, [1.0] * 2, [2.0] * 2]
    else:
        assert network(("cond",), calls=2) == [[3.0] * rows, [4.0] * rows]
        assert network(("cond",), calls=2) == [[3.0] * rows, [4.0] * rows]
        assert network(both) == computed
    assert network(("extra 1",))[0] not in computed


@pytest.mark.parametrize("span", [1, 2])
def test_parts_of_a_batch_are_refused_where_branches_or_steps_are_needed_apart(span):
    state = State(family=Family("unet"), scheduler=None, steps=9, first_rows=torch.zeros(2, 4, 8, 8))
    state.size, state.branches, state.span = (8, 8), ("uncond", "cond"), span
    merge = None if span > 1 else lambda fresh, step: fresh
    call = ModuleCache("test", lambda written, now: False, merge).around("blocks.0.ff", state)
    what = "steps cannot be told apart.*decoding='sequential'" if span > 1 else "guidance branches cannot be told apart"
    with pytest.raises(UsageError, match=f"'blocks.0.ff' several times for parts of its batch, whose {what}"):
        call(lambda: torch.zeros(1, 3))
