"""The only patching primitive: replace one callable attribute of one object for the length of a `with` block."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["intercept"]


@contextmanager
def intercept(owner: Any, name: str, around: Callable[..., Any]) -> Iterator[None]:
    """Let `around` stand before `owner.name` until the block ends.

    Inside the block `owner.name(*args, **kwargs)` means `around(original, *args, **kwargs)`; `around` may change
    the arguments, the result, or not call `original` at all. Blocks nest: the one entered last is outermost.
    On exit, also after an exception, the instance `__dict__` is as it was, key order included.

    Args:
        owner: any object with a `__dict__`; a module or a scheduler here.
        name: the attribute, for instance "forward".
        around: a plain function or closure, never a bound method: pipelines deep-copy schedulers, and a deep copy
            of a bound method would drag along a copy of whatever it is bound to.
    """
    attributes = vars(owner)
    original = getattr(owner, name)
    own = name in attributes
    # Pipelines inspect the signature of `scheduler.step` to see whether it takes `eta` or `generator`.
    attributes[name] = functools.update_wrapper(functools.partial(around, original), original)
    try:
        yield
    finally:
        if own:
            attributes[name] = original
        else:
            del attributes[name]
