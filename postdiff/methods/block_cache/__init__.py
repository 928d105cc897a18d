"""The method `block_cache`."""

from postdiff.methods.block_cache.method import BlockCache

__all__ = ["BlockCache"]
