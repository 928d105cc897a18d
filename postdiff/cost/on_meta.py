"""Running a pipeline whose network lives on the meta device: shapes and MACs of real-size models without weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from postdiff.engine.rows import map_tensors
from postdiff.engine.state import State
from postdiff.methods.base import ControlNetCall, Method, NetworkCall

__all__ = ["OnMeta", "Seen", "pin_to_cpu"]


@dataclass
class Seen:
    """What the network was asked for in one call of the pipeline.

    Attributes:
        branches: {step: guidance branches computed}; a step without a network call is left out.
        sizes: {step: latent size (height, width) at which the network ran}.
        latents: size of the pipeline's own latents.
        frames: length of a video in latents; 1 for images.
        prompts: guidance branches that the pipeline sends, each with a prompt of its own.
    """

    branches: dict[int, int] = field(default_factory=dict)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    latents: tuple[int, int] = (0, 0)
    frames: int = 1
    prompts: int = 1


@dataclass
class OnMeta(Method):
    """Hand the network its arguments on the meta device and return zeros. Must be the last of a stack.

    Scheduler and pipeline go on with real numbers; caches of other methods hold meta tensors.

    Args:
        seen: where to note what came along.
    """

    innermost: ClassVar[bool] = True
    seen: Seen = field(default_factory=Seen)
    _computed: dict[int, set[str]] = field(default_factory=dict, init=False, repr=False)

    def denoise(self, forward: NetworkCall, sample: Tensor, kwargs: dict[str, Any], state: State) -> Tensor:
        output = forward(sample.to("meta"), map_tensors(lambda tensor: tensor.to("meta"), kwargs))
        # Branches may come one by one; SD3's skip-layer guidance calls twice a step, first for all branches.
        computed = self._computed.setdefault(state.index, set())
        computed.update(branch for branch in state.branches if branch in state.all_branches or not computed)
        self.seen.branches[state.index] = len(computed)
        self.seen.sizes[state.index] = state.size
        self.seen.latents, self.seen.prompts = state.full_size, len(state.all_branches)
        self.seen.frames = sample.shape[2] if sample.ndim == 5 else 1
        return torch.zeros(output.shape, dtype=output.dtype)

    def condition(self, forward: ControlNetCall, kwargs: dict[str, Any], state: State) -> Any:
        # Its residuals stay on the meta device: nothing but the network reads them.
        return forward(map_tensors(lambda tensor: tensor.to("meta"), kwargs))


def pin_to_cpu(pipe: Any) -> Any:
    """Let a pipeline work on the CPU although its network is on the meta device; returns the same object."""
    cls = type(pipe)
    device = property(lambda self: torch.device("cpu"))
    pipe.__class__ = type(cls.__name__, (cls,), {"_execution_device": device, "device": device})
    return pipe
