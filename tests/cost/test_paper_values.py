"""The paper's way of counting, on values small enough to follow; the real ones are in `test_paper_macs`."""

from postdiff.cost.on_meta import Seen
from postdiff.cost.paper_values import paper_accounting
from postdiff.cost.tally import Tally, Work

FULL, HALF = (8, 8), (4, 4)


def account(*steps):
    """Steps as (size, branches, cross-attention of a branch, everything else of a branch)."""
    cells, seen = {}, Seen()
    for step, (size, branches, cross, rest) in enumerate(steps):
        seen.sizes[step], seen.branches[step] = size, branches
        for group, macs in (("cross-attention", cross), ("resnets", rest)):
            if macs:
                cells["denoiser", step, group] = Work(macs, macs, macs) * branches
    tally = Tally(cells, len(steps))
    return paper_accounting(tally, seen).dense - tally.work("denoiser").dense


def test_nothing_changes_without_a_gate():
    assert account((FULL, 2, 30, 700), (FULL, 2, 6, 120), (FULL, 2, 30, 700)) == 0


def test_a_full_step_after_the_gate_runs_as_it_is_reckoned():
    assert account((FULL, 2, 30, 700), (FULL, 2, 6, 120), (FULL, 1, 0, 700)) == 0


def test_a_cheap_step_after_the_gate_is_credited_with_all_cross_attention():
    assert account((FULL, 2, 30, 700), (FULL, 2, 6, 120), (FULL, 1, 0, 700), (FULL, 1, 0, 120)) == -(30 - 6)


def test_a_cheap_step_that_holds_none_is_left_alone():
    assert account((FULL, 2, 30, 700), (FULL, 2, 0, 120), (FULL, 1, 0, 700), (FULL, 1, 0, 120)) == 0


def test_each_size_has_its_own_cross_attention():
    steps = [(HALF, 2, 8, 170), (HALF, 2, 2, 30), (HALF, 1, 0, 170), (HALF, 1, 0, 30), (FULL, 2, 30, 700)]
    assert account(*steps) == -(8 - 2)


def test_a_kind_of_step_that_never_computed_its_cross_attention_counts_as_it_ran():
    assert account((FULL, 2, 30, 700), (FULL, 1, 0, 120)) == 0
