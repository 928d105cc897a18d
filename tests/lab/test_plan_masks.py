"""Masks of computed steps: the search against trying all, and the journal that it goes on from."""

import itertools
import json
import random

import pytest

from postdiff.engine.errors import UsageError
from postdiff.lab.generate.pipelines import Pipelines
from postdiff.lab.planner.mask_trials import Journal, MaskTrials
from postdiff.lab.planner.masks import Effort, even, search


def all_masks(steps, computed):
    """Every mask that computes the first quarter of its steps at the beginning."""
    prefix = max(1, computed // 4)
    return [(*range(prefix), *rest) for rest in itertools.combinations(range(prefix, steps), computed - prefix)]


def test_an_even_mask_is_one():
    for steps in range(1, 30):
        for computed in range(1, steps + 1):
            mask = even(steps, computed)
            assert len({*mask}) == len(mask) == computed and max(mask) < steps
            assert steps > 10 or mask in all_masks(steps, computed)


@pytest.mark.parametrize("seed", range(8))
def test_the_best_of_all_masks_is_found(seed):
    """8 steps, 4 computed, 35 masks; what stands in is the worse the older it is, and errors add up and grow."""
    chance = random.Random(seed)
    worth = [chance.uniform(0.2, 3) for _ in range(8)]

    def loss(mask):
        error = 0.0
        for step in range(8):
            age = step - max(own for own in mask if own <= step)
            error = 1.1 * error + worth[step] * age**1.5
        return error**2

    found = search(8, 4, loss, Effort(annealing=200, climbing=20, masks=1000))
    best = min(all_masks(8, 4), key=loss)
    assert found.mask == best and found.loss == loss(best) <= found.first and found.tried <= 35


def test_a_search_asks_once_for_each_mask_and_no_oftener_than_it_may():
    asked = []

    def loss(mask):
        asked.append(mask)
        return float(sum(mask))

    found = search(20, 8, loss, Effort(annealing=50, climbing=5, masks=40))
    assert len(asked) == len({*asked}) == found.tried <= 41 and all(mask in all_masks(20, 8) for mask in asked)
    assert search(20, 8, loss, Effort(annealing=50, climbing=5, masks=40)) == found
    assert search(5, 5, loss, Effort()).mask == (0, 1, 2, 3, 4)


def test_a_journal_keeps_what_a_kill_leaves(tmp_path):
    file = tmp_path / "masks" / "x.jsonl"
    journal = Journal(file)
    journal.add((0, 2), 0.25)
    journal.add((0, 3), 1 / 3)
    with file.open("a") as stream:
        stream.write("[[0, 4], 0.")
    again = Journal(file)
    assert again.losses == {(0, 2): 0.25, (0, 3): 1 / 3}
    again.add((0, 4), 0.5)
    assert Journal(file).losses[0, 4] == 0.5
    file.write_text(file.read_text().replace("0.25", "?"))
    with pytest.raises(UsageError, match="line 1 is no loss of a mask; remove the file"):
        Journal(file)


def test_losses_of_the_shipped_model(outputs):
    """All steps computed lose nothing, one step loses most; a second search asks the model for nothing."""
    base = {"model": "emoji", "data": "emoji", "seeds": [0], "steps": 4}
    trials = MaskTrials(base, "output", Pipelines())
    found = trials.search(2, Effort(annealing=10, climbing=2, masks=4))
    assert found.tried <= 4 and 0 < found.loss <= found.first
    assert trials.search(4, Effort()).loss == 0
    assert trials.search(1, Effort()).loss > found.loss
    [file] = (outputs / "plans" / "masks").glob("*.jsonl")
    assert len(file.read_text().splitlines()) == len(trials.journal.losses)
    again = MaskTrials(base, "output", None)
    assert again.search(2, Effort(annealing=10, climbing=2, masks=4)) == found
    assert json.loads(file.read_text().splitlines()[0])[0][0] == 0
