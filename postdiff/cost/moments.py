"""Moments in the course of a call and the time between them, on the clock of whatever does the work.

On a GPU a moment is an event in its queue: nobody waits for it, so CPU and GPU go on working side by side, and what
lies between two events is what the GPU did, or waited for, in between.
"""

from __future__ import annotations

import time
from typing import Any

import torch

__all__ = ["CudaMoments", "Moments", "ProcessMoments", "moments_of", "wait"]


class Moments:
    """Takes moments on the process's own clock, and tells how far apart they are."""

    def now(self) -> Any:
        """This moment."""
        return time.perf_counter()

    def wait(self) -> None:
        """Wait until all moments taken have come to pass; only then may they be compared."""

    def seconds(self, first: Any, last: Any) -> float:
        """From one moment to another."""
        return float(last - first)


class ProcessMoments(Moments):
    """Of the process's own work: while another program has the processor, this clock stands.

    With one thread and an idle machine it is the time that passes.
    """

    def now(self) -> Any:
        return time.process_time()


class CudaMoments(Moments):
    """Of a CUDA device's queue, to half a microsecond or so.

    Args:
        device: the one that does the work.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def wait(self) -> None:
        torch.cuda.synchronize(self.device)

    def seconds(self, first: Any, last: Any) -> float:
        return float(first.elapsed_time(last)) / 1e3


def moments_of(pipe: Any) -> Moments:
    """Those of the device that a pipeline is on, or the first one of a cascade."""
    first = next(iter(getattr(pipe, "pipes", {}).values()), pipe)
    device = getattr(first, "device", None)
    return CudaMoments(device) if device is not None and device.type == "cuda" else Moments()


def wait(pipe: Any) -> None:
    """Wait until the pipeline's device has done all that it was asked for; of None, the current one."""
    if pipe is not None:
        moments_of(pipe).wait()
    elif torch.cuda.is_initialized():
        torch.cuda.synchronize()
