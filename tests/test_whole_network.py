"""What `experiments/whole_network.py` tells apart, on values made up."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("whole_network", ROOT / "experiments" / "whole_network.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_difference_is_that_of_pairs(program):
    """Images differ by far more than rows; the interval is that of the differences."""
    images = np.linspace(10.0, 50.0, 64)
    found = program.compared(images + np.tile([0.9, 1.1], 32), images)
    assert found["mean"] == pytest.approx(1.0)
    assert 0.96 < found["low"] < 1.0 < found["high"] < 1.04


@pytest.mark.parametrize(("calls", "expected"), [(5, 20.0), (6.5, 25.0), (8, 30.0), (4.95, 20.0), (9, None), (4, None)])
def test_masks_are_interpolated_and_never_continued(program, calls, expected):
    known = {5.0: np.full(3, 20.0), 8.0: np.full(3, 30.0)}
    found = program.at_calls(known, calls)
    assert found is None if expected is None else found == pytest.approx(np.full(3, expected))


def test_rows_are_compared_with_what_differs_in_one_thing(program):
    rows = {
        **{"steps_8": 29.0, "steps_12": 33.0, "even_output_8": 36.0, "even_output_12": 40.0, "even_residual_8": 35.0},
        **{"easy_output_8": 38.5, "easy_residual_8": 38.0, "lazy_clean_8": 34.0},
    }
    cost = {name: float(name.rpartition("_")[2]) for name in rows} | {"easy_output_8": 9.0}
    found = program.differences({name: np.full(4, value) for name, value in rows.items()}, cost)
    means = {kind: {row: (each["against"], each["mean"]) for row, each in found[kind].items()} for kind in found}
    assert means == {
        "steps": {
            **{"even_output_8": ("steps", 7.0), "even_output_12": ("steps", 7.0), "even_residual_8": ("steps", 6.0)},
            **{"easy_output_8": ("steps", 8.5), "easy_residual_8": ("steps", 9.0), "lazy_clean_8": ("steps", 5.0)},
        },
        "fill": {"even_residual_8": ("even_output_8", -1.0), "easy_residual_8": ("easy_output_8", -0.5)},
        "rule": {"easy_output_8": ("even_output", 1.5), "easy_residual_8": ("even_residual", 3.0)},
    }
