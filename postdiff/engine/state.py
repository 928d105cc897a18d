"""What methods may read while a pipeline runs: where the run stands, what is wanted now, and its only randomness."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from postdiff.engine.errors import UsageError
from postdiff.engine.family import Family

__all__ = ["State"]


@dataclass
class State:
    """One pipeline call. "Step" means solver call: PNDM makes T+1 of them and Heun 2T-1 for T inference steps.

    Attributes:
        family: the pipeline's row in the table.
        scheduler: the pipeline's scheduler.
        vae: the pipeline's autoencoder, or None.
        generators: one generator a sample, or one for the whole batch, or None if the caller gave none.
        guidance_scale: the caller's guidance scale.
        index: the current step, from 0.
        start: where the run begins in `scheduler.timesteps` (image-to-image starts late).
        steps: number of steps of this run.
        timesteps: `scheduler.timesteps` from `start` on, shape (steps,).
        all_branches: guidance branches that the pipeline sends, in order along dimension 0 of one batch or, if
            `separate`, of its calls within a step.
        branches: those of them that the network computes now; ("extra 1",) and so on in calls of a step beyond those
            of guidance (skip-layer guidance).
        images: places in the batch of the images that the present network call has rows of; all of them, unless a cache
            computes the network for some alone.
        only: set by a method in `step_start`: the one branch to compute in this step, in the place of all. The
            driver forgets it after every step, and passes over a branch that the pipeline does not send.
        network: which of the pipeline's networks, where several take turns in a run, is called now, from 0.
        network_call: number of the present network call within the run, from 1; a module that is called twice
            under one number is called twice within the network.
        span: number of steps, from `index` on, that the present network call serves; its rows are ordered branch,
            step, sample. 1 unless a method decodes several steps at once; no call reaches over a boundary or a turn.
        full_size: latent size (height, width) of the pipeline's own latents.
        size: latent size (height, width) at which the network runs now.
        boundaries: planned steps at which the size or the branches change; known from the start.
        turns: steps at which a cache turns from computing to replaying or back; nothing is lost if they never come.
        counts: what really ran: network calls, and hits and misses of every cache.
        first_rows: the network's first input, one row a sample, shape (samples, C, ..., H, W).
        first_latents: what the pipeline handed its solver first, before any method changed it: z_T.
    """

    family: Family
    scheduler: Any
    vae: Any = field(default=None, repr=False, kw_only=True)
    generators: list[torch.Generator] | torch.Generator | None = None
    guidance_scale: float = 1.0
    index: int = 0
    start: int = 0
    steps: int = 0
    timesteps: Tensor = field(default_factory=lambda: torch.empty(0, device="cpu"))
    all_branches: tuple[str, ...] = ()
    branches: tuple[str, ...] = ()
    images: tuple[int, ...] = ()
    only: str | None = None
    network: int = 0
    network_call: int = 0
    span: int = 1
    full_size: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    boundaries: set[int] = field(default_factory=set)
    turns: set[int] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    first_rows: Tensor | None = field(default=None, repr=False)
    first_latents: Tensor | None = field(default=None, repr=False)
    _rows: dict[Any, tuple[tuple[str, int], ...]] = field(default_factory=dict, init=False, repr=False)

    @property
    def separate(self) -> bool:
        """Whether each of several guidance branches comes in a network call of its own."""
        return self.family.calls == "separate" and len(self.all_branches) > 1

    @property
    def extra(self) -> bool:
        """Whether the present network call is beyond those of guidance, so that its prediction is no branch's."""
        return self.branches[0].startswith("extra")

    @property
    def rows(self) -> tuple[tuple[str, int], ...]:
        """The rows of a step in the present network call, in order: (guidance branch, place of the image)."""
        key = self.branches, self.images
        found = self._rows.get(key)
        if found is None:
            found = self._rows[key] = tuple((branch, image) for branch in self.branches for image in self.images)
        return found

    @property
    def samples(self) -> int:
        """Number of samples in the batch."""
        return len(self._initial_rows())

    def step_of(self, when: int | float, option: str) -> int:
        """Turn an option into a step: an int is a step, a float in [0, 1] a fraction of the run, rounded half up.

        Raises:
            UsageError: the step is not within 0..steps.
        """
        step = math.floor(when * self.steps + 0.5) if isinstance(when, float) else when
        if not 0 <= step <= self.steps:
            raise UsageError(f"{option}={when} is outside this run of {self.steps} steps; use 0..{self.steps}")
        return step

    def noise(self, like: Tensor) -> Tensor:
        """Standard normal noise of the shape, type and device of `like` (rows as `scheduler.step` sees them).

        Every sample draws from its own generator, so a sample does not depend on its batch. Without generators
        each sample's noise is derived from its own initial latents: still reproducible after
        `torch.manual_seed`, and the global generator is left alone. A run in half precision draws what one in float32
        draws, rounded.
        """
        rows = (
            like.shape[0] // 2 if self.family.step_rows == "doubled" and len(self.all_branches) == 2 else like.shape[0]
        )
        if isinstance(self.generators, torch.Generator):
            drawn = _draw(self.generators, like[:rows])
        else:
            generators = self.generators or [_generator_from(row) for row in self._initial_rows()]
            self.generators = generators
            if rows % len(generators):
                raise UsageError(f"{len(generators)} generators do not fit a batch of {rows} rows; give one per image")
            drawn = torch.cat(
                [_draw(g, part) for g, part in zip(generators, like[:rows].chunk(len(generators)), strict=True)]
            )
        return drawn if rows == like.shape[0] else torch.cat([drawn, drawn])

    def _initial_rows(self) -> Tensor:
        assert self.first_rows is not None, "asked for before the first network call"
        return self.first_rows


def _draw(generator: torch.Generator, like: Tensor) -> Tensor:
    # Drawn where the generator lives, as diffusers does: a CPU generator gives one image on every device. Drawn in half
    # precision the numbers would be others, and coarser.
    drawn = torch.randn(like.shape, generator=generator, device=generator.device, dtype=torch.float32)
    return drawn.to(like)


def _generator_from(row: Tensor) -> torch.Generator:
    digest = hashlib.blake2b(row.detach().float().cpu().numpy().tobytes(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))
