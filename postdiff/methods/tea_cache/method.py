"""TeaCache: the change of the first block's modulated input tells how much the output will change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from torch import Tensor, nn

from postdiff.engine.blocks import stacked_blocks
from postdiff.engine.errors import unknown
from postdiff.engine.replay import Changes, Replay, Residual
from postdiff.engine.state import State
from postdiff.methods.cache import Cache
from postdiff.methods.options import require
from postdiff.methods.tea_cache.probe import first_attention_input

__all__ = ["POLYNOMIALS", "TeaCache"]

# Change of the output expected from a change of the modulated input, highest power first, as published with the
# authors' code for each model (its repository, 2025-06); "identity" takes the change as it is.
POLYNOMIALS: dict[str, list[float]] = {
    "identity": [1.0, 0.0],
    "flux": [498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861],
    "hunyuan_video": [733.226126, -401.131952, 67.5869174, -3.149878, 0.0961237896],
    "ltx_video": [21.4700694, -12.8016453, 2.31279151, 0.792487521, 0.00969274326],
    "lumina": [393.76566581, -603.50993606, 209.10239044, -23.00726601, 0.86377344],
    "mochi": [-3512.41319, 811.675948, -60.9400215, 2.42429681, 0.00305291719],
}


@dataclass
class TeaCache(Cache):
    r"""Replay what all transformer blocks added, while the changes expected of the output add up to little.

    At every step the input of the first block's attention, after modulation by the time embedding, is compared with
    that of the step before: |m - m0| / |m0|, means over the tokens of one row. A polynomial turns this into the
    change expected of the output. The step is replayed while the sum since the last computed step is below
    `threshold`. The first and the last step are computed. Every row of the batch is decided for itself.

    Args:
        threshold: 0 computes everything.
        polynomial: coefficients, highest power first, or the name of a published set: identity, flux,
            hunyuan_video, ltx_video, lumina, mochi.

    Equation:
        h_t = x_t + R_k \quad \text{while } \sum_{i=k+1}^{t} p \left( \frac{|m_i - m_{i-1}|}{|m_{i-1}|} \right) < \delta

    Works on:
        Transformers with a chain of blocks.

    Oracle:
        A slow reference with the sum written out.

    Reference:
        Liu et al., "Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model", CVPR 2025,
        arXiv:2411.19108.
    """

    adaptive: ClassVar[bool] = True
    threshold: float = 0.25
    polynomial: str | list[float] = "identity"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, self.threshold >= 0, "threshold", "0 or more")
        if isinstance(self.polynomial, str):
            if self.polynomial not in POLYNOMIALS:
                raise unknown("polynomial of TeaCache", self.polynomial, POLYNOMIALS)
        else:
            require(self, len(self.polynomial) > 0, "polynomial", "at least one coefficient")

    def replays(self, network: nn.Module) -> list[Replay]:
        def modulated(block: nn.Module, run: Callable[[], Any]) -> Tensor:
            return first_attention_input(block, "TeaCache", run)

        watch = _Changes(self.threshold, self._expected)
        return [Replay(stacked_blocks(network, "TeaCache"), watch, Residual(), look=modulated, name="tea_cache")]

    def _expected(self, change: float) -> float:
        expected = 0.0
        for coefficient in POLYNOMIALS[self.polynomial] if isinstance(self.polynomial, str) else self.polynomial:
            expected = expected * change + coefficient
        return expected


class _Changes(Changes):
    def measure(self, past: SimpleNamespace, seen: Tensor, state: State) -> Tensor | None:
        found = super().measure(past, seen, state)
        return None if state.index + 1 == state.steps else found
