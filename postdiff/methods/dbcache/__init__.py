"""The method `dbcache`."""

from postdiff.methods.dbcache.method import DBCache

__all__ = ["DBCache"]
