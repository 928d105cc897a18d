"""Random solvers where the pipeline hands its solver no generators: each sample still draws from its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from postdiff.engine.family import family_of
from postdiff.engine.intercept import intercept

__all__ = ["own_noise"]


def own_noise(pipe: Any, generators: Sequence[torch.Generator]) -> AbstractContextManager[None]:
    """For the length of one call, let a random solver draw from the samples' generators.

    DiT's pipeline hands on none, so that its DDPM solver would draw from the global generator, and images would
    depend on what else was drawn. Video pipelines hand on one a video, where their solver steps frames.

    Args:
        pipe: the pipeline.
        generators: one a sample.
    """
    kind = family_of(pipe).step_rows
    signature = inspect.signature(pipe.scheduler.step)
    if kind == "samples" or "generator" not in signature.parameters:
        return nullcontext()

    def around(step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        arguments = dict(signature.bind(*args, **kwargs).arguments)
        copies = len(arguments["sample"]) // len(generators)
        if kind == "doubled":  # the halves of guidance, one after the other
            rows = [one for _ in range(copies) for one in generators]
        else:
            rows = [one for one in generators for _ in range(copies)]
        return step(**{**arguments, "generator": rows})

    return intercept(pipe.scheduler, "step", around)
