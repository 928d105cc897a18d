"""Where the time of a pipeline call goes, apart by part, step and group of modules as MACs are, and what methods cost.

Two wrappers tell the driver's share from the network's. One stands innermost, entered before the driver's own: a module
that a method replays never reaches it, so no time is charged to its group. The other stands outermost, around whatever
methods put before a module's `forward`; between the two time is charged to "driver". The outermost ones are forward
hooks of torch, since the driver enters its wrappers inside the call and whatever is entered before stands inside them.

Each boundary costs a microsecond or two, on a GPU an event in its queue: compare shares, and take the time of a whole
call from `postdiff.cost.latency`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from torch import nn

from postdiff.cost.groups import grouped
from postdiff.cost.macs import components
from postdiff.cost.moments import Moments, moments_of
from postdiff.cost.stopwatch import BEFORE, DRIVER, OUTSIDE, SOLVER, Stopwatch, TimeProfile
from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import intercept, layers

__all__ = ["touched", "watch"]


def touched(pipe: Any, call: Callable[[], object]) -> list[nn.Module]:
    """Run `call` once and find the modules whose `forward` methods or the driver stand before.

    Args:
        pipe: the pipeline, or a cascade: `pipe.pipes` is {stage: pipeline}.
        call: runs the pipeline or a driver over it.

    Raises:
        UsageError: a network is compiled.
    """
    before = {module: vars(module).get("forward") for network in _denoisers(pipe) for module in network.modules()}
    if any(getattr(module, "_compiled_call_impl", None) or hasattr(module, "_orig_mod") for module in before):
        raise UsageError("the network is compiled, and inside it no module can be timed; leave the compiling out")
    found: dict[nn.Module, None] = {}

    def look(*_: Any) -> None:
        found.update((module, None) for module, own in before.items() if vars(module).get("forward") is not own)

    with ExitStack() as stack:
        for network in _denoisers(pipe):
            stack.callback(network.register_forward_pre_hook(look).remove)
        call()
    return list(found)


def watch(
    pipe: Any,
    call: Callable[[], object],
    touched: Sequence[nn.Module],
    moments: Moments | None = None,
) -> TimeProfile:
    """Run `call` once under the stopwatch. It must be warm, and `pipe.scheduler` the one that it uses.

    Args:
        pipe: as for `touched`.
        call: as for `touched`.
        touched: what `touched` has found.
        moments: the clock; that of the pipeline's device, if omitted.
    """
    clock = Stopwatch(moments or moments_of(pipe))
    with ExitStack() as stack:
        for stage, one in getattr(pipe, "pipes", {"": pipe}).items():
            _watch_pipeline(clock, one, f":{stage}" if stage else "", set(touched), stack)
        clock.start()
        call()
        return clock.stop()


def _watch_pipeline(clock: Stopwatch, pipe: Any, stage: str, touched: set[nn.Module], stack: ExitStack) -> None:
    solver, owners = getattr(pipe, "scheduler", None), list(components(pipe))
    if solver is not None:
        stack.enter_context(intercept(solver, "step", _solving(clock)))
    begin = _first_call(clock, pipe, stack.enter_context(ExitStack()))
    for part, owner, method in owners:
        stack.enter_context(intercept(owner, method, _inside(clock, (part + stage, "other"))))
    for part, owner in dict.fromkeys((part, owner) for part, owner, _ in owners):
        groups = dict(grouped(owner))
        for module, group in groups.items():
            stack.enter_context(intercept(module, "forward", _inside(clock, (part + stage, group))))
        if part != "denoiser":
            continue
        stack.callback(owner.register_forward_pre_hook(begin).remove)
        for module in owner.modules():
            if module in touched:
                if module not in groups and module is not owner:
                    stack.enter_context(intercept(module, "forward", _inside(clock, None)))
                _watch_outermost(clock, module, (part + stage, DRIVER), stack)


def _inside(clock: Stopwatch, place: tuple[str, str] | None) -> Callable[..., Any]:
    """Innermost: the real thing runs at `place`, or as a part of what is around it."""

    def around(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with clock.within(place or clock.surrounding()):
            return forward(*args, **kwargs)

    return around


def _watch_outermost(clock: Stopwatch, module: nn.Module, place: tuple[str, str], stack: ExitStack) -> None:
    def enter(*_: Any) -> None:
        clock.enter(place)

    def leave(*_: Any) -> None:
        clock.leave()

    for handle in (
        module.register_forward_pre_hook(enter),
        module.register_forward_hook(leave, always_call=True),  # also where a probe breaks off a block's forward
    ):
        stack.callback(handle.remove)


def _solving(clock: Stopwatch) -> Callable[..., Any]:
    """Innermost around the solver's step, after which the next step begins."""

    def around(step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with clock.within((OUTSIDE, SOLVER)):
            result = step(*args, **kwargs)
        if clock.place[1] != DRIVER:  # else the driver has more to do in this step
            clock.next_step()
        return result

    return around


def _first_call(clock: Stopwatch, pipe: Any, late: ExitStack) -> Callable[..., None]:
    """At the first network call of a pipeline every wrapper of the driver is in place, and ours can stand outside."""
    solver = getattr(pipe, "scheduler", None)
    own = 0 if solver is None else layers(solver, "step")
    waiting = [True]

    def around(step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with clock.within((OUTSIDE, DRIVER)):
            result = step(*args, **kwargs)
        clock.next_step()
        return result

    def begin(*_: Any) -> None:
        if clock.step == BEFORE:
            clock.next_step()
        if not waiting or solver is None:
            return
        waiting.clear()
        assert pipe.scheduler is solver, "the call swaps the scheduler, so no step would be told from the next"
        if layers(solver, "step") > own:  # a driver is at work
            late.enter_context(intercept(solver, "step", around))

    return begin


def _denoisers(pipe: Any) -> Iterator[nn.Module]:
    for one in getattr(pipe, "pipes", {"": pipe}).values():
        for part, owner, _ in components(one):
            if part == "denoiser":
                yield owner
