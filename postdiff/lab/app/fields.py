"""Options of methods as fields of a form: made from a method's dataclass, its docstring and its checks, and back."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from dataclasses import fields as options_of
from typing import Any, Literal

import yaml

from postdiff import methods, presets, safe_yaml
from postdiff.engine.errors import UsageError, shown
from postdiff.lab.documented import docstrings, option_rules

__all__ = ["Form", "OptionField", "form", "forms", "from_spec", "spec", "stack_of"]

Kind = Literal["check", "whole", "number", "choice", "text"]


@dataclass(frozen=True)
class OptionField:
    """One option.

    Attributes:
        name: of the option.
        kind: "check" for true or false, "whole" and "number" for numbers, "choice" for one of few, or "text", which is
            read as YAML.
        default: as the form shows it; of "text" what is written there.
        choices: of "choice".
        about: what the docstring says of it, and the range that its check asks for.
    """

    name: str
    kind: Kind
    default: Any
    choices: tuple[Any, ...] = ()
    about: str = ""

    def show(self, value: Any) -> Any:
        """An option's value as the form shows it."""
        return _as_text(value) if self.kind == "text" else value

    def read(self, method: str, shows: Any) -> Any:
        """The option's value, of what the form shows.

        Args:
            method: its class's name, for the message.
            shows: what stands in the field.

        Raises:
            UsageError: nothing stands there, or text that is no YAML.
        """
        where = f"{method}: {self.name}"
        if self.kind == "text":
            if not str(shows or "").strip():
                raise UsageError(f"{where} is empty; write a value, for instance {self.default}")
            return safe_yaml.parsed(str(shows), where)
        if shows is None:
            raise UsageError(f"{where} is empty; give a value, for instance {self.default}")
        if self.kind == "number":
            return float(shows)
        if self.kind == "whole" and isinstance(shows, float) and math.isfinite(shows) and shows.is_integer():
            return int(shows)  # a browser knows one kind of number
        return shows


@dataclass(frozen=True)
class Form:
    """One method's panel.

    Attributes:
        name: of the method, as in YAML.
        title: of its class.
        about: one line.
        fields: one an option, in the order of the class.
    """

    name: str
    title: str
    about: str
    fields: tuple[OptionField, ...]


def forms() -> list[Form]:
    """Of all methods, those of one's own among them; one whose file is broken is left out."""
    found = []
    for name in methods.names():
        try:
            found.append(form(name))
        except UsageError:
            continue  # `postdiff list methods` tells of it
    return found


def form(name: str) -> Form:
    """The panel of a method.

    Raises:
        UsageError: no such method, or one that is broken.
    """
    cls = methods.find(name)
    hints, rules = typing.get_type_hints(cls), option_rules.rules(cls)
    about = docstrings.about_options(docstrings.sections(cls.__doc__ or "").get("Args", ""))
    found = []
    for option in options_of(cls):
        if not option.init:
            continue
        default = None if option.default is MISSING else option.default
        if option.default_factory is not MISSING:
            default = option.default_factory()
        kind, choices = _kind(hints[option.name])
        default = _as_text(default) if kind == "text" else default
        said = [about.get(option.name, ""), *rules.get(option.name, [])]
        found.append(OptionField(option.name, kind, default, choices, "; ".join(filter(None, said)).replace("`", "")))
    return Form(name, cls.__name__, methods.summary(name).replace("`", ""), tuple(found))


def spec(panel: Form, shows: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A method as a row of an experiment has it: {name: options that differ from their defaults}.

    Args:
        panel: of the method.
        shows: {option: what stands in its field}.

    Raises:
        UsageError: a field that cannot be read, or a value that the method refuses.
    """
    options = {field.name: field.read(panel.title, shows[field.name]) for field in panel.fields}
    [method] = presets.build_methods([{panel.name: options}])
    return {panel.name: presets.changed(method)}


def from_spec(panel: Form, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the fields of a method show for some of its options: {option: value}, the others at their defaults."""
    return {field.name: field.show(options.get(field.name, _default(field))) for field in panel.fields}


def stack_of(specs: Sequence[Any]) -> list[tuple[str, dict[str, Any]]]:
    """A stack as [(method, options that differ from their defaults)], presets taken apart.

    Args:
        specs: names of presets, or {method: {option: value}}.

    Raises:
        UsageError: a preset or method that is not known, an option out of range, or a method that stands there twice,
            which the form has no place for.
    """
    built = presets.build_methods(specs)
    names = [methods.name_of(type(method)) for method in built]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"the stack names {name} twice; this page takes each method once")
    return list(zip(names, map(presets.changed, built), strict=True))


def _default(field: OptionField) -> Any:
    return safe_yaml.parsed(field.default, field.name) if field.kind == "text" else field.default


def _kind(hint: Any) -> tuple[Kind, tuple[Any, ...]]:
    if typing.get_origin(hint) is Literal:
        return "choice", typing.get_args(hint)
    kinds: dict[Any, Kind] = {bool: "check", int: "whole", float: "number"}
    return kinds.get(hint, "text") if inspect.isclass(hint) else "text", ()


def _as_text(value: Any) -> str:
    """A value as YAML in one line."""
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf).removesuffix("...\n")
    return shown(text.strip(), 4000)
