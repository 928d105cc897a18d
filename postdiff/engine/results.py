"""What a network gives out, and what a pipeline is handed in its place."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from postdiff.engine.rows import map_tensors

__all__ = ["LEFT_OUT_FURTHER", "first", "handed_over", "more_than_one"]

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
