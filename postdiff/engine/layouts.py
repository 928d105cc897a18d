"""What network and solver take, and rows of latents (rows, C, [frames,] H, W), which methods see in every pipeline."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from postdiff.engine import packing, token_grid
from postdiff.engine.family_row import Family
from postdiff.engine.fingerprint import noted, unchanged
from postdiff.engine.rows import map_tensors

__all__ = ["LEFT_OUT_FURTHER", "Rows", "first", "handed_over", "layout_of", "more_than_one"]

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
        before, own, after = self._apart(sample, self._grid)
        if self._grid.before + self._grid.after:
            kwargs[OTHERS] = torch.cat([before, after], 1)
        return self._unpacked(own, self._grid)

    def closed(self, rows: Tensor, kwargs: dict[str, Any], full: Size) -> tuple[Any, dict[str, Any]]:
        grid = self._grid_of(rows)
        if grid != self._grid:
            kwargs = token_grid.fitted(kwargs, self._grid, grid)
        if OTHERS not in kwargs:
            return self.result(rows), kwargs
        before, after = kwargs[OTHERS].split([grid.before, grid.after], 1)
        kwargs = {name: value for name, value in kwargs.items() if name != OTHERS}
        return torch.cat([before, self.result(rows), after], 1), kwargs

    def predicted(self, output: Any, rows: Tensor) -> Tensor:
        grid = self._grid_of(rows)
        return self._unpacked(self._apart(output, grid)[1], grid)

    def result(self, rows: Tensor) -> Any:
        return packing.pack(rows, self.side)

    def stepped(self, value: Tensor) -> Tensor:
        return self._unpacked(value, self._grid) if value.ndim == 3 else value

    def handed_back(self, rows: Tensor, like: Tensor) -> Tensor:
        return self.result(rows) if like.ndim == 3 else rows

    def _grid_of(self, rows: Tensor) -> token_grid.TokenGrid:
        height, width = (each // self.side for each in rows.shape[-2:])
        return replace(self._grid, height=height, width=width)

    def _apart(self, tokens: Tensor, grid: token_grid.TokenGrid) -> tuple[Tensor, ...]:
        return tokens.split([grid.before, len(grid), tokens.shape[1] - grid.before - len(grid)], 1)

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


# Of a pipeline, where a cache leaves out calls of its network.
LEFT_OUT_FURTHER = (
    "takes more of its network than the prediction of one image or video, so its calls cannot be left out; use a "
    "method that acts within the network"
)


class Prediction(SimpleNamespace):
    """In the place of what a network gives out, where it was not called; read by name or by place."""

    def __getitem__(self, place: Any) -> Any:
        return list(vars(self).values())[place]


def first(result: Any) -> Any:
    """The prediction in what a network gives out."""
    return result[0] if isinstance(result, tuple) else result.sample


def more_than_one(result: Any) -> bool:
    """Whether a network gives out further tensors beside its prediction."""
    return isinstance(result, tuple) and any(isinstance(each, Tensor) for each in result[1:])


def handed_over(raw: list[Any], output: Any, rows: int, return_dict: bool) -> Any:
    """What the pipeline is given in the place of its network's result.

    Args:
        raw: that result, if it was called.
        output: the prediction, of so many `rows`.
        return_dict: as the pipeline asks for it.
    """
    if return_dict:
        return type(raw[0])(**{**raw[0], "sample": output}) if raw else Prediction(sample=output)
    further, times = raw[0][1:] if raw else (), rows // len(first(raw[0])) if raw else 1
    # One branch may stand for all, in sound as in video.
    return (output, *(map_tensors(lambda each: torch.cat([each] * times), further) if times > 1 else further))
