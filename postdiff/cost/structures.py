"""Structure twins: a pipeline with the real shapes of a published model and no weights, on the meta device.

`configs/structures/<name>.yaml` holds the pipeline class, the network's class and configuration, and the shapes of
the conditions that stand in for encoded prompts. Enough to count what a call would cost, without any download.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import yaml

from postdiff import catalog
from postdiff.cost.macs import Macs, count_macs
from postdiff.cost.on_meta import OnMeta, pin_to_cpu
from postdiff.engine.driver import accelerate
from postdiff.engine.errors import UsageError
from postdiff.engine.family import family_of

__all__ = ["Twin", "real_size"]


@dataclass
class Twin:
    """A pipeline without weights.

    Attributes:
        pipe: its network is on the meta device; scheduler and latents are real.
        conditions: {argument: shape of one sample's row}, given in place of prompts.
        arguments: further arguments of every call.
    """

    pipe: Any
    conditions: dict[str, list[int]]
    arguments: dict[str, Any]

    def macs(self, methods: Sequence[Any] = (), **call: Any) -> Macs:
        """MACs of the denoiser for one image, by convention (`postdiff.cost.macs`).

        Args:
            methods: the stack, first outermost.
            call: the pipeline's own arguments: height, width, num_inference_steps, guidance_scale, ...

        Raises:
            UsageError: a method does not fit the network, the solver or the number of steps.
        """
        fast = accelerate(self.pipe, [*methods, OnMeta()])
        zeros = {name: torch.zeros(1, *shape) for name, shape in self.conditions.items()}
        run = {**zeros, **self.arguments, "output_type": "latent", **call}
        return count_macs(self.pipe, lambda: fast(**run))["denoiser"]


def real_size(name: str, scheduler: Any) -> Twin:
    """The twin of a structure file, ready to be counted.

    Args:
        name: a file of `configs/structures`.
        scheduler: a diffusers scheduler; the number of solver calls depends on it.

    Raises:
        UsageError: no such file, or a class or configuration that this diffusers does not know.
    """
    import diffusers

    file = catalog.path("structures", name)
    content = yaml.safe_load(file.read_text())
    try:
        pipeline = getattr(diffusers, content["pipeline"])
        network_class = getattr(diffusers, content["network"]["class"])
        with torch.device("meta"):
            network = network_class(**content["network"]["config"]).eval()
        required, optional = pipeline._get_signature_keys(pipeline)
        empty = dict.fromkeys(required)
        if "requires_safety_checker" in optional:
            empty["requires_safety_checker"] = False
        pipe = pipeline(**{**empty, "scheduler": scheduler, family_of(pipeline).network: network})
    except (AttributeError, KeyError, TypeError) as error:
        raise UsageError(
            f"{file} does not fit this diffusers ({error}); compare it with the published config"
        ) from error
    pipe.set_progress_bar_config(disable=True)
    # Without a VAE a pipeline assumes a factor of 8 between pixels and latents.
    pipe.vae_scale_factor = content.get("vae_scale_factor", 8)
    return Twin(pin_to_cpu(pipe), content["conditions"], content.get("arguments", {}))
