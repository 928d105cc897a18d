"""The method `step_mask`."""

from postdiff.methods.step_mask.method import StepMask

__all__ = ["StepMask"]
