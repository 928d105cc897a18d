"""Rules by steps, and what a module's piece keeps by size, call, branch and image."""

import pytest
import torch

from postdiff.engine.errors import UsageError
from postdiff.engine.family import Family
from postdiff.engine.replay import Hold, Taylor, Weighted, at, before, turns
from postdiff.engine.replay.module import ModulePiece
from postdiff.engine.rows import join_rows, split_rows
from postdiff.engine.state import State


def computed(due, steps, misses=()):
    """The steps at which one module is computed; `misses` are forced from outside."""
    written, found = None, []
    for now in range(steps):
        if written is None or now in misses or due(written, now):
            found.append(now)
            written = now
    return found


@pytest.mark.parametrize(
    ("due", "steps", "misses", "expected"),
    [
        (at(range(10)), 10, (), list(range(10))),
        (at(range(0, 10, 3)), 10, (), [0, 3, 6, 9]),
        # A miss at 11 (a resolution switch) adds a step and leaves the others alone.
        (at(range(0, 16, 2)), 16, (11,), [0, 2, 4, 6, 8, 10, 11, 12, 14]),
        (before(3), 6, (), [0, 1, 2]),
        (before(3), 6, (4,), [0, 1, 2, 4]),
        (before(0), 3, (), [0]),
    ],
)
def test_rules_by_steps(due, steps, misses, expected):
    assert computed(due, steps, misses) == expected


def test_a_step_that_was_left_out_is_made_up_for():
    assert at([0, 3, 6])(0, 4) and not at([0, 3, 6])(4, 5) and not before(3)(1, 4)


def test_turns():
    assert turns(at([0, 1, 4, 5, 6]), 9) == {2, 4, 7}
    assert turns(before(3), 9) == {3}
    assert turns(before(9), 9) == turns(at(range(9)), 9) == set()


def test_split_and_join_nested_rows():
    value = (torch.arange(6.0).reshape(6, 1), (torch.ones(4, 2), None))
    parts = split_rows(value, 2)
    assert parts[1][0].flatten().tolist() == [3, 4, 5]
    joined = join_rows(parts)
    assert torch.equal(joined[0], value[0])
    assert torch.equal(joined[1][0], value[1][0])
    assert joined[1][1] is None


NEVER = at([0])


def state_of(images=1, branches=("uncond", "cond"), **others):
    return State(Family("unet"), None, steps=9, size=(8, 8), branches=branches, images=tuple(range(images)), **others)


def piece(state, due=NEVER, fill=None, merge=None):
    found = ModulePiece("test", "module", fill or Hold(), merge, state)
    found.due = due
    return found


def around(inner, state):
    """A piece of which every call is in a call of the network of its own."""

    def call(forward, *args):
        state.network_call += 1
        return inner(forward, *args)

    return call


def test_size_and_branch_are_part_of_the_key():
    state = state_of()
    call, ran = around(piece(state), state), []

    def forward(x):
        ran.append(x.shape)
        return x * 2

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
    state = state_of()
    call = around(piece(state, lambda written, now: now == 3), state)
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


def numbered(inner, state, rows, calls=3):
    """What `calls` calls of one module within a call of the network give out, each of `rows` rows."""
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
    state = state_of(2, first_rows=torch.zeros(2, 4, *[8] * (2 + video)))
    network = numbered(piece(state, fill=Hold() if order is None else Taylor(order)), state, rows)
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
    state = state_of(2, first_rows=torch.zeros(2, 4, 8, 8), span=span)
    call = piece(state, merge=None if span > 1 else lambda fresh, step, scale: fresh)
    call.module = "blocks.0.ff"
    what = "steps cannot be told apart.*decoding='sequential'" if span > 1 else "guidance branches cannot be told apart"
    with pytest.raises(UsageError, match=f"'blocks.0.ff' several times for parts of its batch, whose {what}"):
        call(lambda: torch.zeros(1, 3))


def ones(state, value):
    """An output whose every row is `value`."""
    return lambda: torch.full((len(state.rows), 2), float(value))


@pytest.mark.parametrize("fill", [Hold(), Taylor(1), Weighted(lambda steps, now: [0.0] * (len(steps) - 1) + [1.0], 3)])
def test_images_that_were_computed_apart_are_replayed_together(fill):
    state = state_of(3)
    inner = piece(state, at(range(9)), fill)
    call = around(inner, state)
    call(ones(state, 1))
    state.index, state.images = 1, (0, 2)
    call(ones(state, 5))
    inner.due, state.index, state.images = NEVER, 2, (0, 1, 2)
    found = call(None)[:, 0].tolist()
    ahead = 9.0 if isinstance(fill, Taylor) else 5.0  # 5 + (5 - 1) / 1 * 1
    assert found == [ahead, 1, ahead] * 2
    state.branches, state.images = ("cond",), (2, 1)
    assert call(None)[:, 0].tolist() == [ahead, 1]


def test_a_new_image_is_an_ordinary_miss():
    state = state_of(3)
    call = around(piece(state), state)
    state.images = (0, 1)
    call(ones(state, 1))
    state.images = (1, 2)
    assert call(ones(state, 2))[:, 0].tolist() == [1, 2] * 2, "the one that is known is replayed"
    state.images = (0, 1, 2)
    assert call(None)[:, 0].tolist() == [1, 1, 2] * 2


def test_what_is_merged_is_merged_once_somebody_reads_it():
    merged = []

    def merge(fresh, step, scale):
        merged.append((step, scale))
        return {"cond": fresh["uncond"] + scale * fresh["cond"]}

    state = state_of(guidance_scale=3.0)
    call = around(piece(state, before(3), merge=merge), state)
    for state.index in range(3):
        call(ones(state, state.index + 1))
    assert merged == []
    state.index, state.branches, state.guidance_scale = 3, ("cond",), 7.0  # of which what is kept knows nothing
    assert call(None).tolist() == [[12.0] * 2] and merged == [(2, 3.0)]
    assert call(None).tolist() == [[12.0] * 2] and len(merged) == 1


def test_branches_that_are_merged_one_after_the_other_are_both_kept():
    """A pipeline that calls its network once a branch."""
    state = state_of()
    inner = piece(state, before(1), merge=lambda fresh, step, scale: fresh)
    call = around(inner, state)
    for state.branches in (("cond",), ("uncond",)):
        call(ones(state, len(state.branches[0])))
    state.index = 1
    for state.branches in (("cond",), ("uncond",)):
        assert call(None).tolist() == [[float(len(state.branches[0]))] * 2]
