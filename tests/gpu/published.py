"""A published network at its real size with random weights, through the lab's own rows."""

from __future__ import annotations

from typing import Any

import torch

from postdiff.lab.config import experiment
from postdiff.lab.generate.pipelines import Pipelines
from postdiff.lab.generate.sampler import Sampler
from postdiff.lab.plan.plan import plan_rows

__all__ = ["Published"]

# For a dry run the shipped model's shape, in float32.
MODELS = {"cuda": ("sd15_512", "float16"), "cpu": ("emoji", "float32")}


class Published:
    """Rows of SD V1.5 at 512 pixels in float16, two images a call in four steps; they share one pipeline."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.pipelines = device, Pipelines()

    def sampler(self, *methods: Any) -> Sampler:
        """A sampler with methods."""
        model, dtype = MODELS[self.device.type]
        given = {
            "model": model, "weights": "random", "dtype": dtype, "device": str(self.device), "steps": 4, "count": 2,
            "seeds": [0], "methods": list(methods),
        }  # fmt: skip
        return self.pipelines.sampler(plan_rows(experiment.load("demo", given).select(["steps_20"]))[0])
