"""How long settings take on this device, from a table of kinds of steps that is measured once.

A kind of step has one latent size, number of branches, work and stack of methods. A setting takes what its steps take
and what is around them, text encoder and decoder. Only a kind that was never seen is measured.

A machine with other work to do is now faster and now slower. So every timed call follows a short plain run, the
reference, and the table holds shares of it. Shares become seconds by the median of all reference runs. Where torch has
one thread of a CPU, the clock is that of the process, which other programs do not move.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from postdiff.cost.moments import Moments, ProcessMoments, moments_of
from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import intercept
from postdiff.lab.config.experiment import Experiment, Row
from postdiff.lab.config.schema import digest, resolve
from postdiff.lab.devices import provenance
from postdiff.lab.files import folders
from postdiff.lab.generate.pipelines import Pipelines
from postdiff.lab.plan.plan import Plan, plan_rows
from postdiff.lab.planner.cost import Macs
from postdiff.lab.planner.space import Setting

__all__ = ["Times", "timed_call"]

SCHEMA = 2
CALLS = 5  # timed, after one that warms up
REFERENCE = Setting(4, {}, {}, [])  # the short run that goes before each of them
AROUND = "around"  # what a call takes beside its steps


class Times:
    """Times of settings of one model on one device, at batch size 1.

    Args:
        base: what every setting's row begins with.
        macs: tells the kinds of steps.
        say: given one line for each setting that is timed.

    Raises:
        UsageError: the table is damaged, or the model cannot be run on this device.
    """

    def __init__(self, base: Mapping[str, Any], macs: Macs, say: Callable[[str], None]) -> None:
        self._base = {**base, "count": 1, "batch_size": 1, "metrics": [], "bench": {"repeats": 0}}
        self._macs, self._say, self._pipelines = macs, say, Pipelines()
        plan = self._plan(Setting(int(base["steps"]), {}, {}, []))
        known: list[Any] = [
            provenance.device_name(plan.config.device),
            plan.checkpoint,
            plan.config.dtype,
            plan.config.height,
        ]
        known += [plan.config.width, plan.config.guidance_scale, torch.__version__, SCHEMA]
        self._file = folders.outputs() / "plans" / "times" / f"{digest(known)}.json"
        self._shares, self._reference = _read(self._file)

    def of(self, setting: Setting) -> float | None:
        """Seconds of one image; None if its methods do not fit the model or decide by the image.

        They change a little when other settings are measured, for the reference is then better known.
        """
        if self._macs.of(setting) is None:
            return None
        steps = [self._key(setting)(kind) for kind in self._macs.steps(setting)]
        if not {AROUND, *steps} <= self._shares.keys():
            self._measure(setting)
        shares = self._shares[AROUND] + sum(self._shares[kind] for kind in steps)
        return self.reference * shares

    def timer(self, setting: Setting) -> Callable[[], tuple[float, list[float]]]:
        """What makes one image of a setting and times it, as `timed_call` does; one has been made to warm up."""
        plan = self._plan(setting)
        sampler, batch = self._pipelines.sampler(plan), plan.samples[:1]
        sampler.call(batch)
        return partial(timed_call, sampler.pipe, sampler.scheduler, partial(sampler.call, batch), _clock(sampler.pipe))

    @property
    def reference(self) -> float:
        """Seconds of the reference, the median of all its runs."""
        return statistics.median(self._reference)

    @staticmethod
    def _key(setting: Setting) -> Callable[[str], str]:
        """A kind with its solver, which takes time of its own."""
        solver = setting.keys.get("scheduler")
        return lambda kind: f"{kind} {json.dumps(solver, sort_keys=True)}"

    def _plan(self, setting: Setting) -> Plan:
        config = resolve([("plan", self._base), (setting.name, setting.config)])
        row = Row(setting.name, setting.label, config, {}, {})
        return plan_rows(Experiment("times", "", row.name, (row,)))[0]

    def _measure(self, setting: Setting) -> None:
        """Time a setting step by step, and keep the median share of each kind that is new."""
        reference, own = self.timer(REFERENCE), self.timer(setting)
        names = self._macs.steps(setting)
        found: defaultdict[str, list[float]] = defaultdict(list)
        for _ in range(CALLS):
            before, plain = reference()
            pace = before + sum(plain)
            around, steps = own()
            self._reference.append(pace)
            found[AROUND].append(around / pace)
            if len(steps) != len(names):
                raise UsageError(
                    f"setting '{setting.name}' takes {len(steps)} solver calls, not {len(names)}; plan MACs"
                )
            for name, seconds in zip(names, steps, strict=True):
                found[self._key(setting)(name)].append(seconds / pace)
        self._shares = {name: statistics.median(each) for name, each in found.items()} | self._shares
        self._say(f"{setting.label}: timed, {len(found) - 1} kinds of steps")
        content = {"schema": SCHEMA, "reference": self._reference, "shares": self._shares}
        with folders.atomic_write(self._file) as temporary:
            temporary.write_text(json.dumps(content, indent=0))


def timed_call(
    pipe: Any, scheduler: Any, call: Callable[[], object], moments: Moments | None = None
) -> tuple[float, list[float]]:
    """Seconds of a call beside its steps, and of each step: from the end of one solver call to that of the next.

    Args:
        pipe: whose progress bar opens just before the first step.
        scheduler: that it uses.
        call: runs it, or a driver over it.
        moments: the clock; None for that of the pipeline's device.
    """
    moments = moments or moments_of(pipe)
    ends: list[Any] = []

    def begin(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        ends.append(moments.now())
        return original(*args, **kwargs)

    def step(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        ends.append(moments.now())
        return result

    with ExitStack() as stack:
        stack.enter_context(intercept(pipe, "progress_bar", begin))
        stack.enter_context(intercept(scheduler, "step", step))
        moments.wait()
        first = moments.now()
        call()
        last = moments.now()
        moments.wait()
    steps = [moments.seconds(one, other) for one, other in pairwise(ends)]
    return moments.seconds(first, last) - sum(steps), steps


def _clock(pipe: Any) -> Moments:
    """The process's clock where one thread of a CPU does all the work."""
    moments = moments_of(pipe)
    return ProcessMoments() if type(moments) is Moments and torch.get_num_threads() == 1 else moments


def _read(file: Path) -> tuple[dict[str, float], list[float]]:
    """Shares of the reference by kind, and how long each reference run took."""
    if not file.is_file():
        return {}, []
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        shares: dict[str, float] = content["shares"]
        reference: list[float] = content["reference"]
        if content["schema"] == SCHEMA and reference and all(own > 0 for own in (*shares.values(), *reference)):
            return shares, reference
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UsageError(f"{file} does not hold times of steps; remove it, and they are measured again")
