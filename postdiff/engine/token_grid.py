"""Where the sample's own tokens stand among those that a network is handed, from what it is told of their places.

Editing pipelines put the tokens of other images behind them; text may come before all in a list of places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from postdiff.engine.errors import UsageError

__all__ = ["TELLING", "TokenGrid", "fitted", "own_tokens"]

# Arguments that tell it; looking at them waits for a GPU.
TELLING = ("img_ids", "position_ids", "img_shapes", "num_frames", "height", "width")
UNKNOWN = (
    "this pipeline packs its latents, or images with them, in a way that the driver does not know; use it as it is"
)


@dataclass(frozen=True)
class TokenGrid:
    """The sample's own tokens.

    Attributes:
        height: tokens down.
        width: tokens across.
        frames: of a video; None for images.
        others: number of other images' tokens behind them.
    """

    height: int
    width: int
    frames: int | None = None
    others: int = 0

    def __len__(self) -> int:
        return (self.frames or 1) * self.height * self.width


def own_tokens(tokens: int, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of the sample among `tokens` tokens of a row.

    Raises:
        UsageError: the network is told of their places in a way that is not known here.
    """
    found: TokenGrid | None = None
    if (ids := kwargs.get("img_ids")) is not None:
        found = _of_places(ids if ids.ndim == 2 else ids[0])
    elif (ids := kwargs.get("position_ids")) is not None:
        found = _of_places(ids[-tokens:])
    elif shapes := kwargs.get("img_shapes"):
        first, *others = shapes[0] if isinstance(shapes[0], list) else shapes[:1]
        found = TokenGrid(first[1], first[2], others=sum(frames * down * across for frames, down, across in others))
    elif kwargs.get("num_frames") is not None:
        found = TokenGrid(kwargs["height"], kwargs["width"], kwargs["num_frames"])
    if found is None or len(found) + found.others != tokens:
        raise UsageError(UNKNOWN)
    return found


def _of_places(ids: Tensor) -> TokenGrid | None:
    """From (tokens, 3 or more): image, row and column of each; own ones are of image 0."""
    image, down, across = ids[:, :3].long().cpu().unbind(1)
    own = (image == 0).nonzero().flatten()
    if not len(own) or int(own[-1]) + 1 != len(own):
        return None
    return TokenGrid(int(down[own].max()) + 1, int(across[own].max()) + 1, others=len(ids) - len(own))


def fitted(kwargs: dict[str, Any], full: TokenGrid, now: TokenGrid) -> dict[str, Any]:
    """The network's arguments for a sample of another size: what a run at that size is told of its own tokens."""
    changed = dict(kwargs)
    for name in ("img_ids", "position_ids"):
        if (ids := kwargs.get(name)) is not None:
            changed[name] = _swapped(ids, -2, _places(now, ids), full)
    if (shapes := kwargs.get("img_shapes")) is not None:
        changed["img_shapes"] = [_shapes(each, now) for each in shapes]
    if kwargs.get("num_frames") is not None:
        changed["height"], changed["width"] = now.height, now.width
    if (coordinates := kwargs.get("video_coords")) is not None:  # in seconds and pixels, which do not go by the size
        grid = coordinates.unflatten(2, (-1, full.height, full.width))
        changed["video_coords"] = grid[:, :, :, : now.height, : now.width].flatten(2, 4)
    mask = kwargs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] > len(full):  # of text and image tokens
        changed["attention_mask"] = _swapped(mask, -1, mask.new_ones(len(mask), len(now)), full)
    return changed


def _swapped(values: Tensor, dim: int, own: Tensor, full: TokenGrid) -> Tensor:
    """With `own` in the place of the own tokens' values; whatever comes before all tokens of images stays."""
    count = values.shape[dim]
    before, _, after = values.split([count - len(full) - full.others, len(full), full.others], dim)
    return torch.cat([before, own, after], dim)


def _places(grid: TokenGrid, like: Tensor) -> Tensor:
    """(..., tokens, 3 or more): image 0, row, column, and 0 for what else there is."""
    places = like.new_zeros(grid.height, grid.width, like.shape[-1])
    places[..., 1] = torch.arange(grid.height, device=like.device)[:, None]
    places[..., 2] = torch.arange(grid.width, device=like.device)
    return places.flatten(0, 1).expand(*like.shape[:-2], -1, -1)


def _shapes(told: Any, grid: TokenGrid) -> Any:
    if isinstance(told, tuple):
        return (told[0], grid.height, grid.width)
    (frames, _, _), *others = told
    return [(frames, grid.height, grid.width), *others]
