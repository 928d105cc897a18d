"""Where in a run a call stands, by the timesteps that network and solver are really given.

A pipeline may begin late (image-to-image), end early (`denoising_end`), make several runs in a call, or tell its
network the time in other units than its solver's. The list of timesteps is the solver's; which part of it is run, the
calls show.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["Timeline", "differ", "described"]


def described(arguments: dict[str, Any]) -> Any:
    """What a network is told of the time, among its arguments by name; None if it is told nothing."""
    return next((arguments[name] for name in ("timestep", "timesteps", "t") if name in arguments), None)


def differ(one: Any, other: Any) -> bool:
    """Whether two calls were told other times, as far as that can be seen without waiting for a device."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.device.type != "cpu" or other.device.type != "cpu" or one.data_ptr() == other.data_ptr():
            return False
        return float(one.max()) != float(other.max())
    return type(one) is type(other) and one != other


class Timeline:
    """The solver's timesteps while one run goes through them.

    Args:
        scheduler: timesteps have been set.
        timestep: what the first call of the run is given.
        count: number of steps that the pipeline says it makes, or None.
        wait: whether a device may be waited for to see where the run begins; else it is taken to begin at the start.

    Attributes:
        start: place of the first step in the solver's list.
        steps: number of steps.
        timesteps: those of the run, shape (steps,).
    """

    def __init__(self, scheduler: Any, timestep: Any, count: int | None, wait: bool = True) -> None:
        self.all = torch.as_tensor(scheduler.timesteps)
        self._values: list[float] | None = None
        self.start = self._start(scheduler, timestep, wait)
        rest = len(self.all) - self.start
        self.steps = count if isinstance(count, int) and 0 < count <= rest else rest
        self.timesteps = self.all[self.start : self.start + self.steps]

    def stands(self, timestep: Any, index: int) -> bool | None:
        """Whether a timestep is that of step `index` of the run; None if that cannot be told without waiting."""
        places = self._places(timestep, wait=False)
        return self.start + index in places if places else None

    def place(self, timestep: Any) -> int | None:
        """The step of the run that a timestep belongs to, counted from 0, or None."""
        places = self._places(timestep, wait=True)
        return places[0] - self.start if places else None

    def replaced(self, scheduler: Any) -> bool:
        """Whether the solver has other timesteps now."""
        now = torch.as_tensor(scheduler.timesteps)
        if now is self.all:
            return False
        return len(now) != len(self.all) or not torch.equal(now.to(self.all), self.all)

    def _start(self, scheduler: Any, timestep: Any, wait: bool) -> int:
        if (place := self._in_storage(timestep)) is not None:
            return place
        begin = getattr(scheduler, "begin_index", None)
        if isinstance(begin, int) and 0 <= begin < len(self.all):
            return begin
        places = self._places(timestep, wait)
        return places[0] if places else 0

    def _places(self, timestep: Any, wait: bool) -> list[int]:
        """Places in the solver's list that a timestep may be of, nearest first; [] if unknown or in other units."""
        if (place := self._in_storage(timestep)) is not None:
            return [place]
        if isinstance(timestep, Tensor):
            if timestep.is_meta or not timestep.numel() or not (wait or timestep.device.type == "cpu"):
                return []
            # Videos may tell every token a time of its own: that of the run, or 0 where a frame is given.
            value, dtype = float(timestep.max()), timestep.dtype
        elif isinstance(timestep, int | float):
            value, dtype = float(timestep), torch.float32
        else:
            return []
        near = abs(value) * (2 * torch.finfo(dtype).eps if dtype.is_floating_point else 0) + 1e-6
        away = [abs(known - value) for known in self._numbers()]
        return sorted((place for place, gap in enumerate(away) if gap <= near), key=away.__getitem__)

    def _numbers(self) -> list[float]:
        if self._values is None:
            self._values = [] if self.all.is_meta else self.all.tolist()
        return self._values

    def _in_storage(self, timestep: Any) -> int | None:
        """The place of an element of the list itself, or of an expanded one: known without reading from a device."""
        known = self.all
        if not isinstance(timestep, Tensor) or timestep.dtype != known.dtype or timestep.is_meta:
            return None
        single = timestep.numel() == 1 or not any(timestep.stride())
        if not single or timestep.device != known.device or not known.stride(0):
            return None
        if timestep.untyped_storage().data_ptr() != known.untyped_storage().data_ptr():
            return None
        offset = int(timestep.storage_offset()) - int(known.storage_offset())
        place, rest = divmod(offset, known.stride(0))
        return place if not rest and 0 <= place < len(known) else None
