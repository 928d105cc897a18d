"""How good the picture is after every step, were the run to end there: PostDiff's per-step figure.

After each solver call the clean latents are estimated from the guided prediction, decoded at the size the network
works at, and scored. The paper does not say how it decodes; at their own size the low steps are shown as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from postdiff import accelerate
from postdiff.engine import noise_levels
from postdiff.engine.grid import resize
from postdiff.engine.state import State
from postdiff.lab.samples import Sample
from postdiff.lab.sampling.sampler import Sampler
from postdiff.methods.base import Method, StepCall
from postdiff.metrics.base import PerImageMetric

__all__ = ["CleanEstimates", "StepScores"]


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


class StepScores(LightningModule):
    """Draws samples once more and scores each step; `trainer.predict` fills `scores`.

    Args:
        sampler: draws.
        metric: one figure a picture, from pictures and prompts.

    Attributes:
        scores: {seed: one list of figures, a step each, for every picture}.
    """

    def __init__(self, sampler: Sampler, metric: PerImageMetric) -> None:
        super().__init__()
        self.sampler, self.metric = sampler, metric
        self.scores: dict[int, list[list[float]]] = {}

    def predict_step(self, batch: list[Sample], batch_idx: int = 0) -> int:
        """Draw and score a batch; returns its size."""
        estimates = CleanEstimates()
        self.sampler.call(batch, accelerate(self.sampler.pipe, [estimates, *self.sampler.job.methods]))
        by_step = torch.stack([self._score(latents, batch) for latents in estimates.found])
        for sample, scores in zip(batch, by_step.unbind(1), strict=True):
            self.scores.setdefault(sample.seed, []).append(scores.tolist())
        return len(batch)

    def curve(self) -> dict[str, list[float]]:
        """{seed: mean figure after each step}."""
        means = {seed: torch.tensor(rows).double().mean(0) for seed, rows in self.scores.items()}
        return {str(seed): [round(value, 4) for value in mean.tolist()] for seed, mean in means.items()}

    def _score(self, latents: Tensor, batch: Sequence[Sample]) -> Tensor:
        vae = self.sampler.pipe.vae
        shift = getattr(vae.config, "shift_factor", None) or 0
        with torch.no_grad():
            pixels = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor + shift, return_dict=False)[0]
        pictures = ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        self.metric.update(pictures.to(self.device), [sample.prompt for sample in batch])
        return self.metric.last
