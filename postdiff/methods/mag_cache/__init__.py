"""The method `mag_cache`."""

from postdiff.methods.mag_cache.method import MagCache

__all__ = ["MagCache"]
