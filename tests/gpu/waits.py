"""Where the CPU waits for the GPU, as torch's own debug mode tells."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["waits"]

REPORTED = "called a synchronizing CUDA operation"


def waits(call: Callable[[], object]) -> Counter[str]:
    """{"file:line": how often it waited} of one call, which must be warm."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    seen = [each for each in caught if REPORTED in str(each.message)]
    return Counter(f"{'/'.join(Path(each.filename).parts[-3:])}:{each.lineno}" for each in seen)
