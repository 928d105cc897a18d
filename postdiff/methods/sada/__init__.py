"""The method `sada`."""

from postdiff.methods.sada.method import SADA

__all__ = ["SADA"]
