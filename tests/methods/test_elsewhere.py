"""Every preset where pipeline and arguments lie on another device than the CPU, which is tests/support/elsewhere."""

import functools

import pytest
import torch

from postdiff import accelerate
from postdiff.engine.rows import map_tensors
from tests.methods.test_properties import PRESETS, REFUSED
from tests.support import tiny
from tests.support.elsewhere import DEVICE, elsewhere
from tests.support.tiny_presets import build_methods, preset

pytestmark = pytest.mark.slow

# Every preset on a U-Net, or on a transformer if it needs one.
CHOSEN = [(name, "pixart_alpha" if "sd" in REFUSED.get(name, ()) else "sd") for name in PRESETS]


@functools.cache
def pair(family):
    """A pipeline, and its twin elsewhere with arguments that lie there; generators stay on the CPU."""
    here, there = (tiny.build(family, smallest=True) for _ in range(2))
    given = there.arguments
    there.arguments = lambda ids: map_tensors(lambda tensor: tensor.to(DEVICE), given(ids))
    with elsewhere():
        there.pipe.to(DEVICE)
    return here, there


def tables(scheduler):
    """Where the tensors that a solver keeps lie."""
    kept = {name: value for name, value in vars(scheduler).items() if isinstance(value, list | torch.Tensor)}
    return map_tensors(lambda tensor: tensor.device, kept)


@pytest.mark.parametrize(("name", "family"), CHOSEN)
@torch.no_grad()
def test_a_run_elsewhere_is_that_of_the_cpu(name, family, monkeypatch):
    """Bit for bit; the solver's tables are left where the bare pipeline leaves them."""
    here, there = pair(family)
    if PRESETS.index(name) % 2:
        times_stay(there.pipe.scheduler, monkeypatch)
    with elsewhere():
        expected = here.call(accelerate(here.pipe, build_methods(preset(name).methods)))
        there.call(there.pipe)
        before = tables(there.pipe.scheduler)
        found = there.call(accelerate(there.pipe, build_methods(preset(name).methods)))
        assert tables(there.pipe.scheduler) == before
    assert torch.equal(found.cpu(), expected)


def times_stay(scheduler, monkeypatch):
    """Solvers keep their timesteps on the CPU, as pipelines ask them to where XLA is."""
    original = scheduler.set_timesteps

    @functools.wraps(original)
    def set_timesteps(*args, device=None, **kwargs):
        return original(*args, **kwargs)

    monkeypatch.setattr(scheduler, "set_timesteps", set_timesteps)
