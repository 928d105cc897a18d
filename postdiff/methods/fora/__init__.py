"""The method `fora`."""

from postdiff.methods.fora.method import FORA

__all__ = ["FORA"]
