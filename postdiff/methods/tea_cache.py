"""TeaCache: the change of the first block's modulated input tells how much the output will change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from postdiff.engine.errors import unknown
from postdiff.engine.intercept import beneath, intercept
from postdiff.engine.ownership import owned
from postdiff.engine.probe import first_attention_input
from postdiff.engine.residual_span import STREAMS, ResidualSpan, arguments_of, refuse_meta, stacked_blocks
from postdiff.engine.selectors import with_all_inside
from postdiff.engine.state import State
from postdiff.methods.base import Method
from postdiff.methods.options import require

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
class TeaCache(Method):
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

    def claims(self, network: nn.Module) -> list[str]:
        return with_all_inside(stacked_blocks(network, "TeaCache"))

    def attach(self, network: nn.Module, state: State) -> Iterator[AbstractContextManager[None]]:
        blocks = stacked_blocks(network, "TeaCache")
        first = next(iter(blocks.values()))
        before: dict[Any, Tensor] = {}  # modulated input of the step before, by size and branch
        sums: dict[Any, Tensor] = {}
        now: list[Tensor] = []

        def decide(branch: str, place: int, known: bool) -> Tensor:
            found, key = now[0].chunk(len(state.branches))[place], (state.size, branch)
            past, before[key] = before.get(key), found
            if past is None or not known or state.index + 1 == state.steps:
                sums[key] = torch.zeros(len(found), dtype=torch.float64, device="cpu")
                return torch.zeros(len(found), dtype=torch.bool, device="cpu")
            change = (found - past).abs().flatten(1).mean(1) / past.abs().flatten(1).mean(1)
            total = sums[key] + self._expected(change.cpu().double())
            replay = total < self.threshold
            sums[key] = torch.where(replay, total, 0)
            return replay

        def look(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            # On copies: a block that writes into its input would else have done so before it really runs.
            given = arguments_of(original, args, kwargs)
            given |= owned({name: given[name] for name in STREAMS if name in given})
            now[:] = [first_attention_input(first, "TeaCache", lambda: original(**given))]
            refuse_meta(now[0], "TeaCache")
            return forward(*args, **kwargs)

        original = beneath(first, "forward")
        yield from ResidualSpan("tea_cache", blocks, state, decide).attach()
        # Outside the span, so that it has looked before the span asks.
        yield intercept(first, "forward", look)

    def _expected(self, change: Tensor) -> Tensor:
        coefficients = POLYNOMIALS[self.polynomial] if isinstance(self.polynomial, str) else self.polynomial
        total = torch.zeros_like(change)
        for coefficient in coefficients:
            total = total * change + coefficient
        return total
