"""The method `easy_cache`."""

from postdiff.methods.easy_cache.method import EasyCache

__all__ = ["EasyCache"]
