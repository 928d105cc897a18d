"""Text encoders and VAE of a structure twin: what a pipeline runs once, before and after the denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

from postdiff.cost.macs import tally
from postdiff.cost.tally import Tally

__all__ = ["TextEncodersAndVAE"]


class TextEncodersAndVAE:
    """Built on the meta device when they are first asked for.

    Args:
        text_encoders: {class, config, tokens} of each; class and configuration are those of transformers.
        vae: {class, config}, those of diffusers; None if it is not described.
    """

    def __init__(self, text_encoders: Sequence[dict[str, Any]], vae: dict[str, Any] | None) -> None:
        self._text_encoders, self._vae = text_encoders, vae
        self._built: dict[str, Any] | None = None
        self._known: dict[tuple[int, tuple[int, int]], Tally] = {}

    def tally(self, prompts: int, latents: tuple[int, int]) -> Tally:
        """Every encoder called once with all prompts, and one latent decoded.

        Args:
            prompts: rows of the encoders' call.
            latents: (height, width) of the latent.

        Raises:
            AttributeError, KeyError, TypeError: a description that the libraries do not know.
        """
        if self._built is None:
            self._built = self._build()
        modules = self._built

        def call() -> None:
            for number, encoder in enumerate(self._text_encoders):
                # No mask: it would be read, and it changes no MACs.
                tokens = torch.zeros(prompts, encoder["tokens"], dtype=torch.long, device="meta")
                modules[f"text_encoder_{number}"](tokens)
            if "vae" in modules:
                modules["vae"].decode(torch.zeros(1, modules["vae"].config.latent_channels, *latents, device="meta"))

        if (prompts, latents) not in self._known:
            with torch.no_grad():
                self._known[prompts, latents] = tally(SimpleNamespace(components=modules), call)
        return self._known[prompts, latents]

    def _build(self) -> dict[str, Any]:
        import diffusers
        import transformers

        with torch.device("meta"):
            built = {}
            for number, encoder in enumerate(self._text_encoders):
                cls = getattr(transformers, encoder["class"])
                built[f"text_encoder_{number}"] = cls(cls.config_class(**encoder["config"])).eval()
            if self._vae is not None:
                built["vae"] = getattr(diffusers, self._vae["class"])(**self._vae["config"]).eval()
        return built
