"""One comparison: the run with methods, the full run, and plain fewer steps of about the same work.

The runs take the laboratory's own way, so their images are those of `postdiff run`. One comparison is made at a time.
Nothing of Gradio is in here.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from postdiff import metrics
from postdiff.cost.macs import tally
from postdiff.cost.moments import wait
from postdiff.cost.structures import MetaPipeline
from postdiff.cost.tally import Tally
from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import intercept
from postdiff.lab.app.asked import ACCELERATED, FEWER, FULL, Asked, plans
from postdiff.lab.app.sessions import Stopped
from postdiff.lab.generate.pipelines import Pipelines
from postdiff.lab.generate.sampler import Sampler
from postdiff.lab.macs import row_macs
from postdiff.lab.plan.plan import Plan
from postdiff.lab.planner.cost import most_steps
from postdiff.lab.planner.space import Setting
from postdiff.lab.report import timeline
from postdiff.metrics.base import PerImageMetric

__all__ = ["METRICS", "Comparison", "Engine", "Progress", "Run"]

METRICS = ("paired_lpips", "paired_psnr")
SMALLEST = 31  # pixels a side, below which LPIPS means nothing
WARM_UP = 2  # steps
QUICK = 5.0  # seconds of a call, below which it is timed twice


@dataclass(frozen=True)
class Progress:
    """Where a comparison stands.

    Attributes:
        doing: what is done now, in words.
        step: steps that are over; 0 where nothing is counted.
        steps: in all; 0 where nothing is counted.
        left: seconds to come for this run, or None.
    """

    doing: str
    step: int = 0
    steps: int = 0
    left: float | None = None


@dataclass(frozen=True)
class Run:
    """One of the runs.

    Attributes:
        plan: what was made.
        arguments: of the pipeline's call.
        image: (3, H, W), uint8.
        seconds: of the whole call; of a quick one, the shorter of two.
        macs: of the denoiser, dense convention.
        work: the same by step and group of modules.
        sizes: the latent's size at each step; empty if that is not known.
        values: {metric: to the full run's image}; empty for the full run.
    """

    plan: Plan
    arguments: dict[str, Any]
    image: Tensor
    seconds: float
    macs: int
    work: Tally
    sizes: list[str]
    values: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        asked: what was asked for.
        full: without methods.
        accelerated: with them.
        fewer: plain, with the most steps that take no more work than `accelerated`; None where there is none.
        shares: what every step of `accelerated` computes, as of `report.timeline.shares`; None if that is not known.
        notes: what should be told beside it.
    """

    asked: Asked
    full: Run
    accelerated: Run
    fewer: Run | None
    shares: dict[str, Any] | None
    notes: tuple[str, ...]


Tell = Callable[[Progress], None]


class Engine:
    """Makes comparisons, one at a time, and keeps the pipeline that was loaded last."""

    def __init__(self) -> None:
        self._alone = threading.Lock()
        self._pipelines = Pipelines()
        self._warm: Any = None
        self._twins: dict[str, MetaPipeline] = {}

    def compare(self, asked: Asked, tell: Tell, stop: threading.Event) -> Comparison:
        """Make one comparison.

        Args:
            asked: what for.
            tell: given where it stands, at every step.
            stop: once it is set, the comparison ends at the next step.

        Raises:
            UsageError: a mistake in what is asked for; methods that do not fit each other, the model or the run.
            Stopped: `stop` was set.
        """
        with self._alone:
            return _Making(asked, tell, stop, self).made()

    def sampler(self, plan: Plan, tell: Tell, stop: threading.Event) -> Sampler:
        """A sampler whose pipeline has been run before, so that times are not those of a first call."""
        sampler = self._pipelines.sampler(plan)
        if self._warm is not sampler.pipe:
            tell(Progress("warming up"))
            few = dataclasses.replace(plan.config, steps=min(WARM_UP, plan.config.steps))
            with _steps(sampler, "warming up", lambda _: None, stop):
                self._pipelines.sampler(dataclasses.replace(plan, config=few)).call(plan.samples)
            self._warm = sampler.pipe
        return sampler

    def counted(self, plan: Plan) -> row_macs.Counted | None:
        """A plan counted without weights; None if it must be run to be counted."""
        try:
            return row_macs.counted(plan.row, plan.card, self._twins)
        except UsageError:
            return None


class _Making:
    def __init__(self, asked: Asked, tell: Tell, stop: threading.Event, engine: Engine) -> None:
        self._asked, self._tell, self._stop, self._engine = asked, tell, stop, engine

    def made(self) -> Comparison:
        self._at("reading what is asked for")
        found = plans(self._asked)
        self._at("loading the model")
        plain = self._engine.sampler(found[FULL], self._tell, self._stop)
        notes = _long_prompt(self._asked, plain.pipe)
        # First, since methods that do not fit are told by it.
        accelerated = self._run(found[ACCELERATED], "accelerated run", 1)
        full = self._run(found[FULL], "full run", 2)
        fewer, steps = None, self._fewer(found, full, accelerated)
        if steps is not None:
            plan = plans(self._asked, steps)[FEWER]
            fewer = self._run(plan, f"{steps} plain steps", 3)
        elif not self._asked.plain:
            notes.append("No number of plain steps below the full run's takes as little work as the accelerated run.")
        self._at("comparing the images")
        accelerated, fewer = _valued(accelerated, full), fewer and _valued(fewer, full)
        return Comparison(self._asked, full, accelerated, fewer, self._shares(full, accelerated), tuple(notes))

    def _at(self, doing: str) -> None:
        if self._stop.is_set():
            raise Stopped
        self._tell(Progress(doing))

    def _run(self, plan: Plan, name: str, place: int) -> Run:
        name = f"Run {place} of {2 if self._asked.plain else 3}, {name}"
        self._at(name)
        sampler = self._engine.sampler(plan, self._tell, self._stop)
        image, seconds = self._timed(sampler, name)
        if seconds < QUICK:  # the first call of a latent size prepares kernels
            seconds = min(seconds, self._timed(sampler, f"{name}, timed once more")[1])
        self._at(f"{name}: counting its work")
        counted = self._engine.counted(plan)
        if counted is None:
            with _steps(sampler, f"{name}, once more to count its work", self._tell, self._stop):
                work = tally(sampler.pipe, lambda: sampler.call(plan.samples))
        else:
            work = counted.tally
        sizes = [] if counted is None else timeline.sizes(counted, work.steps)
        macs = work.macs("denoiser")["dense"]
        return Run(plan, sampler.arguments(plan.samples), image.cpu(), seconds, macs, work, sizes)

    def _timed(self, sampler: Sampler, name: str) -> tuple[Tensor, float]:
        """The image, and the seconds of the whole call."""
        with _steps(sampler, name, self._tell, self._stop):
            wait(sampler.pipe)
            begun = time.perf_counter()
            [image] = sampler(sampler.plan.samples)
            wait(sampler.pipe)
            return image, time.perf_counter() - begun

    def _fewer(self, found: dict[str, Plan], full: Run, accelerated: Run) -> int | None:
        """Plain steps of no more work than the run with methods."""
        if self._asked.plain or accelerated.macs >= full.macs:
            return None
        plan = found[FULL]

        def cost(setting: Setting) -> float:
            config = dataclasses.replace(plan.config, steps=setting.steps)
            row = dataclasses.replace(plan.row, config=config)
            counted = self._engine.counted(dataclasses.replace(plan, row=row, config=config))
            if counted is None:  # in proportion
                return full.macs * setting.steps / self._asked.steps
            return counted.tally.macs("denoiser")["dense"]

        least = most_steps(Setting(1, {}, {}, []), list(range(1, self._asked.steps + 1)), accelerated.macs, cost)
        return None if least is None else least[0].steps

    def _shares(self, full: Run, accelerated: Run) -> dict[str, Any] | None:
        """Work of every step beside a plain step of the same number of steps."""
        plain, config = full.work, accelerated.plan.config
        if config.steps != full.plan.config.steps or self._asked.scheduler is not None:
            config = dataclasses.replace(config, methods=[])
            row = dataclasses.replace(accelerated.plan.row, config=config)
            bare = self._engine.counted(dataclasses.replace(accelerated.plan, row=row, config=config, methods=()))
            if bare is None:
                return None
            plain = bare.tally
        return timeline.shares(accelerated.work, plain)


def _steps(sampler: Sampler, name: str, tell: Tell, stop: threading.Event) -> Any:
    """For the length of one call, tell of every step, and end it where that is asked for."""
    done, begun = 0, time.perf_counter()

    def step(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal done
        if stop.is_set():
            raise Stopped
        result = original(*args, **kwargs)
        done += 1
        steps = max(done, len(sampler.scheduler.timesteps))
        tell(Progress(name, done, steps, (time.perf_counter() - begun) / done * (steps - done)))
        return result

    return intercept(sampler.scheduler, "step", step)


def _valued(run: Run, full: Run) -> Run:
    values = {}
    for name in METRICS:
        if name == "paired_lpips" and min(run.image.shape[-2:]) < SMALLEST:
            continue
        cls = metrics.load(name)
        assert issubclass(cls, PerImageMetric)
        metric = cls(cls.Options()) if cls.Options is not None else cls()  # type: ignore[call-arg]
        with torch.no_grad():
            metric.update(run.image[None], full.image[None])
        values[name] = float(metric.last[0])
    return dataclasses.replace(run, values=values)


def _long_prompt(asked: Asked, pipe: Any) -> list[str]:
    """What of the prompt is not read."""
    notes = []
    if asked.cut != asked.prompt:
        notes.append(f"The prompt has {len(asked.prompt):,} characters; its first {len(asked.cut):,} are used.")
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        if (tokenizer := getattr(pipe, name, None)) is None:
            continue
        tokens, most = len(tokenizer(asked.cut, truncation=False, verbose=False).input_ids), tokenizer.model_max_length
        if tokens > most:
            notes.append(f"The text encoder reads {most} of the prompt's {tokens} tokens; the rest changes nothing.")
    return list(dict.fromkeys(notes))
