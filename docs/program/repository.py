"""Files of the repository that pages link to: each becomes a part of the site, so that every link leads somewhere.

Images and notebooks are copied; a Markdown file becomes a page, and so does any other text, as a block of code. The
pages in `docs` keep links that work in a clone as well; they are turned here, when the site is built.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

__all__ = ["PLACE", "Linked"]

ROOT = Path(__file__).parents[2]
PLACE = "repository"
LINK = re.compile(r"(\]\()(?!\w+:|#|/)([^)#\s]+)((?:#[^)\s]*)?\))")
COPIED = {".png", ".svg", ".ipynb"}
KINDS = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".cff": "yaml", ".json": "json"}


class Linked:
    """What the pages of a site link to outside of `docs`, found as links are turned.

    Attributes:
        copied: {path in the site: file}.
        pages: {path in the site: Markdown}.
    """

    def __init__(self) -> None:
        self.copied: dict[str, Path] = {}
        self.pages: dict[str, str] = {}

    def turned(self, text: str, page: str, place: str | None = None) -> str:
        """A page's Markdown with links that work in the site.

        Args:
            text: as it stands in the repository.
            page: its path in the site.
            place: its path in the repository, "docs/<page>" if omitted.
        """
        place = place or f"docs/{page}"

        def turn(found: re.Match[str]) -> str:
            target = posixpath.normpath(posixpath.join(posixpath.dirname(place), found[2]))
            goal = self._goal(target)
            if goal is None:
                return found[0]
            return f"{found[1]}{posixpath.relpath(goal, posixpath.dirname(page) or '.')}{found[3]}"

        return LINK.sub(turn, text)

    def _goal(self, target: str) -> str | None:
        """Path in the site of a file in the repository; None if there is no such file, which mkdocs then tells."""
        if target.startswith("docs/"):
            return target.removeprefix("docs/")
        file = ROOT / target
        if not file.is_file():
            return None
        if file.suffix in COPIED:
            self.copied[f"{PLACE}/{target}"] = file
            return f"{PLACE}/{target}"
        goal = f"{PLACE}/{target}" if file.suffix == ".md" else f"{PLACE}/{target}.md"
        if goal not in self.pages:
            self.pages[goal] = ""  # it may link to itself
            self.pages[goal] = self._page(file, target, goal)
        return goal

    def _page(self, file: Path, target: str, goal: str) -> str:
        text = file.read_text()
        hidden = "---\nsearch:\n  exclude: true\n---\n"
        if file.suffix == ".md":
            return hidden + self.turned(text, goal, target)
        return f"{hidden}# {target}\n\n````{KINDS.get(file.suffix, 'text')}\n{text.rstrip()}\n````\n"
