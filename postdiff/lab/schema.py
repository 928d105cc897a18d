"""Layers of YAML merged into a dataclass: the dataclass is the schema, and every mistake is one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from postdiff.engine.errors import UsageError, unknown

__all__ = ["from_words", "merged", "read_yaml"]

T = TypeVar("T")


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UsageError: the file is not YAML or holds no mapping.
    """
    try:
        found = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise UsageError(f"{file} is not valid YAML: {_one_line(error)}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{file} holds no keys; it must be a YAML mapping")
    return found


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
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"the value in '{word}' is not valid YAML: {_one_line(error)}") from None
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
    result = OmegaConf.structured(schema)
    for where, values in layers:
        check_keys(schema, values, where)
        try:
            result = OmegaConf.merge(result, OmegaConf.create(dict(values)))
        except OmegaConfBaseException as error:
            key = getattr(error, "full_key", None)
            raise UsageError(f"{where}: {f'{key}: ' if key else ''}{_one_line(error)}") from None
    try:
        return OmegaConf.to_object(result)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise UsageError(f"{layers[-1][0] if layers else schema.__name__}: {_one_line(error)}") from None


def check_keys(schema: type[Any], values: Mapping[str, Any], where: str, above: str = "") -> None:
    """Refuse keys that the dataclass does not have, also in nested dataclasses."""
    hints = get_type_hints(schema)
    for key, value in values.items():
        if key not in hints:
            choices = [above + name for name in hints]
            raise UsageError(f"{where}: {unknown('key', above + str(key), choices)}")
        nested = hints[key]
        if dataclasses.is_dataclass(nested):
            if not isinstance(value, Mapping):
                names = ", ".join(field.name for field in dataclasses.fields(nested))
                raise UsageError(f"{where}: {above}{key} has keys of its own ({names}); set one of them")
            check_keys(nested, value, where, f"{above}{key}.")  # type: ignore[arg-type]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split("\n    full_key")[0].split())
