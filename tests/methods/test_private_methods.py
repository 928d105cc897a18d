"""A method that nobody wrote a test for, from `POSTDIFF_PATH`: the generic checks tell a right one from wrong ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from postdiff.engine.errors import UsageError
from postdiff.methods.formulas import Reference, alone, blocks_of, residual
from tests.support.generic_checks import CHECKS
from tests.support.own_methods import forgotten
from tests.support.slow_run import BY_HAND
from tests.support.subjects import private, subject, together

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "support" / "foreign"
RIGHT, CLOSURE, NO_SPAN = "residual_skip_right", "residual_skip_closure", "residual_skip_no_span"


@pytest.fixture
def folder(monkeypatch):
    with forgotten(FOLDER):
        monkeypatch.setenv("POSTDIFF_PATH", str(FOLDER))
        yield
        together.cache_clear()


def residual_skip(method, run):
    """x_t + (f(x_k) - x_k), k the last multiple of the interval, for every block f."""
    blocks = [m for m in run.network.modules() if type(m).__name__ == "Transformer2DModel"] or blocks_of(run.network)

    def value(name, t, b, x, y):
        k = max(s for s in y[b] if s % method.interval == 0 or s == min(y[b]))
        return y[b][t] if k == t else residual(blocks[int(name)], x[b], y[b], k, t)

    return Reference(alone({str(i): block for i, block in enumerate(blocks)}), value)


def wrong_in(name, family):
    """Checks that fail."""

    def fails(check):
        try:
            check(subject(name), family)
        except UsageError:
            return False
        except Exception:  # a wrong method may raise anything
            return True
        return False

    return {name for name, check in CHECKS.items() if fails(check)}


def test_what_is_found(folder):
    assert private() == sorted([RIGHT, CLOSURE, NO_SPAN])


@pytest.mark.parametrize("family", ["sd", "dit", "flux_cfg"])
def test_a_right_one_passes(folder, monkeypatch, family):
    monkeypatch.setitem(BY_HAND, "ResidualSkipRight", residual_skip)
    assert wrong_in(RIGHT, family) == set()


@pytest.mark.parametrize("family", ["sd", "dit"])
def test_one_memory_for_all_blocks_fails(folder, monkeypatch, family):
    """On DiT nothing crashes, and without a formula the standstill alone sees it."""
    failed = wrong_in(CLOSURE, family)
    assert failed >= set(CHECKS) - {"claims"} if family == "sd" else "standstill" in failed
    monkeypatch.setitem(BY_HAND, "ResidualSkipClosure", residual_skip)
    assert "reference" in wrong_in(CLOSURE, family)


def test_one_that_knows_of_no_spans_fails(folder, monkeypatch):
    assert "parallel" in wrong_in(NO_SPAN, "sd")
    monkeypatch.setitem(BY_HAND, "ResidualSkipNoSpan", residual_skip)
    assert "reference_where_guidance_ends" in wrong_in(NO_SPAN, "sd")


@pytest.mark.slow
def test_whoever_adds_a_method_need_not_edit_anything():
    """In a process of its own, for presets are named as the tests are imported."""
    environment = {**os.environ, "POSTDIFF_PATH": str(FOLDER)}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "-k", "test_private"]
    command.append("tests/methods/test_every_cache.py")
    found = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    outcomes = [line.partition(" ")[::2] for line in found.stdout.splitlines() if "::test_private[" in line]
    failed = {
        name for name in (RIGHT, CLOSURE, NO_SPAN) for word, test in outcomes if word == "FAILED" and name in test
    }
    assert found.returncode == 1 and failed == {CLOSURE, NO_SPAN}, found.stdout
    assert any(word == "PASSED" and RIGHT in test for word, test in outcomes)
