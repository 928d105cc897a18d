"""Shared by all tests: no network, quiet libraries, one set of tiny pipelines."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
# Tiny tensors: a second thread only waits, two test processes share two cores, and the threads of a pool would be
# missing in a copy of the process (lab/forks.py).
os.environ["OMP_NUM_THREADS"] = "1"

import functools

import pytest


def pytest_collection_finish():
    # Not at the top of the file: with -n the process that hands the tests out would load diffusers for nothing, first.
    import diffusers

    diffusers.logging.set_verbosity_error()


def _build(name, **size):
    from tests.support import tiny

    return tiny.build(name, **size)


@functools.cache
def _case(name):
    return _build(name)


@functools.cache
def _baseline(name):
    case = _case(name)
    return case.call(case.pipe)


@pytest.fixture
def case():
    """`case(name)`: a tiny pipeline, shared, because every test must leave it as it was."""
    return _case


@pytest.fixture
def baseline():
    """`baseline(name)`: what the bare pipeline draws for samples 0 and 1."""
    return _baseline


@functools.cache
def _drawn(name, size):
    case = _build(name, **{size: True})
    return case, case.call(case.pipe)


def _left_alone(size):
    used = set()

    def of(name):
        used.add(name)
        return _drawn(name, size)

    yield of
    import torch

    for name in sorted(used):
        case, expected = _drawn(name, size)
        assert torch.equal(case.call(case.pipe), expected), f"a test changed the bare pipeline of {name}"


@pytest.fixture(scope="module")
def small():
    """`small(name)`: a pipeline on small latents, and what it draws bare for samples 0 and 1.

    Once a module is through, all that it asked for must still draw just that.
    """
    yield from _left_alone("small")


@pytest.fixture(scope="module")
def smallest():
    """The same with fewer steps and levels, for what is asked of every family, or of every method on each."""
    yield from _left_alone("smallest")
