"""What network and solver take, and rows of latents (rows, C, [frames,] H, W), which methods see in every pipeline."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from postdiff.engine import packing, token_grid
from postdiff.engine.family import Family
from postdiff.engine.fingerprint import noted, unchanged

__all__ = ["Rows", "layout_of"]

OTHERS = "tokens of other images"  # among the network's arguments, so that they are cut with the sample's rows
Size = tuple[int, int]


class Rows:
    """Rows as they are, and what the other layouts change.

    Attributes:
        side: side of a token in latent pixels, 0 if only the network knows it.
    """

    side = 0

    def opened(self, sample: Any, kwargs: dict[str, Any]) -> Any:
        """Rows, from what a network is handed; whatever else that holds is kept in `kwargs`."""
        return sample

    def closed(self, rows: Tensor, kwargs: dict[str, Any], full: Size) -> tuple[Any, dict[str, Any]]:
        """What the network takes for rows of any size, and its other arguments, made for a sample of size `full`."""
        return self.result(rows), kwargs

    def predicted(self, output: Any, rows: Tensor) -> Tensor:
        """Rows, from what the network makes of `rows`."""
        return output

    def result(self, rows: Tensor) -> Any:
        """What the pipeline takes for the network's output."""
        return rows

    def stepped(self, value: Tensor) -> Tensor:
        """Rows, from what the solver is handed."""
        return value

    def handed_back(self, rows: Tensor, like: Tensor) -> Tensor:
        """What the pipeline takes for the solver's result; `like`: what it handed the solver."""
        return rows


class _Items(Rows):
    """A list of (C, 1, H, W), an item a row."""

    def opened(self, sample: Any, kwargs: dict[str, Any]) -> Any:
        return torch.stack(sample).squeeze(2)

    def predicted(self, output: Any, rows: Tensor) -> Tensor:
        return torch.stack(list(output)).squeeze(2)

    def result(self, rows: Tensor) -> Any:
        return list(rows.unsqueeze(2).unbind())


class _ChannelsLast(Rows):
    """Rows (rows, frames, H, W, C), and a list of ranges that tells the places of their tokens."""

    def opened(self, sample: Any, kwargs: dict[str, Any]) -> Any:
        return self.stepped(sample)

    def closed(self, rows: Tensor, kwargs: dict[str, Any], full: Size) -> tuple[Any, dict[str, Any]]:
        if (ranges := kwargs.get("visual_rope_pos")) is not None:
            frames, *sides = ranges
            scale = zip(sides, rows.shape[-2:], full, strict=True)
            now = [each[: len(each) * side // whole] for each, side, whole in scale]
            kwargs = {**kwargs, "visual_rope_pos": [frames, *now]}
        return self.result(rows), kwargs

    def predicted(self, output: Any, rows: Tensor) -> Tensor:
        return self.stepped(output)

    def result(self, rows: Tensor) -> Any:
        return rows.movedim(1, -1)

    def stepped(self, value: Tensor) -> Tensor:
        return value.movedim(-1, 1)

    def handed_back(self, rows: Tensor, like: Tensor) -> Tensor:
        return self.result(rows)


class _Tokens(Rows):
    """Rows of tokens, beside which the network may see those of other images."""

    def __init__(self, side: int) -> None:
        self.side = side
        self._told: Any = None

    def opened(self, sample: Any, kwargs: dict[str, Any]) -> Any:
        told = [sample.shape[1], *(kwargs.get(name) for name in token_grid.TELLING)]
        if self._told is None or not unchanged(told, self._told):
            self._grid, self._told = token_grid.own_tokens(sample.shape[1], kwargs), noted(told)
        if self._grid.others:
            kwargs[OTHERS] = sample[:, len(self._grid) :]
        return self._unpacked(sample[:, : len(self._grid)], self._grid)

    def closed(self, rows: Tensor, kwargs: dict[str, Any], full: Size) -> tuple[Any, dict[str, Any]]:
        grid = self._grid_of(rows)
        if grid != self._grid:
            kwargs = token_grid.fitted(kwargs, self._grid, grid)
        if OTHERS not in kwargs:
            return self.result(rows), kwargs
        others = {name: value for name, value in kwargs.items() if name != OTHERS}
        return torch.cat([self.result(rows), kwargs[OTHERS]], 1), others

    def predicted(self, output: Any, rows: Tensor) -> Tensor:
        grid = self._grid_of(rows)
        return self._unpacked(output[:, : len(grid)], grid)

    def result(self, rows: Tensor) -> Any:
        return packing.pack(rows, self.side)

    def stepped(self, value: Tensor) -> Tensor:
        return self._unpacked(value, self._grid) if value.ndim == 3 else value

    def handed_back(self, rows: Tensor, like: Tensor) -> Tensor:
        return self.result(rows) if like.ndim == 3 else rows

    def _grid_of(self, rows: Tensor) -> token_grid.TokenGrid:
        height, width = (each // self.side for each in rows.shape[-2:])
        return replace(self._grid, height=height, width=width)

    def _unpacked(self, tokens: Tensor, grid: token_grid.TokenGrid) -> Tensor:
        size = grid.height * self.side, grid.width * self.side
        return packing.unpack(tokens, size, self.side, grid.frames)


def layout_of(family: Family, methods: bool) -> Rows:
    """The layout of a pipeline; without methods nobody asks what tokens are."""
    if family.layout == "list":
        return _Items()
    if family.layout == "last":
        return _ChannelsLast()
    return _Tokens(family.side) if family.layout == "tokens" and methods else Rows()
