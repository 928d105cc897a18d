"""Runs a stock diffusers pipeline under a stack of methods, for the length of one call.

The pipeline keeps its own `__call__`. From outside, two things are wrapped: the network's `forward` and
`scheduler.step` (and a ControlNet's `forward`). Methods act there and on modules they intercept themselves. So an
algorithm is not readable as one loop here: it is split between a method's `denoise` (what the network sees) and its
`step` (what the solver sees); the straight loops stand in the tests, as oracles.

What the driver relies on: one `scheduler.step` after each group of network calls, a scheduler that is not swapped
during the call, and `pipe._num_timesteps` where a pipeline starts late.
"""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from postdiff.engine.branches import compute_only, condition_only
from postdiff.engine.errors import UsageError
from postdiff.engine.family import Family, family_of
from postdiff.engine.intercept import intercept
from postdiff.engine.state import State

__all__ = ["Driver", "accelerate"]

HOOKS = ("innermost", "attach", "claims", "start", "step_start", "denoise", "condition", "step")


class Driver:
    """A pipeline with methods; call it as you would call the pipeline.

    Attributes:
        pipe: the wrapped pipeline, untouched between calls.
        methods: the stack, first method outermost; those that must be innermost have been moved to its end.
        counts: what the last call really ran, for instance {"network calls": 20, "deepcache hits": 90, ...}.
    """

    def __init__(self, pipe: Any, methods: Sequence[Any] = (), family: Family | None = None) -> None:
        for method in methods:
            if isinstance(method, type) or not all(hasattr(method, hook) for hook in HOOKS):
                raise UsageError(f"{method!r} is not a method; pass instances such as DeepCache(interval=2)")
        self.pipe = pipe
        self.methods = sorted(methods, key=lambda method: method.innermost)
        self.family = family or family_of(pipe)
        self.counts: Counter[str] = Counter()
        _check_claims(self.methods, self.network)

    @property
    def network(self) -> nn.Module:
        """The denoiser: `pipe.unet` or `pipe.transformer`."""
        return getattr(self.pipe, self.family.network)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the pipeline with its own arguments and return its own result.

        Raises:
            UsageError: a method does not fit this network, solver or number of steps.
        """
        call = inspect.signature(type(self.pipe).__call__).bind(self.pipe, *args, **kwargs)
        call.apply_defaults()
        state = State(
            family=self.family,
            scheduler=self.pipe.scheduler,
            generators=call.arguments.get("generator"),
            guidance_scale=call.arguments.get("guidance_scale") or 1.0,
        )
        self.counts = state.counts
        # Copies: what a method notes down during a call dies with the call.
        run = _Run(self.pipe, self.network, [copy.copy(method) for method in self.methods], state)
        with ExitStack() as stack:
            run.enter(stack)
            return self.pipe(*args, **kwargs)


def accelerate(pipe: Any, methods: Sequence[Any] = (), family: Family | None = None) -> Driver:
    """Make `pipe` faster: `fast = accelerate(pipe, [DeepCache(interval=2)]); fast("a red apple").images`.

    Args:
        pipe: a loaded diffusers pipeline; it is not changed.
        methods: instances from `postdiff.methods`, first outermost.
        family: how the pipeline is wired; found by class name if omitted.

    Raises:
        UsageError: unknown pipeline, something that is not a method, or two methods that claim the same modules.
    """
    return Driver(pipe, methods, family)


def _check_claims(methods: Sequence[Any], network: nn.Module) -> None:
    owners: dict[str, str] = {}
    for method in methods:
        name = type(method).__name__
        for claim in method.claims(network):
            if claim in owners:
                raise UsageError(f"{owners[claim]} and {name} both act on '{claim}'; use one of them")
            owners[claim] = name


class _Run:
    """One call: the chains of hooks and the bookkeeping between them."""

    def __init__(self, pipe: Any, network: nn.Module, methods: list[Any], state: State) -> None:
        self.pipe, self.network, self.methods, self.state = pipe, network, methods, state
        self.sample_name = next(iter(inspect.signature(network.forward).parameters))
        self.started = False
        self.step_open = False

    def enter(self, stack: ExitStack) -> None:
        """Put every wrapper in place; attached in reverse, so that the first method is outermost."""
        run, state = self, self.state
        network_call = inspect.signature(self.network.forward)
        step_call = inspect.signature(self.pipe.scheduler.step)

        # Plain closures, not methods: see `intercept`.
        def around_network(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            arguments = _flatten(network_call, args, kwargs)
            run.open_step(arguments[run.sample_name])
            return run.denoise(forward, arguments)

        def around_step(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            arguments = _flatten(step_call, args, kwargs)
            return run.step(forward, arguments)

        stack.enter_context(intercept(self.network, "forward", around_network))
        stack.enter_context(intercept(self.pipe.scheduler, "step", around_step))
        controlnet = getattr(self.pipe, state.family.controlnet, None) if state.family.controlnet else None
        if controlnet is not None:
            control_call = inspect.signature(controlnet.forward)

            def around_controlnet(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
                arguments = _flatten(control_call, args, kwargs)
                run.open_step(arguments["sample"])
                return run.condition(forward, arguments)

            stack.enter_context(intercept(controlnet, "forward", around_controlnet))
        # The innermost methods are the outermost on the modules: what they leave out is left out for all.
        for method in sorted(reversed(self.methods), key=lambda method: method.innermost):
            for context in method.attach(self.network, state):
                stack.enter_context(context)

    def open_step(self, sample: Tensor) -> None:
        """Bring the state up to date before the first network call of a step."""
        state = self.state
        if not self.started:
            self.started = True
            timesteps = state.scheduler.timesteps
            state.start = len(timesteps) - getattr(self.pipe, "_num_timesteps", len(timesteps))
            state.timesteps = timesteps[state.start :]
            state.steps = len(state.timesteps)
            state.full_size = state.size = _size(sample)
            state.all_branches = self._branches_sent()
            state.first_rows = sample[: sample.shape[0] // len(state.all_branches)]
            for method in self.methods:
                method.start(state)
        if not self.step_open:
            self.step_open = True
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
        raw: list[Any] = []

        def innermost(sample: Tensor, kwargs: dict[str, Any]) -> Tensor:
            state.size = _size(sample)
            state.counts["network calls"] += 1
            state.counts["network rows"] += sample.shape[0]
            raw[:] = [forward(**{name: sample}, **kwargs)]
            return raw[0][0] if isinstance(raw[0], tuple) else raw[0].sample

        network = _chain([method.denoise for method in self.methods], innermost, state)
        if state.only in state.branches:
            output = compute_only(state.only, network, sample, kwargs, state)
        else:
            output = network(sample, kwargs)
        if not kwargs.get("return_dict", True):
            return (output,)
        return type(raw[0])(sample=output) if raw else SimpleNamespace(sample=output)

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
        if state.index == 0:
            state.first_latents = sample
        raw: list[Any] = []

        def innermost(output: Tensor, timestep: Any, sample: Tensor) -> Tensor:
            raw[:] = [forward(model_output=output, timestep=timestep, sample=sample, **arguments)]
            return raw[0][0] if isinstance(raw[0], tuple) else raw[0].prev_sample

        previous = _chain([method.step for method in self.methods], innermost, state)(output, timestep, sample)
        assert raw, "a method left out the solver's step"
        state.index += 1
        self.step_open = False
        if isinstance(raw[0], tuple):
            return (previous, *raw[0][1:])
        raw[0].prev_sample = previous
        return raw[0]

    def _branches_in(self, sample: Tensor) -> tuple[str, ...]:
        # SD3's skip-layer guidance and ControlNet's guess mode send the conditional rows alone.
        sent = self.state.all_branches
        return sent if len(sample) == self.state.samples * len(sent) else ("cond",)

    def _branches_sent(self) -> tuple[str, ...]:
        cfg = self.state.family.cfg
        guided = getattr(self.pipe, "do_classifier_free_guidance", self.state.guidance_scale > 1)
        return cfg if cfg and guided else ("cond",)


def _chain(hooks: list[Callable[..., Any]], innermost: Callable[..., Any], state: State) -> Callable[..., Any]:
    for hook in reversed(hooks):
        innermost = partial(_call_hook, hook, innermost, state)
    return innermost


def _call_hook(hook: Callable[..., Any], forward: Callable[..., Any], state: State, *args: Any) -> Any:
    return hook(forward, *args, state)


def _flatten(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments by name, so that hooks need not know which ones a pipeline passes by position."""
    arguments = dict(signature.bind(*args, **kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments.update(arguments.pop(name, {}))
    return arguments


def _size(sample: Tensor) -> tuple[int, int]:
    height, width = sample.shape[-2:]
    return int(height), int(width)
