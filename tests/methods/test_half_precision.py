"""Every preset in bfloat16 and float16: nothing is upcast on the way, drawn otherwise, or rounded more than it must be.

Processors without instructions for them are thirty times slower there, so not all is asked of all.
"""

import functools
from dataclasses import dataclass, field

import pytest
import torch

from postdiff import accelerate
from postdiff.engine.family import FAMILIES
from postdiff.engine.noise_levels import estimate
from postdiff.engine.replay.memory import Place
from postdiff.engine.rows import map_tensors
from postdiff.engine.state import State
from postdiff.methods.base import Method
from tests.methods.test_properties import PRESETS, REFUSED
from tests.support import tiny
from tests.support.parts import SCHEDULERS
from tests.support.tiny_presets import build_methods, preset

pytestmark = pytest.mark.slow

HALVES = (torch.bfloat16, torch.float16)
# Solvers of each kind; batches in one call and in two; latents, packed ones, videos.
FAMILIES_ASKED = ("sd", "pixart_alpha", "sdxl", "flux_cfg", "sd_dpm++", "text_to_video", "wan")
CHOSEN = [
    (name, family, HALVES[(i + j) % 2])
    for i, name in enumerate(PRESETS)
    for j, family in enumerate(FAMILIES_ASKED)
    if ("sd" if family.startswith("sd_") else family) not in REFUSED.get(name, ())
    and (family in ("sd", "pixart_alpha") or (i + j) % 3 == 0)
]


@dataclass
class Types(Method):
    """Notes the types of all that passes: outermost or, as it is by default, innermost."""

    seen: set = field(default_factory=set)

    def denoise(self, forward, sample, kwargs, state):
        output = forward(sample, kwargs)
        self.seen |= {("network takes", sample.dtype), ("network gives", output.dtype)}
        return output

    def step(self, forward, output, timestep, sample, state):
        moved = forward(output, timestep, sample)
        self.seen |= {("solver takes", output.dtype), ("solver takes", sample.dtype), ("solver gives", moved.dtype)}
        return moved


@functools.cache
def half(family, dtype):
    """(a tiny pipeline in half precision, what it draws bare, types on the way, types that its solver remembers)."""
    one = tiny.build(family, smallest=True)
    one.pipe.to(dtype)
    given, passing = one.arguments, Types()
    one.arguments = lambda ids: map_tensors(lambda t: t.to(dtype) if t.is_floating_point() else t, given(ids))
    bare = one.call(one.pipe, [0])
    assert torch.equal(one.call(accelerate(one.pipe, [passing]), [0]), bare)
    return one, bare, passing.seen, remembered(one.pipe.scheduler)


def remembered(scheduler):
    """{name: types of the latents in it}."""
    kept = {name: value if isinstance(value, list) else [value] for name, value in vars(scheduler).items()}
    latents = {
        name: {v.dtype for v in each if isinstance(v, torch.Tensor) and v.ndim > 3} for name, each in kept.items()
    }
    return {name: types for name, types in latents.items() if types}


@pytest.fixture
def kept(monkeypatch):
    """Types of all that caches keep during the test."""
    found = set()

    def add(place, fresh):
        map_tensors(lambda tensor: found.add(tensor.dtype), fresh.value)
        original(place, fresh)

    original = Place._add
    monkeypatch.setattr(Place, "_add", add)
    return found


@pytest.mark.parametrize(("name", "family", "dtype"), CHOSEN, ids=lambda part: str(part).removeprefix("torch."))
def test_half_precision_from_end_to_end(name, family, dtype, kept):
    one, bare, passing, solver = half(family, dtype)
    inner, outer = Types(), Types()
    found = one.call(accelerate(one.pipe, [outer, *build_methods(preset(name).methods), inner]), [0])
    assert torch.isfinite(found).all()
    assert found.dtype == bare.dtype
    assert inner.seen == outer.seen == passing and ("network takes", dtype) in passing
    assert kept <= {dtype}
    assert remembered(one.pipe.scheduler) == solver
    assert torch.equal(one.call(accelerate(one.pipe, build_methods(preset(name).identity)), [0]), bare)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("given", ["one for all", "one each", "none"])
def test_noise_is_that_of_float32_rounded(given, dtype):
    def drawn(like):
        each = [torch.Generator().manual_seed(i) for i in range(2)]
        generators = {"one for all": each[0], "one each": each, "none": None}[given]
        state = State(
            FAMILIES["StableDiffusionPipeline"], None, generators=generators, first_rows=torch.ones(2, 4, 8, 8)
        )
        return [state.noise(like) for _ in range(2)]

    like = torch.zeros(2, 4, 5, 5)  # of multiples of 16 numbers torch draws the same in half precision
    for exact, rounded in zip(drawn(like), drawn(like.to(dtype)), strict=True):
        assert rounded.dtype == dtype and torch.equal(rounded, exact.to(dtype))


@pytest.mark.parametrize("dtype", HALVES)
def test_little_noise_is_reported_as_exactly_as_much(dtype):
    """At the end of a run noise is a small difference, which of rounded numbers would be wrong."""
    scheduler = SCHEDULERS["ddim"]()
    scheduler.set_timesteps(20)
    generator = torch.Generator().manual_seed(0)
    sample, noise = (torch.randn(1, 4, 8, 8, generator=generator).to(dtype) for _ in range(2))
    found = estimate(scheduler, noise, scheduler.timesteps[-1], sample)
    assert found.x0.dtype == found.noise.dtype == dtype
    assert (found.noise.double() - noise.double()).abs().max() <= torch.finfo(dtype).eps * noise.double().abs().max()
