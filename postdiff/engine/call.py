"""One call of a pipeline: the chains of hooks around network, ControlNet and solver, and what is noted between them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from postdiff.engine import packing
from postdiff.engine.branches import compute_only, condition_only
from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import intercept
from postdiff.engine.state import State

__all__ = ["Run"]


class Run:
    """A pipeline call under way.

    Args:
        pipe: the pipeline.
        network: its denoiser.
        methods: copies for this call, first outermost.
        state: what they may read.
        negative: whether the caller gave a negative prompt, without which some pipelines do not guide.
    """

    def __init__(self, pipe: Any, network: nn.Module, methods: list[Any], state: State, negative: bool) -> None:
        self.pipe, self.network, self.methods, self.state, self.negative = pipe, network, methods, state, negative
        self.sample_name = next(iter(inspect.signature(network.forward).parameters))
        self.started = False
        self.step_open = False
        self.calls_in_step = 0
        self.predictions: dict[str, Tensor] = {}  # of this step's separate calls

    def enter(self, stack: ExitStack) -> None:
        """Put every wrapper in place; attached in reverse, so that the first method is outermost."""
        run, state = self, self.state
        network_call = _by_name(self.network.forward)
        step_call = _by_name(self.pipe.scheduler.step)

        # Plain closures, not methods: see `intercept`.
        def around_network(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            arguments = network_call(args, kwargs)
            if state.family.packed:
                size = packing.latent_size(arguments)
                arguments[run.sample_name] = packing.unpack(arguments[run.sample_name], size)
            run.open_step(arguments[run.sample_name])
            return run.denoise(forward, arguments)

        def around_step(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return run.step(forward, step_call(args, kwargs))

        stack.enter_context(intercept(self.network, "forward", around_network))
        stack.enter_context(intercept(self.pipe.scheduler, "step", around_step))
        controlnet = getattr(self.pipe, state.family.controlnet, None) if state.family.controlnet else None
        if controlnet is not None:
            control_call = _by_name(controlnet.forward)

            def around_controlnet(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
                arguments = control_call(args, kwargs)
                # In guess mode it is sent the conditional rows alone.
                run.open_step(arguments["sample"], alone=bool(arguments.get("guess_mode")))
                return run.condition(forward, arguments)

            stack.enter_context(intercept(controlnet, "forward", around_controlnet))
        # The innermost methods are the outermost on the modules: what they leave out is left out for all.
        for method in sorted(reversed(self.methods), key=lambda method: method.innermost):
            for context in method.attach(self.network, state):
                stack.enter_context(context)

    def open_step(self, sample: Tensor, alone: bool = False) -> None:
        """Bring the state up to date before the first network call of a step; `alone`: rows of one branch only."""
        state = self.state
        if not self.started:
            self.started = True
            timesteps = state.scheduler.timesteps
            state.start = len(timesteps) - getattr(self.pipe, "_num_timesteps", len(timesteps))
            state.timesteps = timesteps[state.start :]
            state.steps = len(state.timesteps)
            state.full_size = state.size = _size(sample)
            state.all_branches = self._branches_sent()
            sent = 1 if state.separate or alone else len(state.all_branches)
            state.first_rows = sample[: sample.shape[0] // sent]
            for method in self.methods:
                method.start(state)
        if not self.step_open:
            self.step_open, self.calls_in_step = True, 0
            # A pipeline callback may switch guidance off in mid-run, so this is read at every step.
            state.all_branches = state.branches = self._branches_sent()
            state.only = None
            for method in self.methods:
                method.step_start(state)

    def denoise(self, forward: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
        """The chain of `denoise` hooks around the real network."""
        state, name = self.state, self.sample_name
        sample = kwargs.pop(name)
        state.branches = self._branches_in(sample)
        self.calls_in_step += 1
        raw: list[Any] = []

        def innermost(sample: Tensor, kwargs: dict[str, Any]) -> Tensor:
            state.size = _size(sample)
            state.counts["network calls"] += 1
            state.counts["network rows"] += sample.shape[0]
            if not state.family.packed:
                raw[:] = [forward(**{name: sample}, **kwargs)]
                return _first(raw[0])
            if state.size != state.full_size:
                kwargs = packing.fitted(kwargs, state.size)
            raw[:] = [forward(**{name: packing.pack(sample)}, **kwargs)]
            return packing.unpack(_first(raw[0]), state.size)

        network = _chain([method.denoise for method in self.methods], innermost, state)
        if state.separate:
            output = self._one_of_several(network, sample, kwargs)
        elif state.only in state.branches:
            output = compute_only(state.only, network, sample, kwargs, state)
        else:
            output = network(sample, kwargs)
        if state.family.packed:
            output = packing.pack(output)
        if not kwargs.get("return_dict", True):
            return (output,)
        return type(raw[0])(sample=output) if raw else SimpleNamespace(sample=output)

    def _one_of_several(self, network: Callable[..., Any], sample: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """One branch's call; a branch that is left out gets the prediction of the one that is computed."""
        [branch], only = self.state.branches, self.state.only
        if only is not None and branch != only:
            if only not in self.predictions:
                raise UsageError(
                    f"this pipeline computes its branches one by one, '{branch}' first, so '{only}' cannot "
                    f"go on alone; keep '{branch}'"
                )
            return self.predictions[only]
        self.predictions[branch] = network(sample, kwargs)
        return self.predictions[branch]

    def condition(self, forward: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
        """The chain of `condition` hooks around a ControlNet."""
        state, sample = self.state, kwargs["sample"]
        state.branches = self._branches_in(sample)

        def innermost(kwargs: dict[str, Any]) -> Any:
            state.counts["controlnet calls"] += 1
            return forward(**kwargs)

        controlnet = _chain([method.condition for method in self.methods], innermost, state)
        if state.only in state.branches:
            return condition_only(state.only, controlnet, kwargs, state)
        return controlnet(kwargs)

    def step(self, forward: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """The chain of `step` hooks around the real solver step; then the state moves on."""
        state = self.state
        output, timestep, sample = (arguments.pop(name) for name in ("model_output", "timestep", "sample"))
        packed = state.family.packed
        if packed:  # solvers work element by element, so they need not know
            output, sample = (packing.unpack(tokens, state.full_size) for tokens in (output, sample))
        if state.index == 0:
            state.first_latents = sample
        raw: list[Any] = []

        def innermost(output: Tensor, timestep: Any, sample: Tensor) -> Tensor:
            raw[:] = [forward(model_output=output, timestep=timestep, sample=sample, **arguments)]
            return raw[0][0] if isinstance(raw[0], tuple) else raw[0].prev_sample

        previous = _chain([method.step for method in self.methods], innermost, state)(output, timestep, sample)
        assert raw, "a method left out the solver's step"
        previous = packing.pack(previous) if packed else previous
        state.index += 1
        self.predictions.clear()
        self.step_open = False
        if isinstance(raw[0], tuple):
            return (previous, *raw[0][1:])
        raw[0].prev_sample = previous
        return raw[0]

    def _branches_in(self, sample: Tensor) -> tuple[str, ...]:
        # SD3's skip-layer guidance and ControlNet's guess mode send the conditional rows alone.
        sent = self.state.all_branches
        if self.state.separate:
            return (sent[self.calls_in_step],)
        return sent if len(sample) == self.state.samples * len(sent) else ("cond",)

    def _branches_sent(self) -> tuple[str, ...]:
        cfg = self.state.family.cfg
        wanted = self.state.guidance_scale > 1 and (self.negative or self.state.family.calls == "batched")
        guided = getattr(self.pipe, "do_classifier_free_guidance", wanted)
        return cfg if cfg and guided else ("cond",)


def _chain(hooks: list[Callable[..., Any]], innermost: Callable[..., Any], state: State) -> Callable[..., Any]:
    for hook in reversed(hooks):
        innermost = partial(_call_hook, hook, innermost, state)
    return innermost


def _call_hook(hook: Callable[..., Any], forward: Callable[..., Any], state: State, *args: Any) -> Any:
    return hook(forward, *args, state)


def _by_name(function: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """A function that gives all arguments of a call by name: hooks need not know which a pipeline passes by position.

    Binding a signature anew takes longer than many a solver's step.
    """
    names = list(inspect.signature(function).parameters)

    def arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        return dict(zip(names[: len(args)], args, strict=True)) | kwargs

    return arguments


def _first(result: Any) -> Tensor:
    return result[0] if isinstance(result, tuple) else result.sample


def _size(sample: Tensor) -> tuple[int, int]:
    height, width = sample.shape[-2:]
    return int(height), int(width)
