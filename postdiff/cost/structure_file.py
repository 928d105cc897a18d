"""What `configs/structures/<name>.yaml` says of a published model: its classes and their configurations, no weights.

It holds the pipeline class and settings of its own, the network's class and configuration, those of a second network or
of a ControlNet if there is one, the shapes of the conditions that stand in for encoded prompts and images and,
optionally, text encoders and VAE.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from postdiff import catalog
from postdiff.cost import stand_in_parts
from postdiff.engine.errors import UsageError, unknown
from postdiff.engine.family import family_of

__all__ = ["Structure", "read"]

KEYS = (
    *("pipeline", "settings", "network", "second_network", "controlnet", "conditions", "arguments"),
    *("vae_scale_factor", "text_encoders", "vae"),
)


@dataclass(frozen=True)
class Structure:
    """One file.

    Attributes:
        file: where it is.
        content: its keys and values.
        pipeline: the diffusers class.
    """

    file: Path
    content: dict[str, Any]
    pipeline: Any

    @property
    def conditions(self) -> dict[str, list[int]]:
        """{argument: shape of one sample's row}, given in place of prompts."""
        return self.content["conditions"]

    def given(self, name: str, rows: Tensor) -> Any:
        """A condition as the pipeline takes it: where the network takes lists, prompts come as one, an item a row."""
        listed = family_of(self.pipeline).layout == "list" and "prompt" in name
        return list(rows) if listed else rows

    def stand_ins(self) -> dict[str, Any]:
        """Zeros for all conditions of one sample; an image that is described by height and width alone is black."""
        found: dict[str, Any] = {}
        for name, shape in self.conditions.items():
            if name in ("image", "mask_image") and len(shape) == len(("height", "width")):
                found[name] = Image.new("L" if name == "mask_image" else "RGB", (shape[1], shape[0]))
            else:
                found[name] = self.given(name, torch.zeros(1, *shape))
        return found

    @property
    def arguments(self) -> dict[str, Any]:
        """Further arguments of every call."""
        return self.content.get("arguments", {})

    def networks(self) -> dict[str, nn.Module]:
        """Denoisers and ControlNet by their names in the pipeline, on whichever device new modules are made on.

        Raises:
            UsageError: a class or configuration that this diffusers does not know.
        """
        with self.fitting():
            family = family_of(self.pipeline)
            found: dict[str, nn.Module] = {family.network: _built(self.content["network"])}
            if family.second is not None and "second_network" in self.content:
                found[family.second] = _built(self.content["second_network"])
            if family.controlnet is not None:
                found[family.controlnet] = _built(self.content["controlnet"])
        return found

    def vae(self) -> nn.Module | None:
        """The autoencoder, or None where the file has none; as for `networks`."""
        with self.fitting():
            return _built(self.content["vae"]) if "vae" in self.content else None

    def assembled(self, modules: dict[str, Any], scheduler: Any) -> Any:
        """The pipeline around modules, silent, without text encoders.

        Args:
            modules: {name in the pipeline: module}.
            scheduler: a diffusers scheduler.

        Raises:
            UsageError: the pipeline class asks for more.
        """
        with self.fitting():
            required, optional = self.pipeline._get_signature_keys(self.pipeline)
            empty = dict.fromkeys(required)
            if "requires_safety_checker" in optional:
                empty["requires_safety_checker"] = False
            others = stand_in_parts.parts(self.content["pipeline"], self.content.get("vae"))
            settings = self.content.get("settings", {})
            pipe = self.pipeline(**{**empty, "scheduler": scheduler, **others, **settings, **modules})
        pipe.set_progress_bar_config(disable=True)
        if "vae" not in modules:
            # Without a VAE a pipeline assumes a factor of 8 between pixels and latents.
            pipe.vae_scale_factor = self.content.get("vae_scale_factor", 8)
        return pipe

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """Turn what the libraries say to a file that does not fit them into one line.

        Raises:
            UsageError: in the place of the errors that a wrong class or configuration leads to.
        """
        try:
            yield
        except (AttributeError, KeyError, TypeError) as error:
            raise UsageError(
                f"{self.file} does not fit the installed libraries ({error}); compare it with the published config"
            ) from error


def read(name: str) -> Structure:
    """Read a file of `configs/structures`.

    Raises:
        UsageError: no such file, an unknown key, or a pipeline class that this diffusers does not know.
    """
    import diffusers

    file = catalog.path("structures", name)
    content = _content(file, file.stat().st_mtime_ns)
    for key in content:
        if key not in KEYS:
            raise UsageError(f"{file}: {unknown('key', key, KEYS)}")
    found = Structure(file, content, None)
    with found.fitting():
        _ = content["network"], content["conditions"]
        return Structure(file, content, getattr(diffusers, content["pipeline"]))


@functools.lru_cache(maxsize=16)
def _content(file: Path, changed: int) -> dict[str, Any]:
    """Rows mostly share a file, and reading it takes longer than what else a row needs; `changed` is when it was."""
    return catalog.read(file)


def _built(described: dict[str, Any]) -> nn.Module:
    import diffusers

    return getattr(diffusers, described["class"])(**described["config"]).eval()
