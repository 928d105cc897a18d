"""The overview of methods and one page a method: `python docs/program/method_pages.py` writes them to docs/methods.

All of it comes from docstrings, option fields, the checks behind them, formulas and presets. A build of the site makes
these pages anew. So a method that has no page here yet, or stands in a folder of `POSTDIFF_PATH`, is in the site too.
"""

from __future__ import annotations

import ast
import inspect
import typing
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import yaml

from postdiff import catalog, methods, presets
from postdiff.lab.documented import docstrings, option_rules

__all__ = ["main", "page", "pages", "titles"]

DOCS = Path(__file__).parents[1]
MADE = "<!-- made by docs/program/method_pages.py -->"
# {preset: what it works on} of the papers' own stacks.
STACKS = {"postdiff": "U-Nets with cross-attention", "faster_diffusion": "U-Nets, DiT and PixArt"}


def pages() -> dict[str, str]:
    """{path below docs: Markdown} of the overview and of every method."""
    return {"methods/index.md": overview()} | {f"methods/{name}.md": page(name) for name in methods.names()}


def titles() -> dict[str, str]:
    """{how the navigation calls a page: path below docs} of every method, in the order of the overview."""
    return {methods.find(name).__name__: f"methods/{name}.md" for name in methods.names()}


def overview() -> str:
    """The table of all methods, the two stacks of the papers, and how options are given."""
    lines = ["# Methods", "", "A method is one technique behind one name. Each has a page of its own.", ""]
    lines += ["| method | what it does | works on |", "| --- | --- | --- |"]
    for name in methods.names():
        cls = methods.find(name)
        where = docstrings.sections(_own(cls)).get("Works on", "")
        lines.append(f"| [{cls.__name__}]({name}.md) | {_cell(_summary(cls))} | {_cell(where)} |")
    lines += ["", "[Which methods run together](../composition.md) says what may stand in one stack.", ""]
    lines += ["## Stacks", "", "A preset names methods with their options. Two presets are a paper's whole stack.", ""]
    for name, where in STACKS.items():
        about = f"{presets.preset(name).reference}. It works on {where}."
        lines += [f"### `{name}`", "", about, "", *_preset(name), ""]
    lines += ["## Moments of a run", "", MOMENTS, "", MADE, ""]
    return "\n".join(lines)


MOMENTS = (
    "Options such as `gate` and `switch` name a moment. A whole number is a step, counted from 0. A number with a "
    "point is a fraction of the run, so `0.5` of 20 steps is step 10."
)


CODE = (
    "The tests compare the method with this code. It is written for one image, without speed and without state. "
    "`x[b]` and `y[b]` hold what a piece of the network is given and computes in branch `b`, by step. "
    "What all formulas share stands in [formulas](../../postdiff/methods/formulas/__init__.py)."
)


def page(name: str) -> str:
    """The page of one method."""
    cls = methods.find(name)
    message = docstrings.sections(_own(cls))
    lines = [f"# {cls.__name__}", "", _summary(cls), ""]
    lines += [f"`from postdiff.methods import {cls.__name__}`, and `{name}` in YAML.", ""]
    lines += ["## What it does", "", message[""], ""]
    if "Equation" in message:
        lines += ["## Equation", "", "```math", message["Equation"], "```", ""]
    lines += _formula(cls)
    if "Works on" in message:
        lines += ["## Where it works", "", message["Works on"], "", *_flags(cls)]
    lines += ["## Options", "", *_options(cls, docstrings.about_options(message.get("Args", ""))), ""]
    lines += ["## Presets", "", *_presets(name)]
    if "Reference" in message:
        lines += ["## Reference", "", message["Reference"], ""]
    tests = [test for each in _with(name).values() if len(each.methods) == 1 for test in each.oracle]
    if "Oracle" in message or tests:
        lines += ["## Checked against", "", message.get("Oracle", ""), ""]
        lines += [*(f"- `{test}`" for test in dict.fromkeys(tests)), ""]
    if images := _images().get(name):
        lines += ["## Images", ""]
        for file, about in images.items():
            lines += [f"![{about}](../../paper_figures/{file})", "", f"*{about}*", ""]
    lines += [MADE, ""]
    return "\n".join(lines)


def main() -> int:
    """Write the pages of the methods that ship."""
    for path, text in pages().items():
        (DOCS / path).parent.mkdir(exist_ok=True)
        (DOCS / path).write_text(text)
    return 0


def _own(cls: type[Any]) -> str:
    """A dataclass without a docstring has its signature for one, which tells nothing."""
    text = cls.__doc__ or ""
    return "" if text.startswith(f"{cls.__name__}(") else text


def _summary(cls: type[Any]) -> str:
    """One line: what the module's docstring begins with, or the class's."""
    module = inspect.getmodule(cls)
    text = docstrings.paragraph(inspect.cleandoc((module and module.__doc__) or _own(cls)))
    said = text.partition(": ")[2] or text
    return said[:1].upper() + said[1:]


def _formula(cls: type[Any]) -> list[str]:
    """The code of the `reference.py` that stands beside a method, without its head; nothing where none does."""
    file = Path(inspect.getfile(cls)).with_name("reference.py")
    if not file.is_file():
        return []
    text = file.read_text()
    body = next(node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef | ast.ClassDef))
    code = "\n".join(text.splitlines()[body.lineno - 1 :])
    return ["## The formula in code", "", CODE, "", "```python", code, "```", ""]


def _flags(cls: type[Any]) -> list[str]:
    said = []
    if cls.adaptive:
        said.append("It decides by the features of each image, so its work differs from image to image.")
    if cls.innermost:
        rank = "innermost" if cls.innermost >= 1 else "inside all but the innermost"
        said.append(f"It stands {rank} in a stack, wherever the stack names it.")
    return [" ".join(said), ""] if said else []


def _options(cls: type[Any], about: dict[str, str]) -> list[str]:
    if not fields(cls):
        return ["It has none."]
    lines = ["| option | default | range | meaning |", "| --- | --- | --- | --- |"]
    rules, hints = option_rules.rules(cls), typing.get_type_hints(cls)
    for option in fields(cls):
        said = rules.get(option.name, [])
        if option_rules.MOMENT not in " ".join(said):
            said = [_kind(hints[option.name]), *said]
        cells = (f"`{option.name}`", f"`{_default(option)}`", _cell("; ".join(said)), _cell(about.get(option.name, "")))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _kind(hint: Any) -> str:
    """A type as people say it."""
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(f"`{value}`" for value in typing.get_args(hint))
    known = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    if hint in known:
        return known[hint]
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is list:
        return f"a list, of each {_kind(arguments[0])}"
    if origin is tuple:
        return f"{len(arguments)} of them, each {_kind(arguments[0])}"
    if origin is dict:
        return "a mapping"
    return " or ".join(dict.fromkeys(_kind(each) for each in arguments))


def _default(option: Field[Any]) -> Any:
    if option.default_factory is not MISSING:
        return option.default_factory()
    return "none, must be given" if option.default is MISSING else option.default


def _with(name: str) -> dict[str, presets.Preset]:
    """{name of a preset: the preset} of all whose stack holds a method."""
    known = {each: presets.preset(each) for each in catalog.names("methods")}
    return {
        each: one
        for each, one in known.items()
        if any(name in spec for spec in one.methods if not isinstance(spec, str))
    }


def _presets(name: str) -> list[str]:
    lines: list[str] = []
    for each, one in _with(name).items():
        lines += [f"`{each}`, {one.label}:", "", *_preset(each), ""]
    return lines or ["None ships.", ""]


def _preset(name: str) -> list[str]:
    return ["```yaml", catalog.path("methods", name).read_text().rstrip(), "```"]


def _images() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = yaml.safe_load((Path(__file__).parent / "images.yaml").read_text())
    return found


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    raise SystemExit(main())
