"""Nothing is shared between runs: threads on one network, calls within callbacks, copies, interrupts at any moment."""

import contextlib
import copy
import dis
import functools
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

from postdiff import accelerate
from postdiff.engine import call as call_module
from postdiff.engine import driver as driver_module
from postdiff.engine import intercept as intercept_module
from postdiff.engine import solver_use
from postdiff.engine.errors import UsageError
from postdiff.presets import build_methods
from tests.support import tiny
from tests.support.snapshot import scheduler_keys, snapshot

pytestmark = pytest.mark.slow

STACKS = [
    ["mixed_resolution", "deepcache", "cross_attention_cache", "tome"],
    ["tgate", "noise_injection", "mixed_resolution"],
    ["encoder_propagation", "cfg_cutoff"],
    ["fora"],
    ["todo"],
]
NAMES = ["+".join(stack) for stack in STACKS]


def _twin(pipe, **changes):
    """A second pipeline with the same network, and a scheduler of its own."""
    parts = {**pipe.components, "scheduler": type(pipe.scheduler).from_config(pipe.scheduler.config), **changes}
    twin = type(pipe)(**parts, requires_safety_checker=False)
    twin.set_progress_bar_config(disable=True)
    return twin


@pytest.fixture(scope="module")
def served():
    """A pipeline with two that share its network, every stack's images, and the bare ones."""
    one = tiny.build("sd", smallest=True)
    bare = one.call(one.pipe)
    drawn = [one.call(accelerate(one.pipe, build_methods(stack))) for stack in STACKS]
    return one, bare, drawn


def _together(*jobs):
    """Run all at once; every one waits for the others to be inside of a step before it goes on."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [each.result() for each in [pool.submit(job) for job in jobs]]


def _in_step(barrier):
    """A callback that lets nobody pass the first steps alone."""

    def wait(pipe, index, timestep, tensors):
        if index < 4:
            with contextlib.suppress(threading.BrokenBarrierError):
                barrier.wait(10)
        return tensors

    return wait


@pytest.mark.parametrize("solver", ["own", "shared"])
@pytest.mark.parametrize("which", range(len(STACKS)), ids=NAMES)
def test_threads_that_share_a_network(served, which, solver):
    """Every thread gets what it gets alone: two stacks and the bare pipeline, in step with each other."""
    one, bare, drawn = served
    before = snapshot(one.pipe)
    other = (which + 1) % len(STACKS)
    pipes = [one.pipe, *(one.pipe if solver == "shared" else _twin(one.pipe) for _ in range(2))]
    runs = [
        pipes[0],
        accelerate(pipes[1], build_methods(STACKS[which])),
        accelerate(pipes[2], build_methods(STACKS[other])),
    ]
    barrier = threading.Barrier(len(runs))
    jobs = [functools.partial(one.call, run, callback_on_step_end=_in_step(barrier)) for run in runs]
    for found, expected in zip(_together(*jobs), (bare, drawn[which], drawn[other]), strict=True):
        assert torch.equal(found, expected)
    assert snapshot(one.pipe) == before
    assert not scheduler_keys(one.pipe.scheduler)[1]
    assert torch.equal(one.call(one.pipe), bare)


@pytest.mark.parametrize(
    "names", [("tea_cache", "first_block_cache"), ("tea_cache", "tea_cache"), ("mag_cache", "fora")]
)
def test_threads_that_share_a_transformer(names):
    """TeaCache calls what stood before its own wrapper, which must not be another run's."""
    one = tiny.build("sd3", smallest=True)
    bare, before = one.call(one.pipe), snapshot(one.pipe)
    drawn = [one.call(accelerate(one.pipe, build_methods([name]))) for name in names]
    parts = {key: part for key, part in one.pipe.components.items() if "image" not in key and "feature" not in key}
    pipes = []
    for _ in range(3):
        solver = type(one.pipe.scheduler).from_config(one.pipe.scheduler.config)
        pipes.append(type(one.pipe)(**{**parts, "scheduler": solver}))
        pipes[-1].set_progress_bar_config(disable=True)
    fast = [accelerate(pipe, build_methods([name])) for pipe, name in zip(pipes, names, strict=False)]
    barrier = threading.Barrier(3)
    jobs = [functools.partial(one.call, run, callback_on_step_end=_in_step(barrier)) for run in [*fast, pipes[2]]]
    for found, expected in zip(_together(*jobs), [*drawn, bare], strict=True):
        assert torch.equal(found, expected)
    assert snapshot(one.pipe) == before


def test_one_driver_in_many_threads(served):
    one, bare, drawn = served
    fast = accelerate(one.pipe, build_methods(STACKS[0]))
    barrier = threading.Barrier(4)
    job = functools.partial(one.call, fast, callback_on_step_end=_in_step(barrier))
    assert all(torch.equal(found, drawn[0]) for found in _together(*[job] * 4))
    assert torch.equal(one.call(one.pipe), bare)


@pytest.mark.parametrize("inner", ["bare", "same driver", "another driver", "a copy", "a pickle"])
@pytest.mark.parametrize("step", [0, 2, 4])
@pytest.mark.parametrize("which", range(len(STACKS)), ids=NAMES)
def test_a_call_within_a_callback(served, which, step, inner):
    one, bare, drawn = served
    fast, seen = accelerate(one.pipe, build_methods(STACKS[which])), []
    other = (which + 1) % len(STACKS)
    run, expected = {
        "bare": (lambda: one.pipe, bare),
        "same driver": (lambda: fast, drawn[which]),
        "another driver": (lambda: accelerate(one.pipe, build_methods(STACKS[other])), drawn[other]),
        "a copy": (lambda: copy.deepcopy(one.pipe), bare),
        "a pickle": (lambda: pickle.loads(pickle.dumps(one.pipe)), bare),
    }[inner]

    def within(pipe, index, timestep, tensors):
        if index == step:
            seen.append(one.call(run()))
        return tensors

    outer = one.call(fast, callback_on_step_end=within)
    assert torch.equal(seen[0], expected)
    assert torch.equal(outer, drawn[which])
    assert torch.equal(one.call(one.pipe), bare)


class Nested(PipelineCallback):
    tensor_inputs = ()

    def __init__(self, run):
        super().__init__()
        self.run, self.drawn = run, []

    def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
        if step_index == 2:
            self.drawn.append(self.run())
        return callback_kwargs


@pytest.mark.parametrize("several", [False, True])
def test_callbacks_that_are_objects(served, several):
    one, bare, drawn = served
    nested = Nested(lambda: one.call(one.pipe))
    given = MultiPipelineCallbacks([nested, Nested(lambda: None)]) if several else nested
    outer = one.call(accelerate(one.pipe, build_methods(STACKS[0])), callback_on_step_end=given)
    assert torch.equal(outer, drawn[0]) and torch.equal(nested.drawn[0], bare)


def test_a_solver_that_remembers_serves_one_run_at_a_time(served):
    one, _, _ = served
    pipe = _twin(one.pipe, scheduler=EulerDiscreteScheduler.from_config(one.pipe.scheduler.config))
    fast = accelerate(pipe, build_methods(["deepcache"]))
    expected = one.call(fast)
    refused = []

    def within(pipe, index, timestep, tensors):
        if index == 2:
            with pytest.raises(UsageError, match="EulerDiscreteScheduler is in the middle of another run") as message:
                one.call(fast)
            refused.append(message)
        return tensors

    assert torch.equal(one.call(fast, callback_on_step_end=within), expected)
    assert refused
    assert torch.equal(one.call(fast), expected)  # free again


def test_other_timesteps_set_from_outside_are_reported(served):
    """A shared scheduler: the bare pipeline then draws something else without a word."""
    one, _, _ = served
    fast = accelerate(one.pipe, build_methods(["deepcache"]))

    def within(pipe, index, timestep, tensors):
        if index == 2:
            pipe.scheduler.set_timesteps(20)
        return tensors

    with pytest.raises(UsageError, match="were set anew in the middle of a run; give every pipeline"):
        one.call(fast, callback_on_step_end=within)


@pytest.mark.parametrize("held", [False, True])
def test_an_exception_in_a_thread_leaves_the_others_alone(served, held):
    one, bare, drawn = served
    pipes = [_twin(one.pipe) for _ in range(2)]
    good, bad = (accelerate(pipe, build_methods(STACKS[0])) for pipe in pipes)
    barrier, kept = threading.Barrier(2), []
    wait = _in_step(barrier)

    def fail(pipe, index, timestep, tensors):
        if index == 3:
            barrier.abort()
            raise ZeroDivisionError
        return wait(pipe, index, timestep, tensors)

    def failing():
        try:
            one.call(bad, callback_on_step_end=fail)
        except ZeroDivisionError as error:
            if held:
                kept.append(error)

    _, found = _together(failing, functools.partial(one.call, good, callback_on_step_end=wait))
    assert torch.equal(found, drawn[0])
    assert not any("forward" in vars(module) for module in one.pipe.unet.modules())
    assert torch.equal(one.call(one.pipe), bare)


# Interrupts. Python looks for them where a function begins, after a call, and before it goes back in a loop.
OURS = [module.__file__ for module in (call_module, solver_use, driver_module, intercept_module, contextlib)]
CALLS = {dis.opmap[name] for name in ("CALL", "CALL_FUNCTION_EX")}
BACK = {code for name, code in dis.opmap.items() if name.startswith("JUMP_BACKWARD")}


class Interrupts:
    """Counts such places in the driver's files, and raises KeyboardInterrupt at the one numbered `at`."""

    def __init__(self, at=None):
        self.at, self.count = at, 0

    def __enter__(self):
        sys.settrace(self._call)
        return self

    def __exit__(self, *_):
        sys.settrace(None)

    def _call(self, frame, event, _):
        if frame.f_code.co_filename not in OURS:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        code, last = frame.f_code.co_code, [None]

        def instruction(frame, event, _):
            if event == "opcode":
                now, before = code[frame.f_lasti], last[0]
                last[0] = now
                if before is None or before in CALLS or now in BACK:
                    self.count += 1
                    if self.count == self.at:
                        raise KeyboardInterrupt
            return instruction

        return instruction


def interrupted(one, bare, stack, moments, hold):
    """How many of the moments left something: in the network, in the solver, or in the bare pipeline's image.

    Args:
        one: a case on the pipeline.
        bare: what it draws.
        stack: names of presets.
        moments: parts of a call, each in [0, 1].
        hold: keep the exceptions, as a notebook does.
    """
    fast, few = accelerate(one.pipe, build_methods(stack)), {"num_inference_steps": 2, "output_type": "latent"}
    before = snapshot(one.pipe)
    with Interrupts() as counted:
        one.call(fast, **few)
    left, kept, hit = [], [], 0
    for moment in moments:
        at = 1 + int(moment * (counted.count - 1))
        try:
            with Interrupts(at):
                one.call(fast, **few)
        except KeyboardInterrupt as error:
            hit += 1
            if hold:
                kept.append(error)
        dirty = snapshot(one.pipe) != before or scheduler_keys(one.pipe.scheduler)[1]
        free = ThreadPoolExecutor(1)
        with free:
            locked = not all(free.submit(_takes, lock).result() for lock in (intercept_module._lock, solver_use._lock))
        if dirty or locked or solver_use._users or intercept_module._current.get() is not None:
            left.append(at)
    assert torch.equal(one.call(one.pipe), bare)
    assert hit > 0.9 * len(moments)
    return left


def _takes(lock):
    taken = lock.acquire(timeout=2)
    if taken:
        lock.release()
    return taken


@pytest.mark.parametrize("hold", [False, True])
@pytest.mark.parametrize("stack", STACKS[:2], ids=NAMES[:2])
def test_interrupts_leave_nothing(served, stack, hold):
    one, bare, _ = served
    moments = [part / 24 for part in range(25)]
    assert interrupted(one, bare, stack, moments, hold) == []
