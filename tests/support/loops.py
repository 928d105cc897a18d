"""Straight loops over a tiny pipeline's network in float64, one image at a time, with its real solver."""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from postdiff.engine.family import family_of
from postdiff.engine.intercept import intercept
from tests.support.cases import Case
from tests.support.tiny import build

__all__ = ["in_double", "run_loop"]


def in_double(name: str) -> Case:
    """A smallest pipeline whose weights and text are of float64."""
    case = build(name, smallest=True)
    getattr(case.pipe, family_of(case.pipe).network).double()
    whole = case.arguments
    case.arguments = lambda ids: {
        key: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for key, value in whole(ids).items()
    }
    return case


def run_loop(case: Case, i: int, rule: Callable[..., Any], *options: Any) -> Any:
    """What `rule(network, solve, x, steps, *options)` gives for image i, without the pipeline.

    `network(x, step)` gives the predictions [conditional, unconditional] for latents x (1, C, H, W), and
    `solve(predictions, step, x)` the next latents, by the pipeline's own guidance and solver.
    """
    pipe, family = case.pipe, family_of(case.pipe)
    module, order = getattr(pipe, family.network), family.cfg
    signature = inspect.signature(module.forward)
    calls: dict[int, list[dict[str, Any]]] = defaultdict(list)
    times: list[Any] = []
    solver: list[Any] = []

    def note(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not solver:
            solver.append(copy.deepcopy(pipe.scheduler))
        calls[len(times)].append(signature.bind(*args, **kwargs).arguments)
        return forward(*args, **kwargs)

    def step(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        times.append(kwargs.get("timestep", args[1] if len(args) > 1 else None))
        return forward(*args, **kwargs)

    with intercept(module, "forward", note), intercept(pipe.scheduler, "step", step):
        case.call(pipe, [i])
    name = "sample" if "sample" in signature.parameters else "hidden_states"

    def network(x: Tensor, at: int) -> list[Tensor]:
        given = [{**call, name: torch.cat([x] * len(call[name])), "return_dict": False} for call in calls[at]]
        found = torch.cat([module(**each)[0] for each in given])
        return [found[order.index(branch)][None] for branch in ("cond", "uncond")]

    def solve(y: list[Tensor], at: int, x: Tensor) -> Tensor:
        guided = y[1] + case.arguments([i])[family.scale] * (y[0] - y[1])
        return solver[0].step(guided, times[at], x, return_dict=False)[0]

    with torch.no_grad():
        return rule(network, solve, calls[0][0][name][:1], len(times), *options)
