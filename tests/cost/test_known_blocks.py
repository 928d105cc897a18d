"""Blocks counted once: every cell is as if each had been run each time, whatever methods do inside them."""

import pytest
import torch

from postdiff import catalog
from postdiff.cost import structures
from postdiff.cost.known_blocks import KnownBlocks
from postdiff.engine.errors import UsageError
from postdiff.lab.config import schedulers
from postdiff.presets import build_methods

pytestmark = pytest.mark.slow

STEPS = 5


class NothingKnown(KnownBlocks):
    def around(self, network, journal):
        return iter(())


@pytest.fixture(scope="module")
def twin():
    found = {}

    def of(name):
        if name not in found:
            found[name] = structures.real_size(name, schedulers.stand_in())
        return found[name]

    return of


def cells(twin, methods):
    tally, seen = twin.tally(build_methods(methods), num_inference_steps=STEPS)
    return tally.cells, seen


@pytest.mark.parametrize("structure", ["emoji", "dit_xl2_256"])
@pytest.mark.parametrize("name", ["", *catalog.names("methods")])
def test_every_cell_as_without(twin, structure, name):
    one = twin(structure)
    methods = [name] if name else []
    kept, one.blocks = one.blocks, NothingKnown()
    try:
        expected = cells(one, methods)
    except UsageError as reason:
        pytest.skip(f"refused: {reason}")
    finally:
        one.blocks = kept
    assert cells(one, methods) == expected, "what this count found out"
    assert cells(one, methods) == expected, "what earlier counts have found out"


def test_a_step_that_brings_nothing_new_runs_nothing(twin):
    """Known operations are counted by dispatches, of which only those around the blocks are left."""
    one = twin("emoji")
    cells(one, [])
    linear, calls = torch.nn.functional.linear, []
    try:
        torch.nn.functional.linear = lambda *args: calls.append(args) or linear(*args)
        cells(one, [])
        assert len(calls) <= 4 * STEPS, "only what embeds the time"
        calls.clear()
        one.blocks = NothingKnown()
        cells(one, [])
        assert len(calls) > 30 * STEPS
    finally:
        torch.nn.functional.linear = linear
        one.blocks = KnownBlocks()
