"""A comparison to take away: as an experiment file that `postdiff run` takes, and as lines of Python."""

from __future__ import annotations

from typing import Any

import yaml

from postdiff import presets
from postdiff.lab.app.asked import content
from postdiff.lab.app.generation import METRICS, Comparison
from postdiff.lab.config.schedulers import SchedulerConfig

__all__ = ["as_python", "as_yaml"]

# Said in the lines themselves, or of no use there.
ASIDE = ("generator", "output_type", "prompt")


def as_yaml(comparison: Comparison) -> str:
    """The experiment: `postdiff run FILE` makes the same images and measures the same distances."""
    own = comparison.accelerated
    metrics = [name for name in METRICS if name in own.values]
    fewer = comparison.fewer.plan.config.steps if comparison.fewer else None
    written = content(comparison.asked, fewer, metrics)
    text = yaml.safe_dump(written, sort_keys=False, allow_unicode=True, width=100)
    return f"# postdiff run FILE.yaml; the prompt stands in the file under 'data'\n{text}"


def as_python(comparison: Comparison) -> str:
    """Lines that generate the image of the run with methods, bit for bit on the same device."""
    run, stack = comparison.accelerated, comparison.accelerated.plan.methods
    config, card = run.plan.config, run.plan.card
    solvers = [one for one in (card.scheduler, config.scheduler) if one != SchedulerConfig()]
    lines = ["import torch", "", "from postdiff import accelerate"]
    if solvers:
        lines += ["from postdiff.lab.config import schedulers"]
    lines += ["from postdiff.lab.pipelines import cards, models"]
    if stack:
        lines += [f"from postdiff.methods import {', '.join(sorted({type(one).__name__ for one in stack}))}"]
    lines += ["", f"card = cards.card({config.model!r})"]
    lines += [f"pipe = models.load(card, {config.dtype!r}, {config.device!r})  # or a diffusers pipeline of your own"]
    if solvers:
        given = [_solver(one) for one in solvers]
        lines += [f"pipe.scheduler = schedulers.layered(pipe.scheduler, {', '.join(given)})"]
    lines += [f"fast = accelerate(pipe, [{', '.join(map(presets.as_python, stack))}])"]
    lines += [f"# what an experiment draws for seed {comparison.asked.seed} and its first prompt"]
    lines += [f'generator = torch.Generator("cpu").manual_seed({run.arguments["generator"][0].initial_seed()})']
    lines += ["image = fast(", f"    {comparison.asked.cut!r},", "    generator=generator,"]
    lines += [f"    {name}={_value(value)!r}," for name, value in run.arguments.items() if name not in ASIDE]
    return "\n".join([*lines, ").images[0]", 'image.save("image.png")']) + "\n"


def _solver(config: SchedulerConfig) -> str:
    options = f", {config.options!r}" if config.options else ""
    return f"schedulers.SchedulerConfig({config.name!r}{options})"


def _value(value: Any) -> Any:
    """Of what is given for each prompt, that of the one there is."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value
