"""Sentences of a Markdown page, without what is not read as prose: code, tables, formulas, comments."""

from __future__ import annotations

import re

__all__ = ["sentences"]

FRONT = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
BLOCK = re.compile(r"^(`{3,}).*?^\1`*$", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
ITEM = re.compile(r"^\s*(?:[-*]|\d+\.|#+|!!! \w+|:::) *")
END = re.compile(r"(?<=[.!?])[)*\"]*\s+(?=\S)")


def sentences(page: str) -> list[str]:
    """Every sentence; a heading, a list item and a paragraph end one, and code within a line is one word."""
    text = COMMENT.sub("", BLOCK.sub("\n\n", FRONT.sub("", page)))
    found = []
    for paragraph in _paragraphs(text):
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", paragraph)
        plain = re.sub(r"`[^`]*`", "code", plain)
        found += [each.strip() for each in END.split(plain) if re.search(r"\w", each)]
    return found


def _paragraphs(text: str) -> list[str]:
    found: list[list[str]] = [[]]
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("|"):
            found.append([])
        elif (item := ITEM.match(line)) is not None:
            found.append([line[item.end() :]])
            if line.startswith("#"):
                found.append([])
        else:
            found[-1].append(line.strip())
    return [" ".join(lines) for lines in found if lines]
