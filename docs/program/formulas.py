"""LaTeX in finished pages becomes MathML, which browsers draw by themselves: no script and no font is fetched."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

__all__ = ["drawn"]

FORMULA = re.compile(r'<(div|span) class="arithmatex">\\([\[(])(.*?)\\[\])]</\1>', re.DOTALL)


def drawn(page: str) -> str:
    """A page's HTML with every formula in MathML."""
    return FORMULA.sub(_drawn, page)


def _drawn(found: re.Match[str]) -> str:
    tag, bracket, latex = found.groups()
    display = "block" if bracket == "[" else "inline"
    return f'<{tag} class="formula">{convert(html.unescape(latex).strip(), display=display)}</{tag}>'
