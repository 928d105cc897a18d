"""Shared by all tests: no network, quiet libraries, one set of tiny pipelines."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
# Tiny tensors: a second thread only waits, and two test processes share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import functools

import diffusers
import pytest

from tests.support import tiny

diffusers.logging.set_verbosity_error()


@functools.cache
def _case(name):
    return tiny.build(name)


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
