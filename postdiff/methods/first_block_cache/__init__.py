"""The method `first_block_cache`."""

from postdiff.methods.first_block_cache.method import FirstBlockCache

__all__ = ["FirstBlockCache"]
