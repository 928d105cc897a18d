"""One run of denoising: the chains of hooks around network, ControlNet and solver, and what is noted between them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from postdiff.engine import grid
from postdiff.engine.branches import compute_only, condition_only, refuse_parts
from postdiff.engine.errors import UsageError
from postdiff.engine.layouts import layout_of
from postdiff.engine.results import LEFT_OUT_FURTHER, first, handed_over, more_than_one
from postdiff.engine.state import State
from postdiff.engine.timeline import Timeline, described, differ

__all__ = ["Run"]

# Network calls of a step that are no guidance branch; more can only be steps that the solver knows nothing of.
MOST_EXTRA = 8


class Run:
    """A run under way: every step is one call of the solver, after the network's calls.

    With methods, what the pipeline does is checked against the run that they plan for, and what cannot be followed is
    refused. Without any it is left alone.

    Args:
        pipe: the pipeline.
        sample_name: the network's first argument.
        methods: copies for this run, first outermost.
        state: what they may read.
        negative: whether the caller gave a negative prompt, without which some pipelines do not guide.
    """

    def __init__(self, pipe: Any, sample_name: str, methods: list[Any], state: State, negative: bool) -> None:
        self.pipe, self.sample_name, self.negative = pipe, sample_name, negative
        self.methods, self.state = methods, state
        self.doubles: list[Any] = []  # copies for modules of further networks
        self.layout = layout_of(state.family, bool(methods))
        self.further = False  # the network gives out more than its prediction
        self.timeline: Timeline | None = None
        self.step_open = False
        self.calls_in_step = 0
        self.timestep: Any = None  # what this step's first call was told of the time
        self.predictions: dict[str, Tensor] = {}  # of this step's separate calls

    @property
    def begun(self) -> bool:
        """Whether the network has been called."""
        return self.timeline is not None

    @property
    def over(self) -> bool:
        """Whether the last step has been made."""
        return self.begun and self.state.index >= self.state.steps

    def end(self) -> None:
        """No step follows.

        Raises:
            UsageError: a method had planned something for a later one, or none was ever made.
        """
        planned = [step for step in self.state.boundaries if step >= self.state.index]
        if not self.methods or not self.begun or self.over or getattr(self.pipe, "interrupt", False):
            return
        if self.state.index == 0:
            raise UsageError(
                f"{type(self.pipe).__name__} has called its network and never its scheduler's step: it steps with a "
                "solver of its own, which methods cannot follow; use it without methods"
            )
        if planned:
            raise UsageError(
                f"{type(self.pipe).__name__} made {self.state.index} of the {self.state.steps} steps that its solver "
                f"was set to, so what the methods planned for step {min(planned)} never came; let it note how many "
                "it makes in pipe._num_timesteps"
            )

    def open_step(self, sample: Tensor, arguments: dict[str, Any], alone: bool = False) -> None:
        """Bring the state up to date before a network call; `alone`: rows of one branch only."""
        state, timestep = self.state, described(arguments)
        if not isinstance(sample, Tensor):
            raise UsageError(
                f"{type(self.pipe).__name__} hands its network a {type(sample).__name__} of images in the place of "
                "rows of a batch, which the driver cannot serve; use it as it is"
            )
        if self.timeline is None:
            self._begin(sample, timestep, alone)
        elif self.methods:
            self._check_place(self.timeline, timestep)
        if not self.step_open:
            self.step_open, self.calls_in_step, self.timestep = True, 0, timestep
            # A pipeline callback may switch guidance off in mid-run, so this is read at every step.
            state.all_branches = state.branches = self._branches_sent()
            state.guidance_scale = self._guidance_scale()
            state.only = None
            for method in self.methods:
                method.step_start(state)

    def _begin(self, sample: Tensor, timestep: Any, alone: bool) -> None:
        state = self.state
        count = getattr(self.pipe, "_num_timesteps", None)
        self.timeline = Timeline(state.scheduler, timestep, count, wait=bool(self.methods))
        state.start, state.steps, state.timesteps = self.timeline.start, self.timeline.steps, self.timeline.timesteps
        state.full_size = state.size = _size(sample)
        state.guidance_scale = self._guidance_scale()
        state.all_branches = self._branches_sent()
        sent = 1 if state.separate or alone else len(state.all_branches)
        if len(sample) % sent and self.methods:
            raise self._uncounted(len(sample), None)
        state.first_rows = sample[: len(sample) // sent]
        state.images = tuple(range(state.samples))
        for method in self.methods:
            method.start(state)
        for double in self.doubles:
            double.start(state)
        if state.family.calls == "whole" and "perturbed" in state.all_branches:
            refuse_parts(self.methods, state)

    def _check_place(self, timeline: Timeline, timestep: Any) -> None:
        name, index = type(self.pipe).__name__, self.state.index
        if timeline.replaced(self.state.scheduler):
            raise UsageError(
                f"the timesteps of {type(self.state.scheduler).__name__} were set anew in the middle of a run; "
                "give every pipeline in use a scheduler of its own"
            )
        if self.step_open and differ(self.timestep, timestep):
            raise UsageError(
                f"{name} calls its network for another time before its scheduler has made step {index}: it steps with "
                "a solver of its own, which methods cannot follow; use it without methods"
            )
        if timeline.stands(timestep, index) is False:
            raise UsageError(
                f"{name} goes from step {index - 1} of {self.state.steps} to step {timeline.place(timestep)}, not one "
                "after the other, which methods cannot follow; use it without methods"
            )

    def denoise(self, forward: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
        """The chain of `denoise` hooks around the real network."""
        state, name = self.state, self.sample_name
        sample = kwargs.pop(name)
        state.branches = self._branches_in(len(sample))
        self.calls_in_step += 1
        raw: list[Any] = []

        def innermost(sample: Tensor, kwargs: dict[str, Any]) -> Tensor:
            state.size = _size(sample)
            state.network_call += 1
            state.counts["network calls"] += 1
            state.counts["network rows"] += sample.shape[0]
            if state.size != state.full_size:
                kwargs = grid.follow(kwargs, state.full_size, state.size, self.layout.side)
            given, kwargs = self.layout.closed(sample, kwargs, state.full_size)
            raw[:] = [forward(**{name: given}, **kwargs)]
            self.images, self.further = len(state.images), more_than_one(raw[0])
            return self.layout.predicted(first(raw[0]), sample)

        network = _chain([method.denoise for method in self.methods], innermost, state)
        if state.separate:
            output = self._one_of_several(network, sample, kwargs)
        elif state.only in state.branches:
            output = compute_only(state.only, network, sample, kwargs, state)
        else:
            output = network(sample, kwargs)
        if self.further and (not raw or self.images < state.samples):
            raise UsageError(f"{type(self.pipe).__name__} {LEFT_OUT_FURTHER}")
        return handed_over(raw, self.layout.result(output), len(output), kwargs.get("return_dict", True))

    def _one_of_several(self, network: Callable[..., Any], sample: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """One branch's call; a branch that is left out gets the prediction of the one that is computed."""
        [branch], only = self.state.branches, self.state.only
        if only is not None and branch != only and not self.state.extra:
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
        state = self.state
        state.branches = self._branches_in(len(kwargs["sample"]))

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
        handed = sample
        output, sample = self.layout.stepped(output), self.layout.stepped(sample)  # solvers work element by element
        if self.methods and self.timeline is not None:
            self._check_step(self.timeline, timestep, len(sample))
        if state.index == 0:
            state.first_latents = sample
        raw: list[Any] = []

        def innermost(output: Tensor, timestep: Any, sample: Tensor) -> Tensor:
            raw[:] = [forward(model_output=output, timestep=timestep, sample=sample, **arguments)]
            return raw[0][0] if isinstance(raw[0], tuple) else raw[0].prev_sample

        previous = _chain([method.step for method in self.methods], innermost, state)(output, timestep, sample)
        assert raw, "a method left out the solver's step"
        previous = self.layout.handed_back(previous, handed)
        state.index += 1
        self.predictions.clear()
        self.step_open = False
        if isinstance(raw[0], tuple):
            return (previous, *raw[0][1:])
        raw[0].prev_sample = previous
        return raw[0]

    def _check_step(self, timeline: Timeline, timestep: Any, rows: int) -> None:
        state = self.state
        if timeline.stands(timestep, state.index) is False:
            raise UsageError(
                f"{type(self.pipe).__name__} makes step {timeline.place(timestep)} of its solver where the network was "
                f"called for step {state.index}, which methods cannot follow; use it without methods"
            )
        stepped = {"samples": 1, "doubled": len(state.all_branches)}.get(state.family.step_rows)
        if stepped is not None and rows != state.samples * stepped:
            raise self._uncounted(state.samples * len(state.all_branches), rows // stepped)

    def _uncounted(self, rows: int, samples: int | None) -> UsageError:
        cfg, of = self.state.all_branches, "" if samples is None else f" of {samples} samples"
        return UsageError(
            f"{type(self.pipe).__name__} sends its network {rows} rows{of}, not {len(cfg)} guidance branches "
            f"({', '.join(cfg)}) of each sample; name its branches in order: "
            "accelerate(pipe, methods, family=Family(network=..., cfg=(...)))"
        )

    def _branches_in(self, rows: int) -> tuple[str, ...]:
        """The branches of a call; one beyond those of guidance, as skip-layer guidance makes, has a name of its own."""
        sent, state = self.state.all_branches, self.state
        expected = len(sent) if state.separate else 1
        if self.calls_in_step >= expected:
            if self.methods and self.calls_in_step >= expected + MOST_EXTRA:
                raise UsageError(
                    f"{type(self.pipe).__name__} calls its network {self.calls_in_step + 1} times before its scheduler "
                    f"makes step {state.index}, which methods cannot follow; use it without methods"
                )
            return (f"extra {self.calls_in_step - expected + 1}",)
        if state.separate:
            return (sent[self.calls_in_step],)
        if rows == state.samples * len(sent):
            return sent
        if rows != state.samples and self.methods:
            raise self._uncounted(rows, state.samples)
        return ("cond",)  # ControlNet's guess mode sends the conditional rows alone

    def _branches_sent(self) -> tuple[str, ...]:
        cfg = self.state.family.cfg
        guided = self.state.guidance_scale > 1 and (self.negative or self.state.family.scale != "true_cfg_scale")
        if (guider := getattr(self.pipe, "guider", None)) is not None:
            guided = getattr(guider, "num_conditions", 1) > 1
        guided = getattr(self.pipe, "do_classifier_free_guidance", guided)
        perturbed = getattr(self.pipe, "do_perturbed_attention_guidance", True)
        off = ({*cfg} - {"cond", "perturbed"} if not guided else set()) | ({"perturbed"} if not perturbed else set())
        return tuple(branch for branch in cfg if branch not in off) or ("cond",)

    def _guidance_scale(self) -> float:
        # The pipeline's own word, which a subclass or a callback may have changed.
        noted = getattr(self.pipe, self.state.family.scale, None)
        return noted if isinstance(noted, int | float) else self.state.guidance_scale


def _chain(hooks: list[Callable[..., Any]], innermost: Callable[..., Any], state: State) -> Callable[..., Any]:
    for hook in reversed(hooks):
        innermost = partial(_call_hook, hook, innermost, state)
    return innermost


def _call_hook(hook: Callable[..., Any], forward: Callable[..., Any], state: State, *args: Any) -> Any:
    return hook(forward, *args, state)


def _size(sample: Tensor) -> tuple[int, int]:
    height, width = sample.shape[-2:]
    return int(height), int(width)
