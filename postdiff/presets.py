"""Operating points: a YAML file names an ordered stack of methods with their settings.

One method's stand in its folder, `methods/<method>/preset.yaml` being called as the method is; those of several methods
are `configs/methods/<name>.yaml` (`catalog`).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from postdiff import catalog, methods
from postdiff.engine import plugins
from postdiff.engine.errors import UsageError, shown, unknown

if TYPE_CHECKING:
    from postdiff.methods.base import Method

__all__ = ["Preset", "as_python", "build_methods", "changed", "describe", "preset"]

Spec = str | Mapping[str, Any]


@dataclass(frozen=True)
class Preset:
    """One YAML file.

    Attributes:
        label: how tables call it.
        reference: the publication whose setting it is.
        methods: specs of the stack, first outermost.
        identity: the same stack in a setting that must reproduce the baseline; tests use it.
        saves: whether it lowers the MACs; tests check it.
        oracle: the tests, FILE::TEST, that hold it to the authors' code or to a slow reference.
    """

    label: str
    reference: str
    methods: tuple[Spec, ...]
    identity: tuple[Spec, ...]
    saves: bool = True
    oracle: tuple[str, ...] = ()


def preset(name: str) -> Preset:
    """Read one preset.

    Raises:
        UsageError: no such preset, or keys that do not belong there.
    """
    file = catalog.path("methods", name)
    content = catalog.read(file)
    allowed = [field.name for field in fields(Preset)]
    for key in content:
        if key not in allowed:
            called = f"{file.parent.name}/{file.name}" if file.stem == "preset" else file.name
            raise unknown(f"key in {called}", key, allowed)
    missing = [key for key in allowed[:4] if key not in content]
    if missing:
        raise UsageError(f"{file} lacks: {', '.join(missing)}; add them")
    for key in ("methods", "identity", "oracle"):
        if not isinstance(content.get(key), list | None):
            raise UsageError(f"{file}: {key}={shown(content[key])} must be a list; write {key}: [...]")
    if not isinstance(saves := content.get("saves", True), bool):
        raise UsageError(f"{file}: saves={shown(saves)} must be true or false")
    stacks = {key: tuple(content[key] or ()) for key in ("methods", "identity")}
    oracle = tuple(map(str, content.get("oracle") or ()))
    return Preset(str(content["label"]), str(content["reference"]), **stacks, saves=saves, oracle=oracle)


def build_methods(specs: Sequence[Spec], within: tuple[str, ...] = ()) -> list[Method]:
    """Instances of a stack.

    Args:
        specs: each one the name of a preset, or a mapping {method name: {option: value}} with one key.
        within: presets that name these.

    Raises:
        UsageError: unknown preset, method or option, a value out of range, or a method whose file is broken.
    """
    built: list[Method] = []
    for spec in specs:
        if isinstance(spec, str):
            if spec in within:
                raise UsageError(f"preset '{spec}' names itself among its methods; name methods there")
            built.extend(build_methods(preset(spec).methods, (*within, spec)))
        elif isinstance(spec, Mapping) and len(spec) == 1:
            [(name, options)] = spec.items()
            built.append(_build(name, {} if options is None else options))
        else:
            raise UsageError(
                f"a method is written as a preset's name or as {{name: {{option: value}}}}, not {shown(repr(spec))}"
            )
    return built


def _build(name: str, options: Mapping[str, Any]) -> Method:
    cls = methods.find(name)
    if not isinstance(options, Mapping):
        raise UsageError(f"options of {name} are written as {{{name}: {{option: value}}}}, not {shown(repr(options))}")
    allowed = [field.name for field in fields(cls)]
    for option in options:
        if ":" in str(option):
            raise UsageError(f"option '{shown(option)}' of {name} has no value; YAML wants a space after the colon")
        if option not in allowed:
            raise unknown(f"option of {name}", option, allowed)
    for each in fields(cls):
        if each.init and each.default is each.default_factory is MISSING and each.name not in options:
            raise UsageError(f"{name} needs the option '{each.name}'; write {{{name}: {{{each.name}: ...}}}}")
    try:
        method = cls(**options)
        json.dumps(_options(method))
    except UsageError:
        raise
    except Exception as error:  # a class of somebody's own may raise anything
        raise plugins.broken("methods", name, "built", error, inspect.getfile(cls)) from error
    return method


def describe(stack: Sequence[Method]) -> list[dict[str, Any]]:
    """A stack as data, every option spelt out: [{method name: {option: value}}, ...].

    Options that a method has got later are left out at their default: what is described is part of identities.
    """
    return [{methods.name_of(type(method)): _options(method)} for method in stack]


def changed(method: Method) -> dict[str, Any]:
    """Options of a method that differ from their defaults, {option: value}; tuples as lists, as YAML has them."""
    found = {}
    for each in fields(method):
        value = getattr(method, each.name)
        default = each.default if each.default_factory is MISSING else each.default_factory()
        value, default = ([*one] if isinstance(one, tuple) else one for one in (value, default))
        if each.init and value != default:
            found[each.name] = value
    return found


def as_python(method: Method) -> str:
    """A method as it is written in Python, `DeepCache(interval=3)`: what differs from the defaults."""
    return f"{type(method).__name__}({', '.join(f'{name}={value!r}' for name, value in changed(method).items())})"


def _options(method: Method) -> dict[str, Any]:
    default = {option.name: option.default for option in fields(method) if option.metadata.get("later")}
    return {name: value for name, value in asdict(method).items() if name not in default or value != default[name]}
