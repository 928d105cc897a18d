"""The method `taylor_seer`."""

from postdiff.methods.taylor_seer.method import TaylorSeer

__all__ = ["TaylorSeer"]
