"""Pipelines whose two networks take turns: a change of network is an ordinary miss, as a change of size is."""

import functools

import pytest
import torch

from postdiff import accelerate
from postdiff.methods import StepMask
from postdiff.presets import build_methods
from tests.methods.test_properties import REFUSED
from tests.support.subjects import CACHES
from tests.support.twins import TWINS
from tests.support.work import watched

STEPS, CHANGE = 8, 4
# From the third step on, all that may be left out is.
LEFT_OUT = {
    "adaptive_diffusion": {"threshold": 1e9, "warmup": 3, "last": 0, "most": 99},
    "cross_attention_cache": {"gate": 2, "cutoff": False},
    "dbcache": {"front": 1, "threshold": 1e9, "warmup": 0},
    "easy_cache": {"threshold": 1e9, "warmup": 2},
    "first_block_cache": {"threshold": 1e9},
    "fora": {"interval": 8},
    "lazy_cache": {"threshold": 1e9, "begin": 0.0, "end": 1.0},
    "mag_cache": {"threshold": 1e9, "most": 99, "retention": 0.0},
    "pyramid_attention_broadcast": {},
    "sada": {"first": 0, "late": 99, "last": 2},
    "sea_cache": {"threshold": 1e9, "in_a_row": 99},
    "spectrum": {"warmup": 2, "interval": 9.0, "degree": 1},
    "step_mask": {"computed": [0, 1]},
    "taylor_seer": {"interval": 8, "warmup": 2},
    "tea_cache": {"threshold": 1e9},
}
STACKS = [*LEFT_OUT.items(), ("sea_cache", {**LEFT_OUT["sea_cache"], "replay": "prediction"})]


@functools.cache
def twin(name):
    return TWINS[name]()


def run(name, methods):
    """The images, and what each network computed."""
    one = twin(name)
    second = getattr(one.pipe, "transformer_2", None) or one.pipe.transformer
    with watched(one.pipe, one.pipe.transformer) as early, watched(one.pipe, second) as late:
        found = one.call(accelerate(one.pipe, methods), [0, 1], num_inference_steps=STEPS)
    assert torch.isfinite(found).all()
    return found, early, late


def test_all_caches_that_serve_such_a_pipeline_are_asked():
    assert LEFT_OUT.keys() == {name for name in CACHES if "wan" not in REFUSED[name]}


@pytest.mark.parametrize(("name", "options"), STACKS)
def test_the_second_network_is_computed_when_it_takes_over(name, options):
    methods = [{name: options}]
    _, one, _ = run("wan", build_methods(methods))
    assert any(CHANGE not in rows for rows in one.rows.values()), "one network would have been computed as well"
    _, early, late = run("wan22", build_methods(methods))
    _, _, bare = run("wan22", [])
    assert max(early.steps) < CHANGE == min(bare.steps)
    assert {layer: rows[CHANGE] for layer, rows in late.rows.items()} == {
        layer: rows[CHANGE] for layer, rows in bare.rows.items()
    }


def test_forecasts_begin_anew_with_it():
    """Of the second network one prediction is known, from which no line can be drawn."""
    computed = [*range(CHANGE + 1), STEPS - 1]
    linear, held = (run("wan22", [StepMask(computed, fill)])[0] for fill in ("linear", "output"))
    assert torch.equal(linear, held)
    assert not torch.equal(held, run("wan22", [])[0])
