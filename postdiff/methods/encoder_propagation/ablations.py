"""What else can be kept between key steps: the ablations of Faster Diffusion's Table 14.

The paper does not give their wiring, so this is ours. The finest up block always runs: without it nothing of a step
would enter its prediction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from postdiff.engine.errors import UsageError
from postdiff.engine.halves import EncoderDecoderSplit
from postdiff.methods.base import NetworkCall

__all__ = ["Ablation"]


@dataclass
class Ablation:
    """One of them, in one run; always sequential.

    Attributes:
        propagate: "decoder" keeps the up blocks but the finest, "both" these and the encoder; "nothing" keeps nothing,
            computes nothing between key steps and predicts zero there.
    """

    propagate: Literal["decoder", "both", "nothing"]
    _shape: tuple[int, ...] = field(default=(), init=False)  # of a prediction for one row

    @property
    def holds_control(self) -> bool:
        """Whether a ControlNet, which belongs to the encoder, is held between key steps."""
        return self.propagate == "both"

    def kept(self, network: nn.Module, halves: EncoderDecoderSplit) -> dict[str, nn.Module]:
        """The modules whose outputs are kept.

        Raises:
            UsageError: a network without skip connections, or with one up block alone.
        """
        if self.propagate == "nothing":
            return {}
        if not halves.skips:
            raise UsageError(
                f"EncoderPropagation: propagate='{self.propagate}' needs skip connections, which "
                f"{type(network).__name__} has not; use 'encoder'"
            )
        coarse = dict(list(halves.decoder.items())[:-1])
        if self.propagate == "both":
            return {**halves.encoder, **coarse}
        if not coarse:
            raise UsageError(
                "EncoderPropagation: propagate='decoder' keeps all up blocks but the finest, and "
                f"{type(network).__name__} has no other; use 'encoder'"
            )
        return coarse

    def denoise(self, forward: NetworkCall, sample: Tensor, kwargs: dict[str, Any], key: bool) -> Tensor:
        """The prediction; `key` says whether this is a key step, as the first one always is."""
        if self.propagate == "nothing" and not key:
            return sample.new_zeros(len(sample), *self._shape)
        output = forward(sample, kwargs)
        self._shape = tuple(output.shape[1:])
        return output
