"""Layers of YAML merged into a dataclass: the dataclass is the schema, and every mistake is one line.

Types, choices and bounds stand in its annotations, which pydantic checks. It is asked about JSON, where nothing but a
whole number is one: no text "3", no 3.0 and no true. Types that runs and cards share stand below.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_type_hints

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

from postdiff import safe_yaml
from postdiff.engine.errors import UsageError, shown, unknown
from postdiff.engine.values import LARGEST

__all__ = [
    *("MOST_PIXELS", "Count", "DType", "Finite", "Frames", "Guidance", "Offload", "Pixels", "Seconds", "Seeds"),
    *("Strength", "Text", "Whole", "adapter", "check_device", "checked", "from_words", "merged"),
]

T = TypeVar("T")
MOST_PIXELS = 16384  # of a side; four times that of the largest published images
DEEPEST = 8  # keys below one another in one word of the command line
# By pydantic's names of errors.
KINDS = {
    "int_type": "whole number; give another value",
    "float_type": "number; give another value",
    "finite_number": "finite number; give another value",
    "string_type": "text; give another value, with quotes around it if it looks like a number",
    "bool_type": "boolean; give another value, true or false",
    "dict_type": "mapping; give another value",
}
BOUNDS = {
    "greater_than_equal": "too small; use at least",
    "greater_than": "too small; use one above",
    "less_than_equal": "too large; use at most",
}


def from_words(words: Sequence[str]) -> dict[str, Any]:
    """Turn `["steps=5", "bench.repeats=0"]` into a nested mapping; values are YAML.

    Raises:
        UsageError: a word has no '=', its value is not YAML, or it sets what another has set.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        message = shown(word)
        if not equals or not key:
            raise UsageError(f"'{message}' sets nothing; write key=value, for instance steps=10")
        value = safe_yaml.parsed(text, f"the value in '{message}'")
        *parents, last = key.split(".")
        if len(parents) >= DEEPEST:
            raise UsageError(f"'{message}' goes more than {DEEPEST} keys deep; no setting does, write fewer")
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise UsageError(f"'{message}' goes below a key that was given a value; set one or the other")
        if last in place:
            raise UsageError(f"'{message}' sets {shown(key)} once more; give it one value")
        place[last] = value
    return found


def merged(schema: type[T], layers: Sequence[tuple[str, Mapping[str, Any]]]) -> T:
    """Lay `layers` over the defaults of dataclass `schema`, the last one uppermost.

    Args:
        schema: a dataclass whose fields all have defaults; nested dataclasses are nested keys.
        layers: (where it comes from, values), for instance ("row 'deepcache'", {"steps": 20}).

    Raises:
        UsageError: an unknown key (nearest one suggested), or a value of the wrong type or out of range, in any layer.
    """
    together: Any = {}
    made, reader = schema(), adapter(cast(Any, schema))
    for where, values in layers:
        together = _laid_over(together, values)
        try:
            made = reader.validate_json(json.dumps(together, default=str), strict=True, extra="forbid")
        except ValidationError as error:
            raise UsageError(f"{where}: {_message(schema, error.errors(include_url=False)[0])}") from None
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
        except ValueError:  # Python writes no whole number beyond 4,300 digits
            raise UsageError(f"{where}: a number has more digits than anybody can mean; give another value") from None
    return made


@functools.cache
def adapter(schema: Any) -> TypeAdapter[Any]:
    """Pydantic's reader of a type, made once: that takes longer than all reading."""
    return TypeAdapter(schema)


def _laid_over(below: Any, above: Any) -> Any:
    """Mappings merge, everything else is replaced."""
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above
    return {**below, **{key: _laid_over(below.get(key), value) for key, value in above.items()}}


def _message(schema: Any, error: Any) -> UsageError:
    """The one line for what pydantic found."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    name = ".".join(part for part in error["loc"] if isinstance(part, str))
    if kind in ("value_error", "assertion_error"):  # of a check of ours, or of somebody's own class
        return UsageError(str(context["error"]))
    if kind == "unexpected_keyword_argument":
        above = name.rpartition(".")[0]
        return unknown("key", name, [f"{above}.{key}" if above else key for key in _keys(schema, error["loc"][:-1])])
    if kind == "dataclass_type":
        return UsageError(f"{name} has keys of its own ({', '.join(_keys(schema, error['loc']))}); set one of them")
    if kind == "list_type":
        return UsageError(f"{name}={shown(value)} must be a list; write {name}=[...]")
    if kind == "literal_error":
        return unknown(name, value, re.findall("'([^']*)'", context["expected"]))
    if kind in BOUNDS:
        [bound] = context.values()
        return UsageError(f"{name}={shown(value, 30)} is {BOUNDS[kind]} {int(bound) if bound == int(bound) else bound}")
    return UsageError(f"{name}: Value '{shown(value)}' is no {KINDS.get(kind, f'{kind}; give another value')}")


def _keys(schema: Any, place: Sequence[Any]) -> list[str]:
    """The keys of the dataclass that stands at a place within another one."""
    for part in place:
        hint = get_type_hints(schema)[part] if dataclasses.is_dataclass(schema) else get_args(schema)[-1]
        schema = get_args(hint)[0] if type(None) in get_args(hint) else hint
    return [field.name for field in dataclasses.fields(schema)]


def checked(check: Callable[[Any], object]) -> AfterValidator:
    """A validator of pydantic that lets a value be as it is, unless `check` raises a `UsageError`."""
    return AfterValidator(lambda value: (check(value), value)[1])


def check_device(name: str) -> None:
    """Refuse what is no name of a device, whether it is there or not.

    Raises:
        UsageError: none of auto, cpu, cuda and cuda:N.
    """
    if name not in ("auto", "cpu", "cuda") and not re.fullmatch(r"cuda:[0-9]{1,4}", name):
        raise UsageError(f"unknown device '{shown(name)}'; use auto, cpu, cuda or cuda:N")


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse seeds that are none, the same or out of range.

    Raises:
        UsageError: with the range.
    """
    if not seeds or len(set(seeds)) != len(seeds) or not all(0 <= seed < 2**63 for seed in seeds):
        raise UsageError(
            f"seeds={shown(list(seeds))} must be a list of different whole numbers from 0 and below 2**63, for "
            "instance [0,1,2]"
        )


Whole = Annotated[int, Field(ge=0, le=LARGEST)]
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
Pixels = Annotated[int, Field(ge=1, le=MOST_PIXELS)]
Guidance = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Strength = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Frames = Annotated[int, Field(ge=1, le=10_000)]
Seeds = Annotated[list[int], checked(check_seeds)]
DType = Literal["float32", "float16", "bfloat16"]
Offload = Literal["none", "model", "sequential", "group"]
# A text; people write `tags: [2026]` and `project: 7` for one as well.
Text = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
