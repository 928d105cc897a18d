"""Silences notices that a user can do nothing about; real warnings stay."""

from __future__ import annotations

import logging
import warnings

__all__ = ["quiet"]

# Each pattern is the start of one message.
HARMLESS = (
    ".*does not have many workers",  # the data loader hands out short texts
    ".*You are using `torch.load`",
    ".*GPU available but not used",  # asked for with device=cpu
    ".*isinstance\\(treespec, LeafSpec\\)",  # an old call between two libraries
    ".*`pipeline.*safety_checker",
)


def quiet() -> None:
    """Take the hints of Lightning, diffusers and transformers off the screen."""
    for pattern in HARMLESS:
        warnings.filterwarnings("ignore", message=pattern)
    # These two announce at level INFO which devices were looked for.
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    import diffusers
    import transformers

    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()
