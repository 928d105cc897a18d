"""Guidance on some channels only, as the original code of DiT does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from postdiff.engine.errors import UsageError
from postdiff.engine.state import State
from postdiff.methods.base import Method, NetworkCall, StepCall
from postdiff.methods.options import require

__all__ = ["GuidedChannels"]


@dataclass
class GuidedChannels(Method):
    r"""Guide the first `channels` of the prediction; the others follow the conditional branch.

    diffusers guides all four latent channels of DiT. Its original code, with which published values were made,
    guides three. The pipeline goes on guiding all, but is handed the conditional prediction for the other channels
    of both branches, and c + w (c - c) is c.

    Args:
        channels: how many are guided; 0 leaves the pipeline's own guidance. A model with no more channels is refused.

    Equation:
        \hat\epsilon_i = \begin{cases} u_i + w \, (c_i - u_i) & i < n \\ c_i & i \ge n \end{cases}
        \qquad i \text{ the channel}

    Works on:
        Every run with guidance that sends both branches in one call, on models with more channels than are guided.

    Oracle:
        The formula of DiT's original code.

    Reference:
        Peebles, Xie, "Scalable Diffusion Models with Transformers", ICCV 2023, arXiv:2212.09748, released code.
    """

    channels: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, self.channels >= 0, "channels", "0 or more")

    def start(self, state: State) -> None:
        if len(state.all_branches) == 1:
            raise UsageError("GuidedChannels: this run has no guidance; leave it out or use guidance_scale > 1")
        if state.separate:
            raise UsageError(
                "GuidedChannels needs both guidance branches at once; this pipeline computes them one by one"
            )

    def denoise(self, forward: NetworkCall, sample: Tensor, kwargs: dict[str, Any], state: State) -> Tensor:
        output = forward(sample, kwargs)
        if len(state.branches) == 1 or not self.channels:
            return output
        branches = dict(zip(state.branches, output.chunk(len(state.branches)), strict=True))
        followed = branches["cond"][:, self.channels :]
        return torch.cat([torch.cat([branches[name][:, : self.channels], followed], 1) for name in state.branches])

    def step(self, forward: StepCall, output: Tensor, timestep: Any, sample: Tensor, state: State) -> Tensor:
        if self.channels >= sample.shape[1]:
            raise UsageError(
                f"GuidedChannels: channels={self.channels}, but a model of {sample.shape[1]} channels guides no more "
                "than these; leave it out"
            )
        return forward(output, timestep, sample)
