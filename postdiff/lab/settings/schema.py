"""Layers of YAML merged into a dataclass: the dataclass is the schema, and every mistake is one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from postdiff import catalog
from postdiff.engine.errors import UsageError, unknown

__all__ = ["from_words", "merged", "read_yaml"]

T = TypeVar("T")


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UsageError: the file is not YAML or holds no mapping.
    """
    return catalog.read(file)


def from_words(words: Sequence[str]) -> dict[str, Any]:
    """Turn `["steps=5", "bench.repeats=0"]` into a nested mapping; values are YAML.

    Raises:
        UsageError: a word has no '=' or its value is not YAML.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UsageError(f"'{word}' sets nothing; write key=value, for instance steps=10")
        value = catalog.parsed(text, f"the value in '{word}'")
        *parents, last = key.split(".")
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise UsageError(f"'{word}' goes below a key that was given a value; set one or the other")
        place[last] = value
    return found


def merged(schema: type[T], layers: Sequence[tuple[str, Mapping[str, Any]]]) -> T:
    """Lay `layers` over the defaults of dataclass `schema`, the last one uppermost.

    Args:
        schema: a dataclass; nested dataclasses are nested keys.
        layers: (where it comes from, values), for instance ("row 'deepcache'", {"steps": 20}).

    Raises:
        UsageError: an unknown key (nearest one suggested) or a value of the wrong type.
    """
    for where, values in layers:
        check_keys(schema, values, where)
    together: dict[str, Any] = {}
    for _, values in layers:
        together = _laid_over(together, values)
    try:
        return _typed(schema, together)
    except (OmegaConfBaseException, TypeError) as error:
        raise UsageError(f"{_culprit(schema, layers)}{_one_line(error)}; give another value") from None


def _typed(schema: type[T], values: Mapping[str, Any]) -> T:
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), dict(values)))  # type: ignore[return-value]


def _culprit(schema: type[Any], layers: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Where the value of a wrong type comes from: the first layer that fails by itself, and the key."""
    for where, values in layers:
        try:
            _typed(schema, values)
        except (OmegaConfBaseException, TypeError) as error:
            key = getattr(error, "full_key", None)
            return f"{where}: {key}: " if key else f"{where}: "
    return f"{layers[-1][0]}: " if layers else f"{schema.__name__}: "


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merge, everything else is replaced."""
    found = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = _laid_over(found[key], value) if both else value
    return found


def check_keys(schema: type[Any], values: Mapping[str, Any], where: str, above: str = "") -> None:
    """Refuse keys that the dataclass does not have, also in nested ones, and what is no list where one belongs."""
    hints = get_type_hints(schema)
    for key, value in values.items():
        if key not in hints:
            choices = [above + name for name in hints]
            raise UsageError(f"{where}: {unknown('key', above + str(key), choices)}")
        nested = hints[key]
        lists = any(get_origin(hint) is list for hint in (nested, *get_args(nested)))
        if lists and value is not None and not isinstance(value, list | tuple):
            raise UsageError(f"{where}: {above}{key}={value} must be a list; write {above}{key}=[...]")
        inside = {f"{above}{key}": (nested, value)}
        if get_origin(nested) is dict and dataclasses.is_dataclass(get_args(nested)[1]):
            # Names of the file's own choice, each with the keys of one dataclass.
            if not isinstance(value, Mapping):
                raise UsageError(f"{where}: {above}{key}={value} must be a mapping of names to keys and values")
            inside = {f"{above}{key}.{name}": (get_args(nested)[1], each) for name, each in value.items()}
        for place, (kind, each) in inside.items():
            if dataclasses.is_dataclass(kind):
                if not isinstance(each, Mapping):
                    names = ", ".join(field.name for field in dataclasses.fields(kind))
                    raise UsageError(f"{where}: {place} has keys of its own ({names}); set one of them")
                check_keys(kind, each, where, f"{place}.")  # type: ignore[arg-type]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split("\n    full_key")[0].split())
