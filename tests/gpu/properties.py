"""What must hold on every device, as functions of a tiny pipeline; `tests/test_gpu_dry_run.py` calls some here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from postdiff import accelerate
from postdiff.engine.family import FAMILIES
from postdiff.engine.state import State
from postdiff.methods.base import Method
from tests.gpu.placed import close, left
from tests.support.cases import Case, generators
from tests.support.tiny_presets import build_methods, preset


def empty_driver_is_the_pipeline(one: Case, bare: Tensor) -> None:
    before = left(one.pipe)
    found = one.call(accelerate(one.pipe))
    assert found.device == bare.device and torch.equal(found, bare)
    assert left(one.pipe) == before


def preset_keeps_what_it_promises(one: Case, bare: Tensor, name: str) -> None:
    """It acts, repeats itself, is the pipeline in its identity setting, and leaves nothing."""
    before, given = left(one.pipe), preset(name)
    driver = accelerate(one.pipe, build_methods(given.methods))
    first = one.call(driver)
    assert first.device == bare.device and torch.isfinite(first).all()
    assert not torch.equal(first, bare), "the method did nothing"
    assert torch.equal(one.call(driver), first), "the second call is another one"
    assert torch.equal(one.call(accelerate(one.pipe, build_methods(given.identity))), bare)
    assert torch.equal(one.call(one.pipe), bare), "the bare pipeline generates something else now"
    assert left(one.pipe) == before


@dataclass
class FirstLatents(Method):
    """Notes what runs start from."""

    seen: list[Tensor] = field(default_factory=list)

    def step_start(self, state: State) -> None:
        if state.index == 0:
            assert state.first_rows is not None
            self.seen.append(state.first_rows.cpu())


def starts_from(one: Case, **changes: Any) -> Tensor:
    """The latents that the network is given first, on the CPU."""
    noted = FirstLatents()
    one.call(accelerate(one.pipe, [noted]), **changes, num_inference_steps=2)
    return noted.seen[0]


def cpu_generators_draw_what_they_draw_on_the_cpu(one: Case, twin: Case, device: torch.device) -> None:
    """Initial latents, and what methods generate in mid-run."""
    assert torch.equal(starts_from(one), starts_from(twin))
    drawn = []
    for place in (device, torch.device("cpu")):
        like = torch.zeros(2, 4, 8, 8, device=place)
        state = State(FAMILIES["StableDiffusionPipeline"], None, generators=generators([0, 1]), first_rows=like)
        drawn.append(state.noise(like))
        assert drawn[-1].device.type == place.type
    assert torch.equal(drawn[0].cpu(), drawn[1])


def generators_of_the_device_serve(one: Case, device: torch.device) -> None:
    """Methods generate from them too, and each image from its own."""
    fast = accelerate(one.pipe, build_methods(["mixed_resolution"]))

    def drawn(ids: list[int]) -> Tensor:
        own = [torch.Generator(device).manual_seed(7 + i) for i in ids]
        return one.call(fast, ids, generator=own)

    both = drawn([0, 1])
    assert torch.equal(drawn([0, 1]), both)
    close(drawn([1]), both[1:])


def none_at_all_follows_the_global_seed(one: Case, device: torch.device) -> None:
    """What methods draw beyond the pipeline's own noise is not taken from the global generator."""
    fast = accelerate(one.pipe, build_methods(["mixed_resolution"]))
    states, images = [], []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for run in (one.pipe, fast, fast):
            torch.manual_seed(5)
            images.append(one.call(run, generator=None))
            states.append(torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state())
    assert torch.equal(images[1], images[2]) and not torch.equal(images[0], images[1])
    assert all(torch.equal(state, states[0]) for state in states)


def alone_as_in_a_batch(one: Case, methods: list[Any]) -> None:
    fast = accelerate(one.pipe, build_methods(methods))
    together = one.call(fast, [0, 1, 2])
    for i in range(3):
        close(one.call(fast, [i]), together[i : i + 1])


def an_exception_leaves_nothing(one: Case, bare: Tensor, methods: list[Any]) -> None:
    before, driver, calls = left(one.pipe), accelerate(one.pipe, build_methods(methods)), []
    expected = one.call(driver)

    def fail_at_third(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise ZeroDivisionError

    handle = driver.network.register_forward_hook(fail_at_third)
    try:
        with pytest.raises(ZeroDivisionError):
            one.call(driver)
    finally:
        handle.remove()
    assert left(one.pipe) == before
    assert torch.equal(one.call(one.pipe), bare)
    assert torch.equal(one.call(driver), expected)


def threads_that_share_a_network(
    one: Case, stacks: list[list[Any]], stream: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> None:
    """Each thread has a pipeline of its own around one network, and goes on step by step with the other.

    Args:
        one: a case whose solver remembers nothing.
        stacks: presets of each thread.
        stream: opened by each thread around its calls.
    """
    drivers = [accelerate(_twin(one.pipe), build_methods(stack)) for stack in stacks]
    expected = [one.call(driver) for driver in drivers]
    barrier = threading.Barrier(len(stacks))

    def in_step(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        barrier.wait(60)
        return tensors

    def draw(driver: Any) -> list[Tensor]:
        with stream():
            return [one.call(driver, callback_on_step_end=in_step).cpu() for _ in range(3)]

    with ThreadPoolExecutor(len(stacks)) as pool:
        drawn = [each.result(120) for each in [pool.submit(draw, driver) for driver in drivers]]
    for found, wanted in zip(drawn, expected, strict=True):
        for image in found:  # kernels on several streams at once may be others
            close(image, wanted.cpu())


def _twin(pipe: Any) -> Any:
    parts = {**pipe.components, "scheduler": type(pipe.scheduler).from_config(pipe.scheduler.config)}
    twin = type(pipe)(**parts, **({"requires_safety_checker": False} if "safety_checker" in parts else {}))
    twin.set_progress_bar_config(disable=True)
    return twin
