"""A docstring taken apart: what stands before the first heading, what stands under each, and options one by one."""

from __future__ import annotations

import inspect
import re

__all__ = ["about_options", "paragraph", "sections"]

HEADING = re.compile(r"^([A-Z][a-z]+(?: [a-z]+)?):$")


def sections(docstring: str) -> dict[str, str]:
    """{heading: text below it, its indentation taken away}; what comes before the first heading is under ""."""
    found: dict[str, list[str]] = {"": []}
    heading = ""
    for line in inspect.cleandoc(docstring).splitlines():
        if matched := HEADING.match(line):
            heading = matched[1]
            found[heading] = []
        else:
            found[heading].append(line)
    return {heading: inspect.cleandoc("\n".join(["", *lines])) for heading, lines in found.items()}


def about_options(text: str) -> dict[str, str]:
    """{option: what is said of it, in one line} of the text below "Args:"."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if matched := re.match(r"(\w+): (.*)", line):
            name = matched[1]
            found[name] = [matched[2]]
        elif line.strip():
            found[name].append(line.strip())
    return {name: " ".join(lines) for name, lines in found.items()}


def paragraph(text: str) -> str:
    """The first paragraph, in one line."""
    return " ".join(text.split("\n\n")[0].split())
