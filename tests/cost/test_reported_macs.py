"""Printed MACs stand beside ours in their own convention, and in no other."""

import dataclasses

import pytest

from postdiff.lab.config import experiment
from postdiff.lab.config.layers import from_words
from postdiff.lab.macs.macs_table import count_rows, render, reported_convention, row_values


def demo(**reported):
    loaded = experiment.load("demo", from_words(["steps=1"])).select(["steps_8"])
    return dataclasses.replace(loaded, rows=tuple(dataclasses.replace(row, reported=reported) for row in loaded.rows))


@pytest.mark.parametrize(
    ("key", "value", "convention"),
    [
        ("macs_t", 0.001, "dense"),
        ("macs_g", 1.0, "dense"),
        ("macs_t_dense", 0.001, "dense"),
        ("macs_g_fvcore", 1.0, "fvcore"),
        ("macs_t_fvcore", 0.001, "fvcore"),
        ("macs_g_all", 1.0, "all"),
    ],
)
def test_a_key_names_unit_and_convention(key, value, convention):
    asked = demo(**{key: value})
    counted = count_rows(asked)
    assert reported_convention(asked) == convention
    for other in ("dense", "fvcore", "all"):
        [row] = row_values(counted, other, "all")
        assert ("reported_macs_t" in row) == (other == convention)
    [row] = row_values(counted, convention, "all")
    assert row["reported_macs_t"] == pytest.approx(0.001)
    assert row["gap_percent"] == pytest.approx(100 * (row[f"macs_t_{convention}"] / 0.001 - 1))


def test_without_a_word_the_table_is_in_the_printed_convention():
    assert "fvcore convention" in render(demo(macs_g_fvcore=1.0), None, "text")
    assert "reported" in render(demo(macs_g_fvcore=1.0), None, "text")
    assert "dense convention" in render(demo(psnr=1.0), None, "text")
    assert "reported" not in render(demo(macs_g_fvcore=1.0), "dense", "text")
