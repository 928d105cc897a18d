"""Where the time of a pipeline call goes: to groups of modules as MACs are, to the solver, and to what methods add.

Two wrappers tell the driver's share from the network's. One stands innermost, entered before the driver's own: a module
that a method replays never reaches it, so no time is charged to its group. The other stands outermost, around whatever
methods put before a module's `forward`; between the two time is charged to "driver". The outermost ones are forward
hooks of torch, since the driver enters its wrappers inside the call and whatever is entered before stands inside them.

Each boundary costs a microsecond or two, on a GPU an event in its queue: compare shares, and take the time of a whole
call from `postdiff.cost.latency`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from postdiff.cost.macs import components, grouped
from postdiff.cost.moments import Moments, moments_of
from postdiff.engine.intercept import intercept, layers

__all__ = ["DRIVER", "OUTSIDE", "PIPELINE", "SOLVER", "Place", "Stopwatch", "touched", "watch"]

OUTSIDE = "outside"  # the part that is none of the networks
DRIVER, SOLVER, PIPELINE = "driver", "solver", "pipeline"  # groups beside those of modules

Place = tuple[str, str]  # part and group


class Stopwatch:
    """Runs for exactly one place at a time, and charges the time since the last boundary to it.

    Boundaries are noted down and worked out in the end, so that on a GPU nothing waits at any of them: a place is
    charged what the GPU did for it, and what it idled while the CPU was still there.

    Args:
        moments: the clock.

    Attributes:
        places: those that are entered now, the innermost last.
    """

    def __init__(self, moments: Moments) -> None:
        self.places: list[Place] = [(OUTSIDE, PIPELINE)]
        self._moments = moments
        self._begin: Any = None
        self._charged: list[tuple[Place, Any]] = []  # each with the moment that ends it

    def start(self) -> None:
        """From here on time is charged."""
        self._moments.wait()
        self._begin = self._moments.now()

    def stop(self) -> dict[Place, float]:
        """The last boundary; gives the seconds of every place, which add up to the whole call."""
        self._charge()
        self._moments.wait()
        found: defaultdict[Place, float] = defaultdict(float)
        last = self._begin
        for place, moment in self._charged:
            found[place] += self._moments.seconds(last, moment)
            last = moment
        return dict(found)

    def enter(self, place: Place) -> None:
        """A boundary: from here on time is charged to `place`."""
        self._charge()
        self.places.append(place)

    def leave(self) -> None:
        """A boundary: the place entered last is left."""
        self._charge()
        self.places.pop()

    @contextmanager
    def within(self, place: Place) -> Iterator[None]:
        """Both boundaries, also after an exception."""
        self.enter(place)
        try:
            yield
        finally:
            self.leave()

    def _charge(self) -> None:
        self._charged.append((self.places[-1], self._moments.now()))


def touched(pipe: Any, call: Callable[[], object]) -> set[nn.Module]:
    """Run `call` once and find the modules whose `forward` methods or the driver stand before.

    Args:
        pipe: the pipeline, or a cascade: `pipe.pipes` is {stage: pipeline}.
        call: runs the pipeline or a driver over it.
    """
    pipes = getattr(pipe, "pipes", {"": pipe}).values()
    networks = [owner for one in pipes for part, owner, _ in components(one) if part == "denoiser"]
    before = {module: vars(module).get("forward") for network in networks for module in network.modules()}
    found: set[nn.Module] = set()

    def look(*_: Any) -> None:
        found.update(module for module, own in before.items() if vars(module).get("forward") is not own)

    with ExitStack() as stack:
        for network in networks:
            stack.callback(network.register_forward_pre_hook(look).remove)
        call()
    return found


def watch(
    pipe: Any, call: Callable[[], object], touched: set[nn.Module], moments: Moments | None = None
) -> dict[Place, float]:
    """Run `call` once under the stopwatch. It must be warm, and `pipe.scheduler` the one that it uses.

    Args:
        pipe: as for `touched`.
        call: as for `touched`.
        touched: what `touched` has found.
        moments: the clock; that of the pipeline's device, if omitted.

    Returns:
        {(part, group): seconds}, which add up to the whole call. Parts are those of a tally and "outside"; groups those
        of modules, "driver" in every denoiser and outside, "solver" and "pipeline" outside.
    """
    clock = Stopwatch(moments or moments_of(pipe))
    with ExitStack() as stack:
        for stage, one in getattr(pipe, "pipes", {"": pipe}).items():
            _watch_pipeline(clock, one, f":{stage}" if stage else "", touched, stack)
        clock.start()
        call()
        return clock.stop()


def _watch_pipeline(clock: Stopwatch, pipe: Any, stage: str, touched: set[nn.Module], stack: ExitStack) -> None:
    solver, owners = pipe.scheduler, list(components(pipe))
    stack.enter_context(intercept(solver, "step", _within(clock, (OUTSIDE, SOLVER))))
    own = layers(solver, "step")
    outermost = stack.enter_context(ExitStack())

    def begin(*_: Any) -> None:
        """At the first network call every wrapper of the driver is in place, and ours can stand outside."""
        if layers(solver, "step") > own:
            outermost.enter_context(intercept(solver, "step", _within(clock, (OUTSIDE, DRIVER))))
            first.remove()

    for part, owner, method in owners:
        stack.enter_context(intercept(owner, method, _within(clock, (part + stage, "other"))))
    for part, owner in dict.fromkeys((part, owner) for part, owner, _ in owners):
        groups = dict(grouped(owner))
        for module, group in groups.items():
            stack.enter_context(intercept(module, "forward", _within(clock, (part + stage, group))))
        if part != "denoiser":
            continue
        for module in (module for module in owner.modules() if module in touched):
            if module not in groups and module is not owner:
                stack.enter_context(intercept(module, "forward", _within(clock, None)))
            enter = module.register_forward_pre_hook(lambda *_, place=(part + stage, DRIVER): clock.enter(place))
            # Also where a probe breaks off a block's forward.
            leave = module.register_forward_hook(lambda *_: clock.leave(), always_call=True)
            stack.callback(enter.remove)
            stack.callback(leave.remove)
    denoiser = next(owner for part, owner, _ in owners if part == "denoiser")
    first = denoiser.register_forward_pre_hook(begin)
    stack.callback(first.remove)


def _within(clock: Stopwatch, place: Place | None) -> Callable[..., Any]:
    """What is wrapped runs at `place`; of None, as a part of the nearest place around that is not the driver's."""

    def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with clock.within(place or next(each for each in reversed(clock.places) if each[1] != DRIVER)):
            return original(*args, **kwargs)

    return around
