"""The stopwatch: times that add up, whose they are, and nothing left behind."""

import itertools

import pytest
import torch

from postdiff import accelerate
from postdiff.cost import macs
from postdiff.cost.moments import CudaMoments, Moments
from postdiff.cost.time_profile import DRIVER, OUTSIDE, PIPELINE, SOLVER, Stopwatch, touched, watch
from postdiff.methods import CrossAttentionCache, DeepCache, MixedResolution
from tests.support.tiny import STEPS


def left_behind(pipe):
    """All that a profile touches, key order included."""
    owners = [owner for owner in pipe.components.values() if isinstance(owner, torch.nn.Module)]
    modules = [module for owner in owners for module in owner.modules()]
    kept = [list(vars(module)) for module in (*modules, pipe.scheduler)]
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called", "_forward_hooks_with_kwargs")
    return kept, [len(getattr(module, name)) for module in modules for name in hooks]


class Ticking(Moments):
    """A clock on which every boundary comes a second after the last."""

    def __init__(self):
        self.now = itertools.count().__next__


def profiled(one, methods, **clock):
    driver = accelerate(one.pipe, methods)

    def call():
        one.call(driver)

    return watch(one.pipe, call, touched(one.pipe, call), **clock)


def test_time_goes_to_the_place_it_is_spent_in():
    clock = Stopwatch(Ticking())
    clock.start()
    with clock.within(("denoiser", DRIVER)):
        with clock.within(("denoiser", "other")), clock.within(("denoiser", "resnets")):
            pass
        with clock.within((OUTSIDE, SOLVER)):
            pass
    assert clock.stop() == {
        (OUTSIDE, PIPELINE): 2,
        ("denoiser", DRIVER): 3,
        ("denoiser", "other"): 2,
        ("denoiser", "resnets"): 1,
        (OUTSIDE, SOLVER): 1,
    }


def test_on_a_gpu_nothing_waits_between_start_and_stop(monkeypatch):
    """Events of a queue that does each thing a second after the last; the CPU waits twice."""
    waited, now = [], itertools.count()

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            assert stream == "stream of cuda:1"
            self.at = next(now)

        def elapsed_time(self, other):
            assert len(waited) == 2, "not yet known"
            return 1e3 * (other.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    clock = Stopwatch(CudaMoments(torch.device("cuda:1")))
    clock.start()
    with clock.within(("denoiser", "other")):
        pass
    assert len(waited) == 1
    assert clock.stop() == {(OUTSIDE, PIPELINE): 2, ("denoiser", "other"): 1}
    assert waited == [torch.device("cuda:1")] * 2


LOW_FIRST = MixedResolution(beta=0.5, switch=0.5)


@pytest.mark.parametrize(
    ("name", "methods"), [("sd", []), ("flux", []), ("controlnet", [LOW_FIRST]), ("dit", [LOW_FIRST])]
)
def test_places_add_up_to_the_whole_call(small, name, methods):
    """On a clock that counts boundaries every one of them is charged, to places that are all there."""
    clock = Ticking()
    found = profiled(small(name)[0], methods, moments=clock)
    assert sum(found.values()) == clock.now() - 1
    for place in (
        ("denoiser", "other"),
        ("denoiser", DRIVER),
        (OUTSIDE, SOLVER),
        (OUTSIDE, DRIVER),
        (OUTSIDE, PIPELINE),
    ):
        assert found[place] > 0


def test_replayed_modules_take_no_time(small):
    """With cross-attention cached a group takes as many boundaries as it is computed in steps."""
    one = small("sd")[0]
    methods = [CrossAttentionCache(gate=4)]
    work = macs.tally(one.pipe, lambda: one.call(accelerate(one.pipe, methods)))
    busy = sum(work.work("denoiser", step, "cross-attention").all > 0 for step in range(STEPS))
    bare, found = (profiled(one, each, moments=Ticking()) for each in ([], methods))
    place = ("denoiser", "cross-attention")
    assert 0 < busy < STEPS and found[place] * STEPS == bare[place] * busy
    assert found["denoiser", DRIVER] > bare["denoiser", DRIVER] > 0


def test_a_bare_pipeline_has_no_driver(small):
    one = small("sd")[0]
    assert not touched(one.pipe, lambda: one.call(one.pipe))
    found = watch(one.pipe, lambda: one.call(one.pipe), set())
    assert DRIVER not in {group for _, group in found} and min(found.values()) > 0


def test_images_are_the_same_and_nothing_is_left(small):
    one = small("sd")[0]
    before = left_behind(one.pipe)
    driver, made = accelerate(one.pipe, [DeepCache(interval=2)]), []
    modules = touched(one.pipe, lambda: made.append(one.call(driver)))
    watch(one.pipe, lambda: made.append(one.call(driver)), modules)
    assert torch.equal(made[0], made[1])
    assert left_behind(one.pipe) == before


@pytest.mark.parametrize("step", [0, 3])
def test_nothing_is_left_after_an_exception(small, step):
    one = small("sd")[0]
    driver = accelerate(one.pipe, [DeepCache(interval=2)])
    modules, before = touched(one.pipe, lambda: one.call(driver)), left_behind(one.pipe)

    def stop(pipe, at, timestep, tensors):
        if at == step:
            raise RuntimeError("stop")
        return tensors

    for act in (lambda call: touched(one.pipe, call), lambda call: watch(one.pipe, call, modules)):
        with pytest.raises(RuntimeError, match="stop"):
            act(lambda: one.call(driver, callback_on_step_end=stop))
        assert left_behind(one.pipe) == before
