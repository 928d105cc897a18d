"""The range of each option, read off the checks in a method's `__post_init__`, so that pages say what the code does."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

__all__ = ["rules"]

MOMENT = "a step, or a fraction of the run from 0.0 to 1.0"
STAGES = {0: "between 0 and 1; a list rises", 1: f"{MOMENT}; a list rises and is as long as the other; or `auto`"}


def rules(cls: type[Any]) -> dict[str, list[str]]:
    """{option: its rules in words} of a method's class; an option without a check is left out."""
    own = vars(cls).get("__post_init__")
    if own is None:
        return {}
    found: dict[str, list[str]] = {}
    for option, rule in _message(ast.parse(textwrap.dedent(inspect.getsource(own))).body, {}):
        if rule not in found.setdefault(option, []):
            found[option].append(rule)
    return found


def _message(body: list[ast.stmt], loops: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    for node in body:
        if isinstance(node, ast.For) and isinstance(node.target, ast.Name):
            named = {**loops, node.target.id: [str(each) for each in ast.literal_eval(node.iter)]}
            yield from _message(node.body, named)
        elif isinstance(node, ast.FunctionDef | ast.If):
            yield from _message(node.body, loops)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from _of_call(node.value, loops)


def _of_call(call: ast.Call, loops: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    if name == "require":
        for option in _names(call.args[2], loops):
            yield option, _words(call.args[3])
    elif name == "require_moment":
        for option in _names(call.args[1], loops):
            yield option, MOMENT
    elif name == "require_stages":
        for place, argument in enumerate(call.args[1:]):
            for option in _names(argument, loops):
                yield option, STAGES[place]


def _names(node: ast.expr, loops: dict[str, list[str]]) -> list[str]:
    return loops[node.id] if isinstance(node, ast.Name) else [ast.literal_eval(node)]


def _words(node: ast.expr) -> str:
    """A rule as text; what is filled in when it fails stands there by name."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    text = re.sub(r"(\w+)=\{self\.\1\}", r"`\1`", ast.unparse(node)[2:-1])
    return re.sub(r"\{(?:self\.)?(\w+)(?::\w+)?\}", r"`\1`", text)
