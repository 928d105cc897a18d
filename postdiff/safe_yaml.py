"""YAML as people mean it: the core schema of version 1.2, bounded before anything is built of it.

Version 1.1, which most readers still follow, turns `1:30` into 90, `017` into 15, `off` into false and `2026-01-01`
into a date. Here they are text, and a number with a zero in front is refused. Keys are always text, as written. Aliases
and `<<` work as ever, as long as what they stand for stays small.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml

from postdiff.engine.errors import HIDDEN, UsageError

__all__ = ["MOST_CHARACTERS", "parsed"]

MOST_CHARACTERS, MOST_IN_A_TEXT = 4_000_000, 10_000
MOST_VALUES = 200_000  # every alias counts as all that it stands for
DEEPEST = 50

_TAG = "tag:yaml.org,2002:"
_NULL, _MERGE = re.compile("~|null|Null|NULL|"), re.compile("<<")
_BOOL = re.compile("true|True|TRUE|false|False|FALSE")
_INT = re.compile("[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
# A line break or a tab may stand in a text; what moves a terminal's cursor or hides words may not.
_UNWANTED = re.compile(rf"(?![\n\t]){HIDDEN.pattern}")


def parsed(text: str, where: str) -> Any:
    """The value that YAML text stands for: mappings with text as keys, lists, text, numbers, truth values, None.

    Args:
        text: YAML, one document.
        where: what it is, for messages.

    Raises:
        UsageError: it is not YAML, has a key twice, an ambiguous number, a hidden character or `${`, or is too large:
            more than `MOST_VALUES` values, nested deeper than `DEEPEST`, or a text above `MOST_IN_A_TEXT` characters.
    """
    if len(text) > MOST_CHARACTERS:
        raise UsageError(f"{where} has more than {MOST_CHARACTERS} characters; write less")
    try:
        _refuse_large(text)
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        last = text.rstrip().count("\n")  # a file that ends too early is not wrong below its end
        place = f" at line {min(mark.line, last) + 1}, column {mark.column + 1}" if mark else ""
        raise UsageError(f"{where} is not valid YAML{place} ({error.problem}); mend it") from None
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UsageError(f"{where} is not valid YAML ({reason}); mend it") from None


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the fast one, where it is built
    """Resolves and builds what the core schema knows, and nothing else."""

    yaml_implicit_resolvers: ClassVar[dict[str | None, Any]] = {}
    yaml_constructors: ClassVar[dict[str | None, Any]] = {}

    def scalar(self, node: Any) -> Any:
        """A text, number, truth value or None."""
        kind, text = node.tag.removeprefix(_TAG), node.value
        if not isinstance(node, yaml.ScalarNode):
            raise _mistake(f"{node.tag} is for a single value", node)
        known = {"int": _INT, "float": _FLOAT, "bool": _BOOL, "null": _NULL}
        if kind in known and not known[kind].fullmatch(text):
            raise _mistake(f"'{text[:40]}' is no {kind}", node)
        if kind == "int":
            if re.fullmatch("[-+]?0[0-9]+", text):
                plain = text.lstrip("+-0") or "0"
                raise _mistake(
                    f"{text[:40]} begins with 0, which some read as octal: {plain[:40]} or '{text[:40]}'", node
                )
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        if kind == "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        return {"bool": text.lower() == "true", "null": None}.get(kind, text)

    def mapping(self, node: Any) -> dict[str, Any]:
        """A mapping. YAML's own reader drops the first of two equal keys without a word, a whole row for instance."""
        if not isinstance(node, yaml.MappingNode):
            raise _mistake(f"{node.tag} is for a mapping", node)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _mistake("a key must be a word", key)
            if key.value in seen:
                raise _mistake(f"two keys '{key.value}'", key)
            seen.add(key.value)
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep=True) for key, value in node.value}


for _kind, _pattern in {"null": _NULL, "bool": _BOOL, "int": _INT, "float": _FLOAT, "merge": _MERGE}.items():
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(f"(?:{_pattern.pattern})$"), None)
for _kind in ("null", "bool", "int", "float", "str"):
    _Loader.add_constructor(_TAG + _kind, _Loader.scalar)
_Loader.add_constructor(_TAG + "seq", lambda loader, node: loader.construct_sequence(node, deep=True))
_Loader.add_constructor(_TAG + "map", _Loader.mapping)
_Loader.add_constructor(None, _Loader.construct_undefined)


def _mistake(problem: str, node: Any) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _refuse_large(text: str) -> None:
    """Count before anything is built: ten lines of aliases of aliases stand for more than any machine can hold."""
    values = 0
    sizes: dict[str | None, int] = {}
    around: list[tuple[str | None, int]] = []  # anchor, and values before it, of what is open
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in around):
                raise _mistake(f"'*{event.anchor}' holds itself", event)
            values += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
            sizes[event.anchor] = 1
            if len(event.value) > MOST_IN_A_TEXT:
                raise _mistake(f"a text of more than {MOST_IN_A_TEXT} characters", event)
            if found := _UNWANTED.search(event.value):
                raise _mistake(f"a hidden character, U+{ord(found[0]):04X}", event)
            if "${" in event.value:  # people who know other readers expect a variable there, a secret of theirs maybe
                raise _mistake("'${' fills in nothing here; write the value itself", event)
        elif isinstance(event, yaml.CollectionStartEvent):
            around.append((event.anchor, values))
            values += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = around.pop()
            sizes[anchor] = values - before
        if values > MOST_VALUES:
            raise _mistake(f"more than {MOST_VALUES} values", event)
        if len(around) > DEEPEST:
            raise _mistake(f"nested deeper than {DEEPEST}", event)
