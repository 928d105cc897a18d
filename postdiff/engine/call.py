"""One call of a pipeline: what is wrapped for its length, and the runs of denoising that it makes."""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import nn

from postdiff.engine import grid, solver_use, users_call, wrapped
from postdiff.engine.family import Family
from postdiff.engine.intercept import Scope, intercept
from postdiff.engine.rows import map_tensors
from postdiff.engine.run import Run
from postdiff.engine.state import State

__all__ = ["Call"]

# What a ControlNet looks at beside the sample: images, their latents, or tokens of these.
CONDITIONS = ("controlnet_cond", "control_context")


class Call:
    """A pipeline call under way.

    Most pipelines make one run in a call; AnimateDiff with FreeInit and pipelines of one's own make several, each with
    methods and state of its own.

    Args:
        pipe: the pipeline.
        family: its row in the table.
        methods: the stack, first outermost; every run works on copies, so what they note dies with it.
        given: the caller's arguments by name.
        counts: filled in as the call goes on.
    """

    def __init__(
        self, pipe: Any, family: Family, methods: list[Any], given: dict[str, Any], counts: Counter[str]
    ) -> None:
        self.pipe, self.family, self.methods, self.given, self.counts = pipe, family, methods, given, counts
        self.scheduler = pipe.scheduler
        self.outers = family.networks(pipe)
        self.networks = [wrapped.network(outer) for outer in self.outers]
        self.sample_name = next(iter(inspect.signature(self.networks[0].forward).parameters))
        self.scope = Scope()
        self.attached = ExitStack()
        self.run: Run

    def enter(self) -> None:
        """Put every wrapper in place."""
        solver_use.take(self.scheduler, self)
        self.scope.open()
        self._wrap()
        self._next_run()

    def finish(self) -> None:
        """The pipeline has returned.

        Raises:
            UsageError: the run ended before something that a method had planned.
        """
        self.run.end()

    def close(self) -> None:
        """Leave everything as it was; called again if an interrupt ended the first time early."""
        try:
            self.attached.close()
        finally:
            self.scope.close()
            solver_use.leave(self.scheduler, self)

    def _wrap(self) -> None:
        call, family = self, self.family
        network_call = _by_name(self.networks[0].forward)
        step_call = _by_name(self.scheduler.step)

        def around_network(number: int, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            arguments = network_call(args, kwargs)
            run = call._run_now()
            run.state.network = number
            arguments[call.sample_name] = run.layout.opened(arguments[call.sample_name], arguments)
            run.open_step(arguments[call.sample_name], arguments)
            return run.denoise(forward, arguments)

        def around_step(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return call.run.step(forward, step_call(args, kwargs))

        def around_set_timesteps(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if call.run.begun:  # a further run of the same call
                call._next_run()
            return forward(*args, **kwargs)

        for number, outer in enumerate(self.outers):
            intercept(wrapped.outermost(outer), "forward", partial(around_network, number)).__enter__()
        intercept(self.scheduler, "step", around_step).__enter__()
        intercept(self.scheduler, "set_timesteps", around_set_timesteps).__enter__()
        controlnet = getattr(self.pipe, family.controlnet, None) if family.controlnet else None
        if controlnet is not None:
            self._wrap_controlnet(controlnet)
        if users_call.hidden(self.pipe) and hasattr(self.pipe, "prepare_latents"):
            latents_call = _by_name(self.pipe.prepare_latents)

            def around_latents(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
                call.given["generator"] = latents_call(args, kwargs).get("generator")
                call.run.state.generators = call.given["generator"]
                return forward(*args, **kwargs)

            intercept(self.pipe, "prepare_latents", around_latents).__enter__()

    def _wrap_controlnet(self, controlnet: nn.Module) -> None:
        call = self
        control_call = _by_name(controlnet.forward)
        own_name, *names = inspect.signature(controlnet.forward).parameters
        condition = next(name for name in CONDITIONS if name in names)

        def around_controlnet(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            arguments = control_call(args, kwargs)
            run = call._run_now()
            layout, given = run.layout, arguments.pop(condition)
            sample = layout.opened(arguments.pop(own_name), arguments)
            like = given[0] if isinstance(given, list) else given  # of several ControlNets, or of one

            def closed(sample: Any, controlnet_cond: Any, **others: Any) -> Any:
                del others[grid.BLOCK]
                sample, others = layout.closed(sample, others, run.state.full_size)
                others[condition] = map_tensors(lambda rows: layout.handed_back(rows, like), controlnet_cond)
                return forward(**{own_name: sample}, **others)

            arguments |= {"sample": sample, "controlnet_cond": map_tensors(layout.stepped, given)}
            arguments[grid.BLOCK] = run.state.family.side
            # In guess mode it is sent the conditional rows alone.
            run.open_step(sample, arguments, alone=bool(arguments.get("guess_mode")))
            return run.condition(closed, arguments)

        intercept(controlnet, "forward", around_controlnet).__enter__()

    def _run_now(self) -> Run:
        if self.run.over:
            self._next_run()
        return self.run

    def _next_run(self) -> None:
        """Begin a run, with methods as they were given: whatever one notes down dies with its run."""
        if hasattr(self, "run"):
            self.run.end()
        self.attached.close()
        state = State(
            family=self.family,
            scheduler=self.scheduler,
            vae=getattr(self.pipe, "vae", None),
            generators=self.given.get("generator"),
            guidance_scale=self.given.get(self.family.scale) or 1.0,
            counts=self.counts,
        )
        negative = any(value is not None for name, value in self.given.items() if name.startswith("negative_prompt"))
        methods = [copy.copy(method) for method in self.methods]
        self.run = Run(self.pipe, self.sample_name, methods, state, negative)
        # In reverse, so that the first method is outermost. The innermost ones are the outermost on the modules: what
        # they leave out is left out for all.
        for method in sorted(reversed(methods), key=lambda method: method.innermost):
            for context in method.attach(self.networks[0], state):
                self.attached.enter_context(context)
            for network in self.networks[1:]:  # a copy acts on its modules; what is held beside them is held once
                self.run.doubles.append(copy.copy(method))
                for context in self.run.doubles[-1].attach(network, state):
                    if isinstance(getattr(context, "owner", None), nn.Module):
                        self.attached.enter_context(context)
        if methods:
            for outer, network in zip(self.outers, self.networks, strict=True):
                wrapped.refuse_compiled(outer, network, self.scope.owners())
            wrapped.refuse_torn_groups(self.scope.owners())


def _by_name(function: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """A function that gives all arguments of a call by name: hooks need not know which a pipeline passes by position.

    Binding a signature anew takes longer than many a solver's step.
    """
    names = list(inspect.signature(function).parameters)

    def arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        return dict(zip(names[: len(args)], args, strict=True)) | kwargs

    return arguments
