"""The table of pairs says what the code says."""

import importlib.util
import itertools
from pathlib import Path

import pytest

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.presets import build_methods

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("composition", ROOT / "experiments" / "composition.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def written(program):
    """{(row, column): sign} as the page has it."""
    _, _, rest = program.PAGE.read_text().partition(program.BEGIN)
    rows = [line.split("|")[1:-1] for line in rest.partition(program.END)[0].strip().splitlines()[2:]]
    names = [cells[0].split("`")[1] for cells in rows]
    return {
        (row, column): sign.strip()
        for row, cells in zip(names, rows, strict=True)
        for column, sign in zip(names, cells[1:], strict=True)
    }


def test_every_method_is_in_it(program, written):
    assert {row for row, _ in written} == set(program.names())


@pytest.mark.parametrize("network", ["unet", "transformer"])
def test_what_it_refuses_is_refused_and_nothing_else(program, written, network):
    pipe, _ = getattr(program, network)()
    for pair in itertools.combinations(program.names(), 2):
        sign = written[pair if network == "unet" else pair[::-1]]
        try:
            accelerate(pipe, build_methods(pair))
            clash = False
        except UsageError as reason:
            clash = "both act on" in str(reason)
        assert clash == (sign == "x"), f"{' + '.join(pair)} on a {network}: the table says '{sign}'"


def test_a_pair_is_judged_by_running_it(program):
    pipe, call = program.transformer()
    pipe.set_progress_bar_config(disable=True)
    assert program.verdict(pipe, call, ["fora", "cfg_cutoff"])[0] == "runs"
    assert program.verdict(pipe, call, ["fora", "tea_cache"])[0] == "refused"
