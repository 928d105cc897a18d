"""Skip transformer blocks at all but every n-th step; add what they added last time."""

from dataclasses import dataclass

from postdiff.engine.blocks import stacked_blocks
from postdiff.engine.replay import Residual, at, each
from postdiff.engine.selectors import is_unet, spatial_transformers
from postdiff.methods.cache import Cache


@dataclass
class ResidualSkipRight(Cache):
    """y_t = x_t + (f(x_k) - x_k), k the last multiple of `interval`, for every transformer block f."""

    interval: int = 2

    def replays(self, network):
        blocks = (spatial_transformers if is_unet(network) else stacked_blocks)(network, "ResidualSkip")
        return each(blocks, lambda state: at(range(0, state.steps, self.interval)), Residual(), name="residual_skip")
