"""The method `sea_cache`."""

from postdiff.methods.sea_cache.method import SeaCache

__all__ = ["SeaCache"]
