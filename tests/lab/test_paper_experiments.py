"""Every experiment of the papers runs on the shipped model: all rows are prepared, some are generated and measured."""

import functools

import pytest

from postdiff import catalog
from postdiff.lab.config import experiment
from postdiff.lab.plan.plan import plan_rows

pytestmark = pytest.mark.slow

SHIPPED = ["model=emoji", "data=emoji"]
FEW = ["count=2", "seeds=[0]", "steps=4", "reference_steps=5", "bench.repeats=0", "metrics=null"]
# Key sets are for a number of steps, so these run at full length, and one row must do.
LONG = ["count=1", "seeds=[0]", "reference_steps=1", "bench.repeats=0", "metrics=[paired_psnr,emoji_text_score]"]
# The row that is generated of it has no keys, and 250 steps take a minute.
SHORTER = {"faster_diffusion/table_3": ["steps=20"]}
SMALL = {"postdiff": FEW, "faster_diffusion": LONG}
NAMES = [name for name in catalog.names("experiments") if name.partition("/")[0] in SMALL]
LOADED = functools.cache(experiment.load)  # the files do not change while tests run


@pytest.mark.parametrize("name", NAMES)
def test_every_row_can_be_prepared_and_says_how_it_differs(name):
    found = experiment.load(name, {"model": "emoji", "data": "emoji"})
    plans = plan_rows(found)
    assert (
        len({plan.name for plan in plans}) == len(plans) == len({(row.label, row.config.model) for row in _own(name)})
    )
    assert found.summary


def _own(name):
    return LOADED(name).rows


def _few(name):
    """Of the rows with methods one in the middle and the last."""
    rows = [row.name for row in _own(name) if row.config.methods]
    return list(dict.fromkeys((rows[(len(rows) - 1) // 2], rows[-1])))


def _tallest(name):
    """Of the first row, one in the middle and so on, the last of those with most methods."""
    rows = _own(name)
    return [max(reversed(rows[:: max(1, len(rows) // 2)]), key=lambda row: len(row.config.methods)).name]


@pytest.mark.parametrize("name", NAMES)
def test_runs_and_prints_its_table(name, outputs, command):
    small = SMALL[name.partition("/")[0]]
    some = _few(name) if small is FEW else _tallest(name)
    code, out, err = command("run", name, *SHIPPED, *small, *SHORTER.get(name, []), "--rows", ",".join(some))
    assert code == 0, err
    labels = {row.name: row.label for row in _own(name)}
    assert all(labels[row] in out for row in some)
    assert "Text score" in out and "MACs" in out
    assert "reported" not in out, "values of another model stand beside ours"
