"""How the parts of x_t = alpha_t up(x0) + sigma_t eps are made at a switch.

Plain is: x0 is enlarged as latents, eps is fresh, and alpha and sigma are those of the next step. All else comes from
other papers: other spaces to enlarge in, other noise, and another level.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from postdiff.engine import noise_levels, spectral
from postdiff.engine.grid import resize
from postdiff.engine.noise_levels import Estimate
from postdiff.engine.state import State
from postdiff.methods.mixed_resolution import block_noise, pixel_space

__all__ = ["Axes"]

Size = tuple[int, int]


@dataclass
class Axes:
    """The choices of one run, as the options of the same names tell them.

    Attributes:
        block: sides of a token of packed latents, else 1.
        first_noise: that of the run, for noise "shared".
    """

    space: str
    upsampling: str
    noise: str
    renoise: str
    block: int
    first_noise: Tensor | None = field(default=None, init=False)

    def note_first(self, sample: Tensor, state: State) -> None:
        """Keep what the run begins with, where it is wanted again."""
        if self.noise == "shared":
            self.first_noise = sample / state.scheduler.init_noise_sigma

    def enlarged(self, x0: Tensor, size: Size, state: State) -> Tensor:
        """up(x0), (rows, channels, ..., height, width) at (height, width) = `size`."""
        if self.space == "pixel":
            return pixel_space.enlarge(state.vae, x0, size, self.upsampling)
        if self.space == "cosine":
            return spectral.enlarge(x0, size)
        return resize(x0, size, self.upsampling)

    def level(self, low: Estimate, state: State) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) that x0 is noised to."""
        if self.renoise == "current":
            return low.alpha, low.sigma
        return noise_levels.level(state.scheduler, state.timesteps[state.index + 1].to(low.x0.device))

    def eps(self, low: Estimate, x0: Tensor, state: State) -> Tensor:
        """Noise of the enlarged `x0`'s size; `low` knows that of the last small step."""
        size = (x0.shape[-2], x0.shape[-1])
        if self.noise == "upsampled":
            return resize(low.noise, size)
        if self.noise == "shared":
            assert self.first_noise is not None, "noted at the first step"
            return resize(self.first_noise, size, block=self.block)
        fresh = state.noise(x0)
        if self.space == "cosine":
            return spectral.continued(low.noise, fresh)
        return block_noise.continued(low.noise, fresh) if self.noise == "correlated" else fresh
