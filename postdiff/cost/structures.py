"""Structure twins: a pipeline with the real shapes of a published model and no weights, on the meta device.

`configs/structures/<name>.yaml` holds the pipeline class, the network's class and configuration, those of a ControlNet
if there is one, the shapes of the conditions that stand in for encoded prompts and pictures and, optionally, text
encoders and VAE. Enough to count what a call would cost, without any download.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml

from postdiff import catalog
from postdiff.cost.macs import tally
from postdiff.cost.on_meta import OnMeta, Seen, pin_to_cpu
from postdiff.cost.operations import Known
from postdiff.cost.surroundings import Surroundings
from postdiff.cost.tally import Macs, Tally
from postdiff.engine.driver import accelerate
from postdiff.engine.errors import UsageError, unknown
from postdiff.engine.family import family_of

__all__ = ["Twin", "real_size"]

KEYS = ("pipeline", "network", "controlnet", "conditions", "arguments", "vae_scale_factor", "text_encoders", "vae")


@dataclass
class Twin:
    """A pipeline without weights.

    Attributes:
        pipe: its network is on the meta device; scheduler and latents are real.
        conditions: {argument: shape of one sample's row}, given in place of prompts.
        arguments: further arguments of every call.
        surroundings: text encoders and VAE.
        file: where all this is written.
        known: operations executed so far, which need not be worked out again.
    """

    pipe: Any
    conditions: dict[str, list[int]]
    arguments: dict[str, Any]
    surroundings: Surroundings
    file: Path
    known: Known = field(default_factory=dict, repr=False)

    def macs(self, methods: Sequence[Any] = (), **call: Any) -> Macs:
        """MACs of the denoiser for one image, by convention; arguments and errors are those of `tally`."""
        return self._denoiser(methods, call)[0].macs("denoiser")

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
            UsageError: a method does not fit the network, the solver or the number of steps, or the installed
                libraries do not know a class or configuration of the structure file.
        """
        denoiser, seen = self._denoiser(methods, call)
        try:
            around = self.surroundings.tally(seen.prompts, seen.latents)
        except (AttributeError, KeyError, TypeError) as error:
            raise _misfit(self.file, error) from error
        return Tally({**around.cells, **denoiser.cells}, denoiser.steps), seen

    def _denoiser(self, methods: Sequence[Any], call: dict[str, Any]) -> tuple[Tally, Seen]:
        seen = Seen()
        fast = accelerate(self.pipe, [*methods, OnMeta(seen)])
        zeros = {name: torch.zeros(1, *shape) for name, shape in self.conditions.items()}
        run = {"output_type": "latent", **zeros, **self.arguments, **call}
        return tally(self.pipe, lambda: fast(**run), self.known), seen


def real_size(name: str, scheduler: Any) -> Twin:
    """The twin of a structure file, ready to be counted.

    Args:
        name: a file of `configs/structures`.
        scheduler: a diffusers scheduler; the number of solver calls depends on it.

    Raises:
        UsageError: no such file, an unknown key, or a class or configuration that this diffusers does not know.
    """
    import diffusers

    file = catalog.path("structures", name)
    content = yaml.safe_load(file.read_text())
    for key in content:
        if key not in KEYS:
            raise UsageError(f"{file}: {unknown('key', key, KEYS)}")
    try:
        pipeline = getattr(diffusers, content["pipeline"])
        network_class = getattr(diffusers, content["network"]["class"])
        family = family_of(pipeline)
        with torch.device("meta"):
            networks: dict[str, Any] = {family.network: network_class(**content["network"]["config"]).eval()}
            if family.controlnet is not None:
                control = content["controlnet"]
                networks[family.controlnet] = getattr(diffusers, control["class"])(**control["config"]).eval()
        required, optional = pipeline._get_signature_keys(pipeline)
        empty = dict.fromkeys(required)
        if "requires_safety_checker" in optional:
            empty["requires_safety_checker"] = False
        pipe = pipeline(**{**empty, **_others(content["pipeline"], scheduler), **networks})
        conditions = content["conditions"]
    except (AttributeError, KeyError, TypeError) as error:
        raise _misfit(file, error) from error
    pipe.set_progress_bar_config(disable=True)
    # Without a VAE a pipeline assumes a factor of 8 between pixels and latents.
    pipe.vae_scale_factor = content.get("vae_scale_factor", 8)
    surroundings = Surroundings(content.get("text_encoders", []), content.get("vae"))
    return Twin(pin_to_cpu(pipe), conditions, content.get("arguments", {}), surroundings, file)


class _NoDecoder:
    """In the place of a VAE where a pipeline will not go without: hands latents on as they are."""

    config = SimpleNamespace(scaling_factor=0.08333, block_out_channels=(1, 1, 1, 1), latent_channels=4)

    def decode(self, latents: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=latents)


def _others(pipeline: str, scheduler: Any) -> dict[str, Any]:
    """Parts that a pipeline needs beside its networks: the solver, and what its published class asks for."""
    import diffusers

    more: dict[str, dict[str, Any]] = {
        "DiTPipeline": {"vae": _NoDecoder()},  # decodes whatever it is asked for
        "IFSuperResolutionPipeline": {"image_noising_scheduler": diffusers.DDPMScheduler()},
        "StableDiffusionUpscalePipeline": {"vae": _NoDecoder(), "low_res_scheduler": diffusers.DDPMScheduler()},
    }
    return {"scheduler": scheduler, **more.get(pipeline, {})}


def _misfit(file: Path, error: Exception) -> UsageError:
    return UsageError(f"{file} does not fit the installed libraries ({error}); compare it with the published config")
