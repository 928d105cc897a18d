"""Parts that a pipeline without weights will not go without: they cost nothing, and what they return is zeros."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["StandInVAE", "parts"]

# They read their VAE, or call it, whatever they are given and asked for.
WITH_VAE = (
    *("DiTPipeline", "StableDiffusionUpscalePipeline", "StableDiffusionXLInpaintPipeline"),
    *("StableDiffusionXLImg2ImgPipeline", "FluxKontextPipeline", "Flux2KleinPipeline", "QwenImageEditPlusPipeline"),
)


class StandInVAE(nn.Module):
    """In the place of a VAE: an image becomes latents of its shape, and latents are handed on as they are.

    Args:
        described: class and configuration of the true one; None where the structure file has none.
    """

    dtype = torch.float32

    def __init__(self, described: Mapping[str, Any] | None) -> None:
        import diffusers

        super().__init__()
        self.config: Any = SimpleNamespace(scaling_factor=0.08333, block_out_channels=(1, 1, 1, 1), latent_channels=4)
        self.temperal_downsample = (False, True, True)  # spelt as in diffusers
        if described is not None:
            with torch.device("meta"):
                self.config = getattr(diffusers, described["class"])(**described["config"]).config
        self._channels = getattr(self.config, "latent_channels", None) or self.config.z_dim
        self.bn = nn.BatchNorm2d(4 * self._channels, affine=False)  # FLUX.2 keeps latents' mean and deviation here
        self._factor = 2 ** (len(getattr(self.config, "block_out_channels", None) or self.config.dim_mult) - 1)

    def encode(self, image: Tensor) -> SimpleNamespace:
        """Latents (B, C, [frames,] height / factor, width / factor)."""
        height, width = (side // self._factor for side in image.shape[-2:])
        return SimpleNamespace(latents=torch.zeros(len(image), self._channels, *image.shape[2:-2], height, width))

    def decode(self, latents: Tensor) -> SimpleNamespace:
        """The latents themselves."""
        return SimpleNamespace(sample=latents)


def parts(pipeline: str, vae: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a class asks for beside networks and solver, {name in the pipeline: part}.

    Args:
        pipeline: name of the class.
        vae: class and configuration of its autoencoder; None if the structure file has none.
    """
    import diffusers

    found: dict[str, Any] = {"vae": StandInVAE(vae)} if pipeline in WITH_VAE else {}
    if pipeline == "IFSuperResolutionPipeline":
        found["image_noising_scheduler"] = diffusers.DDPMScheduler()
    if pipeline == "StableDiffusionUpscalePipeline":
        found["low_res_scheduler"] = diffusers.DDPMScheduler()
    return found
