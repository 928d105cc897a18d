"""The method `deepcache`."""

from postdiff.methods.deepcache.method import DeepCache

__all__ = ["DeepCache"]
