"""The arguments of a user's call, and the callbacks among them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

from postdiff.engine.intercept import Scope

__all__ = ["by_name", "hidden", "outside"]

VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def by_name(pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of `pipe(*args, **kwargs)` by name, defaults included.

    A subclass that takes `*args, **kwargs` hands them on to its parent, whose names and defaults hold then.
    """
    calls = _signatures(pipe)
    defaults = {
        name: each.default
        for signature in reversed(calls)
        for name, each in signature.parameters.items()
        if each.default is not inspect.Parameter.empty
    }
    return defaults | dict(zip(_positional(calls), args, strict=False)) | kwargs


def hidden(pipe: Any) -> bool:
    """Whether the pipeline's own signature does not tell all of its arguments."""
    return any(each.kind in VARIABLE for each in _signatures(pipe)[0].parameters.values())


def outside(
    pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any], scope: Scope
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with every callback made to run outside of the scope.

    What a user does there, a call of the same pipeline say, is no part of the run.
    """

    def safe(name: str, value: Any) -> Any:
        return _suspending(value, scope) if name.startswith("callback") and callable(value) else value

    names = _positional(_signatures(pipe))
    named = [*names[: len(args)], *[""] * (len(args) - len(names))]
    return (
        tuple(safe(name, value) for name, value in zip(named, args, strict=True)),
        {name: safe(name, value) for name, value in kwargs.items()},
    )


def _signatures(pipe: Any) -> list[inspect.Signature]:
    """Of every `__call__` from the pipeline's class up, until one tells all of its arguments."""
    found = []
    for cls in type(pipe).__mro__:
        if "__call__" in vars(cls):
            found.append(inspect.signature(vars(cls)["__call__"]))
            if not any(each.kind in VARIABLE for each in found[-1].parameters.values()):
                break
    return found


def _positional(calls: list[inspect.Signature]) -> list[str]:
    """Names of arguments given by position, without `self`."""
    names: list[str] = []
    for signature in calls:
        own = list(signature.parameters.values())[1:]
        names += [each.name for each in own if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        if not any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in own):
            break
    return names


def _suspending(callback: Callable[..., Any], scope: Scope) -> Callable[..., Any]:
    @functools.wraps(callback, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        with scope.suspended():
            return callback(*args, **kwargs)

    if not isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
        return call
    # Pipelines ask for these classes, and for what they note of themselves.
    again = {"__call__": lambda _, *args, **kwargs: call(*args, **kwargs)}
    kind: Any = type(type(callback).__name__, (type(callback),), again)
    twin: Callable[..., Any] = kind.__new__(kind)
    vars(twin).update(vars(callback))
    return twin
