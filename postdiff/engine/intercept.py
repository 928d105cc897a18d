"""The only patching primitive: replace one callable attribute of one object for the length of a `with` block.

Several runs may share a network: two threads of a server, two pipelines with one U-Net, a call within a callback of
another. So what stands before an attribute answers for its own `Scope` alone. To all other callers the object is what
it was, and it becomes so again, attribute by attribute, when the last one leaves, in whatever order they leave.
"""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = ["Scope", "beneath", "intercept", "layers"]

_lock = threading.RLock()
_current: ContextVar[Scope | None] = ContextVar("postdiff scope", default=None)


class Scope:
    """The calls of one run, which alone see what is intercepted within it.

    An interception is noted here before it is made. So `close`, which may be called again after an interrupt cut it
    short, finds all of them, also those that no `with` statement had taken hold of yet.
    """

    def __init__(self) -> None:
        self._outer = _current.get()
        self._held: dict[int, _Interception] = {}

    @staticmethod
    def current() -> Scope | None:
        """The scope that calls from here belong to; None outside of all."""
        return _current.get()

    def open(self) -> None:
        """From now on calls in this thread belong to the scope, and so do interceptions."""
        _current.set(self)

    def close(self) -> None:
        """Back to the scope that was open before; undo every interception that is left."""
        _current.set(self._outer)
        for each in reversed(list(self._held.values())):
            each.undo()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """For calls on foreign behalf, of a user's callback: they see the objects as they are outside."""
        _current.set(self._outer)
        try:
            yield
        finally:
            _current.set(self)

    def hold(self, interception: _Interception) -> None:
        """Note what is about to be intercepted."""
        self._held[id(interception)] = interception

    def release(self, interception: _Interception) -> None:
        """Forget what has been undone."""
        self._held.pop(id(interception), None)

    def owners(self) -> list[Any]:
        """Objects of which an attribute is intercepted now."""
        return [each.owner for each in self._held.values()]


def intercept(owner: Any, name: str, around: Callable[..., Any]) -> _Interception:
    """Let `around` stand before `owner.name` until the block ends.

    Inside the block `owner.name(*args, **kwargs)` means `around(original, *args, **kwargs)`; `around` may change
    the arguments, the result, or not call `original` at all. Blocks nest: the one entered last is outermost.
    Entered in a `Scope`, it holds for the calls of that scope; entered outside of any, for all calls.
    After the last exit, also after an exception, the instance `__dict__` is as it was, key order included. A copy or
    a pickle of `owner` made inside the block has nothing of it.

    Args:
        owner: any object with a `__dict__`; a module or a scheduler here.
        name: the attribute, for instance "forward".
        around: a function.
    """
    return _Interception(owner, name, around)


def beneath(owner: Any, name: str) -> Callable[..., Any]:
    """What a call of `owner.name` from here does now, without anything that is intercepted there later."""
    site = vars(owner).get(name)
    found: Callable[..., Any] = site.seen(_current.get()) if isinstance(site, _Site) else getattr(owner, name)
    return found


def layers(owner: Any, name: str) -> int:
    """How many interceptions a call of `owner.name` from here would pass."""
    site = vars(owner).get(name)
    return site.passed(_current.get()) if isinstance(site, _Site) else 0


class _Interception:
    """One `with` block of `intercept`.

    Attributes:
        site: where it stands; None before and after.
    """

    def __init__(self, owner: Any, name: str, around: Callable[..., Any]) -> None:
        self.owner, self.name, self.around = owner, name, around
        self.scope: Scope | None = None
        self.site: _Site | None = None

    def __enter__(self) -> None:
        attributes = vars(self.owner)
        with _lock:
            found = attributes.get(self.name)
            self.site = site = found if isinstance(found, _Site) else _Site(self.owner, self.name)
            self.scope = _current.get()
            if self.scope is not None:
                self.scope.hold(self)
            site.add(self)
            attributes[self.name] = site

    def __exit__(self, *_: object) -> None:
        self.undo()

    def undo(self) -> None:
        """Take it away. May be called again, and must be if an interrupt ended the first call."""
        with _lock:
            if self.site is not None:
                self.site.remove(self)
                self.site.restore()
                self.site = None
            if self.scope is not None:
                self.scope.release(self)


class _Site:
    """Stands in the place of an attribute while anything is intercepted there, and finds what the caller is to see."""

    def __init__(self, owner: Any, name: str) -> None:
        self._owner, self._name = owner, name
        self._own = name in vars(owner)
        self._original = getattr(owner, name)
        self._layers: list[_Interception] = []
        self._chains: dict[Scope | None, Callable[..., Any]] = {None: self._original}
        # Pipelines inspect the signature of `scheduler.step` to see whether it takes `eta` or `generator`.
        functools.update_wrapper(self, self._original, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.seen(_current.get())(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # A copy of the owner gets its own attribute; what is copied without the owner is put back into it.
        if self._own:
            return copy.deepcopy(self._original, memo)
        twin = memo.get(id(self._owner))
        return self if twin is None else getattr(twin, self._name)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_itself, (self._original,)) if self._own else (getattr, (self._owner, self._name))

    def add(self, layer: _Interception) -> None:
        self._layers.append(layer)
        self._connect()

    def remove(self, layer: _Interception) -> None:
        self._layers = [each for each in self._layers if each is not layer]
        self._connect()

    def seen(self, scope: Scope | None) -> Callable[..., Any]:
        """What a caller of that scope is to see."""
        chains = self._chains
        return chains.get(scope) or chains[None]

    def passed(self, scope: Scope | None) -> int:
        return sum(layer.scope is None or layer.scope is scope for layer in self._layers)

    def restore(self) -> None:
        """Give the attribute back if nobody needs the site, unless somebody else has replaced it meanwhile."""
        attributes = vars(self._owner)
        if self._layers or attributes.get(self._name) is not self:
            return
        if self._own:
            attributes[self._name] = self._original
        else:
            del attributes[self._name]

    def _connect(self) -> None:
        # A new table in one assignment: other threads read it without the lock.
        scopes = {layer.scope for layer in self._layers}
        self._chains = {scope: self._chain(scope) for scope in (*scopes, None)}

    def _chain(self, scope: Scope | None) -> Callable[..., Any]:
        chain = self._original
        for layer in self._layers:
            if layer.scope is None or layer.scope is scope:
                # Who is around another asks for its signature too.
                link = functools.partial(layer.around, chain)
                chain = functools.update_wrapper(link, self._original, updated=())
        return chain


def _itself(value: Any) -> Any:
    return value
