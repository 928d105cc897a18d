"""The method `tea_cache`."""

from postdiff.methods.tea_cache.method import TeaCache

__all__ = ["TeaCache"]
