"""The method `tgate`."""

from postdiff.methods.tgate.method import TGATE

__all__ = ["TGATE"]
