"""The pages as they stand in the repository: README and docs."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["ALL", "README", "ROOT", "blocks"]

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
ALL = [README, *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: str, language: str) -> list[str]:
    """Blocks of code of a page of `docs` in one language, in order."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
