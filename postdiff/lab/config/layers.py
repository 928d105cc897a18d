"""Layers of YAML merged into a dataclass: the dataclass is the schema, and every mistake is one line."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from postdiff import catalog, safe_yaml
from postdiff.engine.errors import UsageError, shown, unknown
from postdiff.engine.values import fits

__all__ = ["from_words", "merged", "read_yaml"]

T = TypeVar("T")
DEEPEST = 8  # keys below one another in one word of the command line
KINDS = {int: "Integer", float: "Float", str: "String", bool: "Boolean", dict: "Mapping"}
HINTS = {bool: "true or false", str: "a text, with quotes around it if it looks like a number"}


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UsageError: the file is not YAML or holds no mapping.
    """
    return catalog.read(file)


def from_words(words: Sequence[str]) -> dict[str, Any]:
    """Turn `["steps=5", "bench.repeats=0"]` into a nested mapping; values are YAML.

    Raises:
        UsageError: a word has no '=', its value is not YAML, or it sets what another has set.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        told = shown(word)
        if not equals or not key:
            raise UsageError(f"'{told}' sets nothing; write key=value, for instance steps=10")
        value = safe_yaml.parsed(text, f"the value in '{told}'")
        *parents, last = key.split(".")
        if len(parents) >= DEEPEST:
            raise UsageError(f"'{told}' goes more than {DEEPEST} keys deep; no setting does, write fewer")
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise UsageError(f"'{told}' goes below a key that was given a value; set one or the other")
        if last in place:
            raise UsageError(f"'{told}' sets {shown(key)} once more; give it one value")
        place[last] = value
    return found


def merged(schema: type[T], layers: Sequence[tuple[str, Mapping[str, Any]]]) -> T:
    """Lay `layers` over the defaults of dataclass `schema`, the last one uppermost.

    Args:
        schema: a dataclass; nested dataclasses are nested keys. A field's metadata may hold a "check", as those of
            `postdiff.engine.values` are.
        layers: (where it comes from, values), for instance ("row 'deepcache'", {"steps": 20}).

    Raises:
        UsageError: an unknown key (nearest one suggested), or a value of the wrong type or out of range, in any layer.
    """
    together: dict[str, Any] = {}
    for where, values in layers:
        try:
            together = _laid_over(together, _checked(schema, values, ""))
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
    return _built(schema, together)


@functools.cache
def _fields(schema: Any) -> dict[str, tuple[Any, Any]]:
    """{name: (annotation, check or None)}; working annotations out takes longer than all else here."""
    hints = get_type_hints(schema)
    return {each.name: (hints[each.name], each.metadata.get("check")) for each in dataclasses.fields(schema)}


def _checked(schema: Any, values: Any, above: str) -> dict[str, Any]:
    """The values of a dataclass, or of some of its fields, as its annotations have them; nested ones as mappings."""
    known = _fields(schema)
    if not isinstance(values, Mapping):
        raise UsageError(f"{above[:-1]} has keys of its own ({', '.join(known)}); set one of them")
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise unknown("key", above + str(key), [above + name for name in known])
        hint, check = known[key]
        name = above + key
        found[key] = _value(hint, value, name)
        if check is not None and found[key] is not None:
            check(name, found[key])
    return found


def _value(hint: Any, value: Any, name: str) -> Any:
    """A value as its annotation has it: whole numbers as floats and as text where these belong, and no more."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] if type(None) in get_args(hint) else [hint]
    [kind] = kinds
    if value is None and kind is not hint:
        return None
    origin, inside = get_origin(kind) or kind, get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _checked(kind, value, f"{name}.")
    if origin is list:
        if not isinstance(value, list | tuple):
            raise UsageError(f"{name}={shown(value)} must be a list; write {name}=[...]")
        return [_value(inside[0], item, name) for item in value]
    if origin is dict and isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise UsageError(f"{name}={shown(value)} has keys that are no text; put quotes around them")
        return {key: _value(inside[1], item, f"{name}.{key}") for key, item in value.items()}
    if kind is Any:
        return _plain(value, name)
    if origin is dict and dataclasses.is_dataclass(inside[1]):
        raise UsageError(f"{name}={shown(value)} must be a mapping of names to keys and values")
    if kind in (float, str) and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = kind(value)
        except (OverflowError, ValueError):  # more digits than a float or a text can take
            raise UsageError(f"{name} has more digits than anybody can mean; give another value") from None
    if not fits(value, kind):
        hint = f", {HINTS[origin]}" if origin in HINTS else ""
        raise UsageError(f"{name}: Value '{shown(value)}' is no {KINDS[origin]}; give another value{hint}")
    return _plain(value, name)


def _plain(value: Any, name: str) -> Any:
    """The value itself, unless a text in it asks to be filled in: a file that one is given could read secrets so."""
    if isinstance(value, Mapping):
        return {key: _plain(item, name) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, name) for item in value]
    if isinstance(value, str) and "${" in value:
        raise UsageError(f"{name}: '{shown(value)}' is not filled in from anywhere; write the value itself")
    return value


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merge, everything else is replaced."""
    found = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = _laid_over(found[key], value) if both else value
    return found


def _built(schema: Any, values: Mapping[str, Any]) -> Any:
    given: dict[str, Any] = {}
    for name, value in values.items():
        hint, inside = _fields(schema)[name][0], get_args(_fields(schema)[name][0])
        if dataclasses.is_dataclass(hint):
            value = _built(hint, value)
        elif get_origin(hint) is list and dataclasses.is_dataclass(inside[0]):
            value = [_built(inside[0], each) for each in value]
        elif get_origin(hint) is dict and dataclasses.is_dataclass(inside[1]):
            value = {key: _built(inside[1], each) for key, each in value.items()}
        given[name] = value
    return schema(**given)
