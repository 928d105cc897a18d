"""The method `spectrum`."""

from postdiff.methods.spectrum.method import Spectrum

__all__ = ["Spectrum"]
