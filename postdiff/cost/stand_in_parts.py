"""Parts that a pipeline without weights will not go without: they cost nothing, and what they return is zeros."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["StandInDecoder", "StandInEncoder", "parts"]

# Pipelines that decode whatever they are asked for, and those that encode an image or read latents' statistics.
DECODING = ("DiTPipeline", "StableDiffusionUpscalePipeline")
ENCODING = (
    *("StableDiffusionXLInpaintPipeline", "StableDiffusionXLImg2ImgPipeline", "FluxKontextPipeline"),
    *("Flux2KleinPipeline", "QwenImageEditPlusPipeline"),
)


class StandInDecoder:
    """In the place of a VAE that only decodes: hands latents on as they are."""

    config = SimpleNamespace(scaling_factor=0.08333, block_out_channels=(1, 1, 1, 1), latent_channels=4)

    def decode(self, latents: Tensor) -> SimpleNamespace:
        """The latents themselves."""
        return SimpleNamespace(sample=latents)


class StandInEncoder:
    """In the place of a VAE that only encodes: an image becomes latents of the right shape.

    It has no `decode`, so that methods which go by way of pixels refuse it.

    Args:
        described: class and configuration of the true one.
    """

    dtype = torch.float32

    def __init__(self, described: Mapping[str, Any]) -> None:
        import diffusers

        with torch.device("meta"):
            self.config: Any = getattr(diffusers, described["class"])(**described["config"]).config
        self.temperal_downsample = self.config.get("temperal_downsample", ())  # spelt as in diffusers
        self._channels = self.config.get("latent_channels") or self.config.z_dim
        self._factor = 2 ** (len(self.config.get("block_out_channels") or self.config.dim_mult) - 1)
        self.bn = nn.BatchNorm2d(4 * self._channels, affine=False)  # FLUX.2 keeps mean and deviation of latents here

    def to(self, *_: Any, **__: Any) -> StandInEncoder:
        """Itself, as it is."""
        return self

    def encode(self, image: Tensor) -> SimpleNamespace:
        """Latents (B, C, [frames,] height / factor, width / factor)."""
        height, width = (side // self._factor for side in image.shape[-2:])
        return SimpleNamespace(latents=torch.zeros(len(image), self._channels, *image.shape[2:-2], height, width))


def parts(pipeline: str, vae: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a class asks for beside networks and solver, {name in the pipeline: part}.

    Args:
        pipeline: name of the class.
        vae: class and configuration of its autoencoder; None if the structure file has none.
    """
    import diffusers

    found: dict[str, Any] = {}
    if pipeline in DECODING:
        found["vae"] = StandInDecoder()
    elif pipeline in ENCODING and vae is not None:
        found["vae"] = StandInEncoder(vae)
    if pipeline == "IFSuperResolutionPipeline":
        found["image_noising_scheduler"] = diffusers.DDPMScheduler()
    if pipeline == "StableDiffusionUpscalePipeline":
        found["low_res_scheduler"] = diffusers.DDPMScheduler()
    return found
