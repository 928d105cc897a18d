"""How good the image is after every step, were the run to end there: PostDiff's per-step value.

After each solver call the clean latents are estimated from the guided prediction, decoded at the size the network
works at, and scored. The paper does not say how it decodes; at their own size the low steps are shown as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from postdiff import accelerate
from postdiff.engine import noise_levels
from postdiff.engine.grid import resize
from postdiff.engine.state import State
from postdiff.lab.data.samples import Sample
from postdiff.lab.generate.sampler import Sampler
from postdiff.lab.plan.plan import Plan
from postdiff.lab.progress import ImageBar
from postdiff.methods.base import Method, StepCall
from postdiff.metrics.base import PerImageMetric

__all__ = ["CleanEstimates", "step_scores"]


class CleanEstimates(Method):
    """Changes nothing; as the outermost method, keeps the clean estimate of every step.

    Attributes:
        found: one tensor a step, (B, C, h, w), at the latent size of that step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def step(self, forward: StepCall, output: Tensor, timestep: Any, sample: Tensor, state: State) -> Tensor:
        now = torch.as_tensor(timestep, device=sample.device)
        x0 = noise_levels.predict_x0(state.scheduler, output, now, sample)
        self.found.append(resize(x0, state.size))
        return forward(output, timestep, sample)


def step_scores(
    plan: Plan, sampler: Sampler, metrics: Mapping[int, Mapping[str, Metric]]
) -> dict[str, dict[str, list[float]]]:
    """Generate a row's samples once more and score each step.

    Args:
        plan: the row; its `step_metric` gives one value an image, from images and prompts.
        sampler: of the row.
        metrics: for each seed, metrics by name.

    Returns:
        {metric: {seed: mean value after each step}}.
    """
    assert plan.step_metric is not None
    metric = next(iter(metrics.values()))[plan.step_metric]
    assert isinstance(metric, PerImageMetric)
    metric.to(plan.config.device)
    scores: dict[int, list[Tensor]] = {}
    with ImageBar(f"{plan.row.label}, every step", len(plan.samples)) as bar:
        for batch in plan.batches:
            estimates = CleanEstimates()
            sampler.call(batch, accelerate(sampler.pipe, [estimates, *plan.methods]))
            by_step = torch.stack([_score(latents, batch, sampler.pipe.vae, metric) for latents in estimates.found])
            for sample, values in zip(batch, by_step.unbind(1), strict=True):
                scores.setdefault(sample.seed, []).append(values)
            bar.update(len(batch), len(batch))
    means = {str(seed): torch.stack(values).double().mean(0) for seed, values in scores.items()}
    return {plan.step_metric: {seed: [round(value, 4) for value in mean.tolist()] for seed, mean in means.items()}}


@torch.no_grad()
def _score(latents: Tensor, batch: Sequence[Sample], vae: Any, metric: PerImageMetric) -> Tensor:
    """Value of each sample's clean estimate, (B,)."""
    shift = getattr(vae.config, "shift_factor", None) or 0
    pixels = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor + shift, return_dict=False)[0]
    images = ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    metric.update(images.to(metric.device), [sample.prompt for sample in batch])
    return metric.last
