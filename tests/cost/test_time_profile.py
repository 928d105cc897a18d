"""The stopwatch: times that add up, whose they are, and nothing left behind."""

import itertools

import pytest
import torch

from postdiff import accelerate
from postdiff.cost import macs
from postdiff.cost.groups import GROUPS
from postdiff.cost.moments import CpuMoments, CudaMoments
from postdiff.cost.stopwatch import BEFORE, DRIVER, OUTSIDE, PIPELINE, SOLVER, Stopwatch, TimeProfile, middle
from postdiff.cost.time_profile import touched, watch
from postdiff.engine.errors import UsageError
from postdiff.methods import CrossAttentionCache, DeepCache, MixedResolution
from tests.support.tiny import STEPS


def left_behind(pipe):
    """All that a profile touches, key order included."""
    owners = [owner for owner in pipe.components.values() if isinstance(owner, torch.nn.Module)]
    modules = [module for owner in owners for module in owner.modules()]
    kept = [list(vars(module)) for module in (*modules, pipe.scheduler)]
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called", "_forward_hooks_with_kwargs")
    return kept, [len(getattr(module, name)) for module in modules for name in hooks]


class Ticking(CpuMoments):
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
        with clock.within(("denoiser", "other")):
            clock.next_step()
        assert clock.surrounding() == (OUTSIDE, PIPELINE)
    found = clock.stop()
    assert found.cells == {
        (OUTSIDE, BEFORE, PIPELINE): 1,
        ("denoiser", BEFORE, DRIVER): 1,
        ("denoiser", BEFORE, "other"): 1,
        ("denoiser", 0, "other"): 1,
        ("denoiser", 0, DRIVER): 1,
        (OUTSIDE, 0, PIPELINE): 1,
    }
    assert (found.wall_s, found.steps) == (6, 0)
    assert found.seconds("denoiser") == 4
    assert found.seconds(step=0, group=DRIVER) == 1


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
        clock.next_step()
    assert len(waited) == 1
    found = clock.stop()
    assert list(found.cells.values()) == [1, 1, 1, 1] and found.wall_s == 4
    assert waited == [torch.device("cuda:1")] * 2


def test_middle_of_several_calls():
    first = {("vae", 2, "other"): 1.0, ("vae", 2, "resnets"): 4.0}
    calls = [TimeProfile(first, 2, 5.0), TimeProfile({("vae", 2, "other"): 3.0}, 2, 3.0), TimeProfile(first, 2, 9.0)]
    found = middle(calls)
    assert found.cells == {("vae", 2, "other"): 1.0, ("vae", 2, "resnets"): 4.0}
    assert found.wall_s == 5.0


LOW_FIRST = MixedResolution(beta=0.5, switch=0.5)


@pytest.mark.parametrize(
    ("name", "methods"), [("sd", []), ("flux", []), ("controlnet", [LOW_FIRST]), ("dit", [LOW_FIRST])]
)
def test_cells_add_up_to_the_whole_call(small, name, methods):
    found = profiled(small(name)[0], methods)
    assert sum(found.cells.values()) == pytest.approx(found.wall_s, rel=1e-9)
    assert min(found.cells.values()) >= 0
    assert found.steps == STEPS
    for step in range(STEPS):
        assert found.seconds("denoiser", step) > 0
        assert found.seconds(OUTSIDE, step, SOLVER) > 0
        assert found.seconds(OUTSIDE, step, DRIVER) > 0
        assert found.seconds("denoiser", step, DRIVER) > 0
    assert found.seconds("denoiser", BEFORE) == found.seconds("denoiser", STEPS) == 0


def test_replayed_modules_take_no_time(small):
    """With DeepCache and cross-attention cached, a group takes time just where it does work."""
    one = small("sd")[0]
    methods = [DeepCache(interval=2), CrossAttentionCache(gate=4)]
    work = macs.tally(one.pipe, lambda: one.call(accelerate(one.pipe, methods)))
    # On a clock that counts boundaries a group that is not entered has no cell at all.
    found = profiled(one, methods, moments=Ticking())
    idle = 0
    for step in range(STEPS):
        for group in GROUPS:
            busy = work.work("denoiser", step, group).all > 0
            idle += not busy
            assert (("denoiser", step, group) in found.cells) == busy, (step, group)
    assert idle >= STEPS - 4, "after the gate no step computes cross-attention"
    assert found.cells["denoiser", 1, DRIVER] > found.cells["denoiser", 0, "cross-attention"] > 0


def test_a_bare_pipeline_has_no_driver(small):
    one = small("sd")[0]
    assert touched(one.pipe, lambda: one.call(one.pipe)) == []
    found = watch(one.pipe, lambda: one.call(one.pipe), [])
    assert found.seconds(group=DRIVER) == 0
    assert found.steps == STEPS


def test_pictures_are_the_same_and_nothing_is_left(small):
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


def test_a_compiled_network_is_refused(small, monkeypatch):
    one, _ = small("sd")
    monkeypatch.setitem(vars(one.pipe.unet.mid_block), "_compiled_call_impl", print)  # as `compile` leaves it
    with pytest.raises(UsageError, match="leave the compiling out"):
        touched(one.pipe, lambda: one.call(one.pipe))
