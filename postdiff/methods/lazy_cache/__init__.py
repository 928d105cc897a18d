"""The method `lazy_cache`."""

from postdiff.methods.lazy_cache.method import LazyCache

__all__ = ["LazyCache"]
