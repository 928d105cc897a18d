"""The method `tome`."""

from postdiff.methods.tome.method import ToMe

__all__ = ["ToMe"]
