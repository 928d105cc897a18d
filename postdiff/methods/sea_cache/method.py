"""SeaCache: how much the image in the noisy latents changes, frequency by frequency, tells when to compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from postdiff.engine.blocks import stacked_blocks
from postdiff.engine.noise_levels import ratios
from postdiff.engine.replay import NETWORK, Changes, Replay, Residual, Taylor, TaylorResidual
from postdiff.engine.state import State
from postdiff.methods.base import NetworkCall
from postdiff.methods.cache import Cache
from postdiff.methods.options import require
from postdiff.methods.sea_cache.sea_filter import sea_filter

__all__ = ["SeaCache"]


@dataclass
class SeaCache(Cache):
    r"""Replay what the network adds, while changes of its filtered input add up to little.

    At every step the latents that the network is given are filtered: the noisier a frequency is at this step, the less
    of it is left. The change from the step before is |z - z0| / |z0|, means over one image. The step is replayed while
    the sum since the last computed step is below `threshold`. Every image is decided for itself, and all guidance
    branches of it alike.

    Args:
        threshold: 0 computes everything.
        power: of the filter: the power of a clean image falls with the frequency f as 1 / f^power. The authors take 2
            for images and 3 for videos.
        replay: what is replayed. "blocks": what all transformer blocks add. "prediction": what the network gives out,
            which serves U-Nets too, and leaves out whole calls, a ControlNet's with them. "residual": the same of what
            the network adds to its input.
        order: of the series that what is replayed follows, at most 10; 0 replays it as it was.
        first: steps computed at the beginning.
        last: steps computed at the end.
        in_a_row: steps replayed one after the other at most; -1 for any number.

    Equation:
        h_t = x_t + R_k + s R'_k \quad \text{while } \sum_{i=k+1}^{t} \frac{|z_i - z_{i-1}|}{|z_{i-1}|} < \delta, \qquad
        z = G * x, \quad G(f) \propto \frac{a S(f)}{a^2 S(f) + b^2}, \quad S(f) = |f|^{-p}

    Works on:
        Every family; with `replay` "blocks" transformers with a chain of blocks. The solver must tell its noise
        levels.

    Oracle:
        The hook of diffusers, and a slow reference.

    Reference:
        SeaCache, CVPR 2026, arXiv:2602.18993, as in `diffusers.hooks.sea_cache`, which filters latents; its authors
        filter the first block's modulated input.
    """

    innermost: ClassVar[float] = 0.75  # within whoever hands the network some images alone
    adaptive: ClassVar[bool] = True
    threshold: float = 0.25
    power: float = 2.0
    replay: Literal["blocks", "prediction", "residual"] = "blocks"
    order: int = 1
    first: int = 1
    last: int = 1
    in_a_row: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, self.threshold >= 0, "threshold", "0 or more")
        require(self, 0 <= self.power <= 16, "power", "from 0 to 16")
        require(self, 0 <= self.order <= 10, "order", "from 0 to 10")
        for option in ("first", "last"):
            require(self, getattr(self, option) >= 0, option, "0 or more")
        require(self, self.in_a_row >= -1, "in_a_row", "0 or more, or -1 for any number")

    def replays(self, network: nn.Module) -> list[Replay]:
        watch = _Filtered(self.threshold, options=self)
        added = TaylorResidual(self.order) if self.order else Residual()
        if self.replay != "blocks":
            fill = Taylor(self.order) if self.replay == "prediction" else added
            return [Replay(NETWORK, watch, fill, name="sea_cache")]

        def given(block: nn.Module, run: Callable[[], Any]) -> Tensor:
            return self._given[0]

        return [Replay(stacked_blocks(network, "SeaCache"), watch, added, look=given, name="sea_cache")]

    def attach(self, network: nn.Module, state: State) -> Iterator[AbstractContextManager[None]]:
        if not hasattr(self, "_given"):  # a copy for a further network is told by the method itself
            self._given: list[Tensor] = []  # the sample that the network is called for
        yield from super().attach(network, state)

    def start(self, state: State) -> None:
        super().start(state)
        self._ratios = ratios(state.scheduler, state.timesteps)

    def denoise(self, forward: NetworkCall, sample: Tensor, kwargs: dict[str, Any], state: State) -> Tensor:
        self._given[:] = [sample]
        return super().denoise(forward, sample, kwargs, state)


@dataclass
class _Filtered(Changes):
    together: ClassVar[bool] = True
    options: SeaCache | None = None

    def measure(self, past: SimpleNamespace, seen: Tensor, state: State) -> Tensor | None:
        of = self.options
        assert of is not None
        measured = super().measure(past, sea_filter(seen, of._ratios[state.index], of.power), state)
        capped = past.computed and 0 <= of.in_a_row <= past.in_a_row
        return measured if of.first <= state.index < state.steps - of.last and not capped else None

    def due(self, past: SimpleNamespace, measured: float, state: State) -> bool:
        due = super().due(past, measured, state)
        past.in_a_row += not due
        return due

    def note(self, past: SimpleNamespace, seen: Tensor, x: Tensor, y: Tensor, state: State) -> None:
        super().note(past, seen, x, y, state)
        past.in_a_row = 0
