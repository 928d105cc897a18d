"""A pipeline whose image and noise are the same at every step, in float64: the path between them is straight."""

from __future__ import annotations

from typing import Any

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from tests.support.cases import STEPS, Case, embed, encoded_text
from tests.support.parts import BETAS, unet, vae

__all__ = ["PREDICTIONS", "levels", "straight"]

PREDICTIONS = ("epsilon", "v_prediction", "flow_prediction")
IDS, SHAPE = [0, 1], (4, 8, 8)


class _Known(UNet2DConditionModel):
    """Predicts from what it knows, whatever it is given; x0 and noise (rows, 4, 8, 8)."""

    def forward(self, sample: Tensor, timestep: Any, **kwargs: Any) -> tuple[Tensor]:
        x0, noise = (part.repeat(len(sample) // len(part), 1, 1, 1) for part in self.known)
        if self.prediction == "epsilon":
            return (noise,)
        if self.prediction == "flow_prediction":
            return (noise - x0,)
        alpha, sigma = levels(self.scheduler, timestep)
        return (alpha * noise - sigma * x0,)


def levels(scheduler: Any, timestep: Tensor) -> tuple[float, float]:
    """(alpha, sigma) of a step."""
    if scheduler.config.get("use_flow_sigmas"):
        sigma = float(scheduler.sigmas[scheduler.timesteps.tolist().index(timestep)])
        return 1 - sigma, sigma
    alpha = float(scheduler.alphas_cumprod[timestep].double()) ** 0.5
    return alpha, (1 - alpha**2) ** 0.5


def straight(prediction: str) -> Case:
    """DDIM, or for flows DPM++; guidance has no effect, since both branches are the same."""
    network = _Known.from_config(unet(levels=2).config).double()
    if prediction == "flow_prediction":
        flow = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": prediction, "solver_order": 1}
        scheduler: Any = DPMSolverMultistepScheduler(**BETAS, **flow)
    else:
        scheduler = DDIMScheduler(**BETAS, clip_sample=False, prediction_type=prediction)
    network.known = tuple(embed(IDS, *SHAPE, salt=salt).double() for salt in (8, 9))
    network.prediction, network.scheduler = prediction, scheduler
    pipe = StableDiffusionPipeline(
        vae=vae(), text_encoder=None, tokenizer=None, unet=network, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    scheduler.set_timesteps(STEPS)
    alpha, sigma = levels(scheduler, scheduler.timesteps[0])
    x0, noise = network.known
    text = {name: value.double() for name, value in encoded_text(IDS).items()}
    given = {"num_inference_steps": STEPS, "output_type": "latent", "latents": alpha * x0 + sigma * noise, **text}
    return Case(pipe, lambda ids: given)
