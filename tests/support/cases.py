"""A tiny pipeline with the arguments of one call, and what all calls have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tests.support.parts import CROSS

STEPS = 8


@dataclass
class Case:
    """A pipeline with the arguments of a call for samples `ids`; row i depends on ids[i] alone."""

    pipe: Any
    arguments: Callable[[list[int]], dict[str, Any]]

    def call(self, run: Callable[..., Any], ids: list[int] | None = None, **changes: Any) -> torch.Tensor:
        """Call `run` (the pipeline or a driver over it); returns latents or images, first dimension samples."""
        out = run(**{**self.arguments(ids or [0, 1]), "return_dict": False, **changes})[0]
        return torch.as_tensor(out)


def embed(ids: list[int], *shape: int, salt: int = 0) -> torch.Tensor:
    """Random rows (ids, *shape); row i depends on ids[i] and the salt alone."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(100 * salt + i)) for i in ids])


def generators(ids: list[int]) -> list[torch.Generator]:
    """One generator a sample, seeded by its id."""
    return [torch.Generator().manual_seed(7 + i) for i in ids]


def common(ids: list[int], **extra: Any) -> dict[str, Any]:
    """What every call is given, with `extra` laid over it."""
    return {
        "num_inference_steps": STEPS,
        "guidance_scale": 5.0,
        "generator": generators(ids),
        "output_type": "latent",
        **extra,
    }


def encoded_text(ids: list[int], tokens: int = 6, width: int = CROSS) -> dict[str, Any]:
    """Embeddings (ids, tokens, width) in the place of prompts; the negative ones are alike in all rows."""
    return {
        "prompt_embeds": embed(ids, tokens, width, salt=1),
        "negative_prompt_embeds": embed([99] * len(ids), tokens, width, salt=2),
    }


def pooled_text(ids: list[int]) -> dict[str, Any]:
    """Pooled embeddings (ids, 24) beside those of `encoded_text`."""
    return {
        "pooled_prompt_embeds": embed(ids, 24, salt=4),
        "negative_pooled_prompt_embeds": embed([99] * len(ids), 24, salt=4),
    }


def masked_text(ids: list[int]) -> dict[str, Any]:
    """What pipelines with an attention mask over their text are called with."""
    mask = torch.ones(len(ids), 6)
    return common(
        ids, height=32, width=32, prompt_attention_mask=mask, negative_prompt=None,
        negative_prompt_attention_mask=mask, use_resolution_binning=False, **encoded_text(ids),
    )  # fmt: skip
