"""Structure twins: a pipeline with the real shapes of a published model and no weights, on the meta device.

What `configs/structures/<name>.yaml` holds is enough to count what a call would cost, without any download.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from postdiff.cost import structure_file
from postdiff.cost.known_blocks import KnownBlocks
from postdiff.cost.macs import tally
from postdiff.cost.on_meta import OnMeta, Seen, pin_to_cpu
from postdiff.cost.operations import Known
from postdiff.cost.structure_file import Structure
from postdiff.cost.tally import Tally
from postdiff.engine.driver import accelerate
from postdiff.engine.errors import UsageError

__all__ = ["MetaPipeline", "TextEncodersAndVAE", "real_size"]


class TextEncodersAndVAE:
    """Built on the meta device when they are first asked for.

    Args:
        text_encoders: {class, config, tokens} of each; class and configuration are those of transformers.
        vae: {class, config}, those of diffusers; None if it is not described. `patch`, if it is there, is the side in
            its latent pixels of what the pipeline diffuses as one.
    """

    def __init__(self, text_encoders: Sequence[dict[str, Any]], vae: dict[str, Any] | None) -> None:
        self._text_encoders, self._vae = text_encoders, vae
        self._known: dict[tuple[int, tuple[int, int], int], Tally] = {}

    def tally(self, prompts: int, latents: tuple[int, int], frames: int = 1) -> Tally:
        """Every encoder called once with all prompts, and one latent decoded.

        Args:
            prompts: rows of the encoders' call.
            latents: (height, width) of the latent.
            frames: its length, where it is a video's.

        Raises:
            AttributeError, KeyError, TypeError: a description that the libraries do not know.
        """
        modules = self._modules

        def call() -> None:
            for number, encoder in enumerate(self._text_encoders):
                # No mask: it would be read, and it changes no MACs.
                tokens = torch.zeros(prompts, encoder["tokens"], dtype=torch.long, device="meta")
                modules[f"text_encoder_{number}"](tokens)
            if "vae" in modules:
                modules["vae"].decode(torch.zeros(self._decoded(latents, frames), device="meta"))

        key = (prompts, latents, frames)
        if key not in self._known:
            with torch.no_grad():
                self._known[key] = tally(SimpleNamespace(components=modules), call)
        return self._known[key]

    def _decoded(self, latents: tuple[int, int], frames: int) -> tuple[int, ...]:
        """Shape of what the VAE is given: those of videos decode images as videos of one frame."""
        vae, patch = self._modules["vae"], (self._vae or {}).get("patch", 1)
        channels = getattr(vae.config, "latent_channels", None) or vae.config.z_dim
        moving = any(isinstance(part, nn.Conv3d) for part in vae.modules())
        return (1, channels, *([frames] if moving else []), *(patch * side for side in latents))

    @functools.cached_property
    def _modules(self) -> dict[str, Any]:
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


@dataclass
class MetaPipeline:
    """A pipeline without weights.

    Attributes:
        pipe: its network is on the meta device; scheduler and latents are real.
        structure: where all this is written.
        surroundings: text encoders and VAE.
        known: operations executed so far, which need not be worked out again.
        blocks: the same of blocks of the network.
    """

    pipe: Any
    structure: Structure
    surroundings: TextEncodersAndVAE
    known: Known = field(default_factory=dict, repr=False)
    blocks: KnownBlocks = field(default_factory=KnownBlocks, repr=False)

    def tally(self, methods: Sequence[Any] = (), **call: Any) -> tuple[Tally, Seen]:
        """Run the pipeline for one image and count: the denoiser by step and group of modules, and what is around it.

        Text encoders are called once with all prompts, and one latent is decoded; parts that the structure file
        does not describe are left out.

        Args:
            methods: the stack, first outermost.
            call: the pipeline's own arguments: height, width, num_inference_steps, guidance_scale, ...

        Returns:
            What the call cost, and what the network was asked for at each step.

        Raises:
            UsageError: a method does not fit the network, the solver or the number of steps, or decides by features;
                the pipeline refuses its arguments; or the installed libraries do not know a class or configuration of
                the structure file.
        """
        if (adaptive := next((method for method in methods if method.adaptive), None)) is not None:
            raise UsageError(
                f"{type(adaptive).__name__} decides by the features of each image, so its work cannot be counted "
                "without weights; run the experiment, whose records hold it"
            )
        seen = Seen()
        fast = accelerate(self.pipe, [*methods, OnMeta(seen)])
        run = {"output_type": "latent", **self.structure.stand_ins(), **self.structure.arguments, **call}
        try:
            denoiser = tally(self.pipe, lambda: fast(**run), self.known, self.blocks)
        except UsageError:
            raise
        except ValueError as error:
            raise UsageError(f"{type(self.pipe).__name__} refuses: {error}") from error
        with self.structure.fitting():
            around = self.surroundings.tally(seen.prompts, seen.latents, seen.frames)
        return Tally({**around.cells, **denoiser.cells}, denoiser.steps), seen


def real_size(name: str, scheduler: Any) -> MetaPipeline:
    """The twin of a structure file, ready to be counted.

    Args:
        name: a file of `configs/structures`.
        scheduler: a diffusers scheduler; the number of solver calls depends on it.

    Raises:
        UsageError: no such file, an unknown key, or a class or configuration that this diffusers does not know.
    """
    structure = structure_file.read(name)
    with torch.device("meta"):
        networks = structure.networks()
    pipe = pin_to_cpu(structure.assembled(networks, scheduler))
    return MetaPipeline(
        pipe, structure, TextEncodersAndVAE(structure.content.get("text_encoders", []), structure.content.get("vae"))
    )
