"""What differs between pipelines, as data: one row a pipeline class, so that no adapter class is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Family"]


@dataclass(frozen=True)
class Family:
    """One row of the table of pipelines.

    Attributes:
        network: attribute of the pipeline that holds the denoiser.
        second: attribute of another denoiser, which takes turns with the first within a run; pipelines may lack it.
        cfg: the branches of a classifier-free-guidance batch, in their order along dimension 0. Empty where
            guidance is embedded in the network and there is one branch only.
        step_rows: what a row of `scheduler.step`'s tensors is. "samples": one row a sample; "frames": samples x
            frames rows, frames innermost; "doubled": both guidance halves are stepped.
        controlnet: attribute of a network that runs before the denoiser, or None.
        unbatched: arguments of the network without a batch dimension: never sliced along dimension 0.
        multiples: arguments of the network with a whole multiple of the sample's rows.
        resize: arguments that are tables over the token grid, (tokens, channels), and follow the latent size.
        pixels: micro-conditioning in pixels inside `added_cond_kwargs`: it may follow the latent size.
        calls: "batched": the guidance branches are rows of one network call; "whole": so they are, and the network's
            own attention takes them apart, so that none can be left out; "separate": each has a call of its own, in the
            order of `cfg`.
        scale: the pipeline's argument that holds the guidance scale.
        prediction: what the solver is given of one branch: "solver", the network's own prediction; "negated", that with
            the other sign; "other", something the pipeline makes of it.
        rows_at: arguments of the network whose batch dimension is not the first, and which it is.
        layout: what network and solver take in the place of rows of latents. "rows": these; "list": the network takes
            a list with an item a row, and other lists of that length go with it; "tokens": both take rows of tokens,
            beside which the network may see those of other images; "last": both take rows with channels last.
        side: side in latent pixels of what the network takes as one token, where the network's config has no
            `patch_size` to tell it.
    """

    network: Literal["unet", "transformer"]
    second: str | None = None
    cfg: tuple[str, ...] = ("uncond", "cond")
    step_rows: Literal["samples", "frames", "doubled"] = "samples"
    controlnet: str | None = None
    unbatched: tuple[str, ...] = ()
    multiples: tuple[str, ...] = ()
    resize: tuple[str, ...] = ()
    pixels: tuple[str, ...] = ()
    calls: Literal["batched", "whole", "separate"] = "batched"
    scale: str = "guidance_scale"
    prediction: Literal["solver", "negated", "other"] = "solver"
    rows_at: tuple[tuple[str, int], ...] = ()
    layout: Literal["rows", "list", "tokens", "last"] = "rows"
    side: int = 1

    def networks(self, pipe: Any) -> list[nn.Module]:
        """The denoisers of a pipeline, as it calls them."""
        found = [getattr(pipe, name, None) for name in (self.network, self.second) if name]
        return [network for network in found if network is not None]

    @property
    def packed(self) -> bool:
        """Whether squares of 2 x 2 latent pixels move as a whole."""
        return self.side == 2
