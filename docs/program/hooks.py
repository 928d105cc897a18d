"""What a build of the site adds to the pages in `docs`: pages of methods, files that are linked to, drawn formulas.

And a search that works from the disk, where browsers read no JSON: the index again, as a script.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import formulas
import method_pages
from mkdocs.structure.files import File, Files
from repository import Linked

OVERVIEW = "methods/index.md"


def on_config(config: Any) -> Any:
    """Every method stands in the navigation, below the overview and the tables of all methods."""
    [section] = [item for part in config.nav if isinstance(part, dict) for item in part.values() if OVERVIEW in item]
    section += [{title: path} for title, path in method_pages.titles().items()]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Pages of methods as the code is now, and what pages link to outside of `docs`."""
    for path, text in method_pages.pages().items():
        _put(files, File.generated(config, path, content=text))
    linked = Linked()
    for file in list(files.documentation_pages()):
        file.content_string = linked.turned(file.content_string, file.src_uri)
    for path, text in linked.pages.items():
        _put(files, File.generated(config, path, content=text))
    for path, source in linked.copied.items():
        _put(files, File.generated(config, path, abs_src_path=str(source)))
    return files


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Formulas as MathML."""
    return formulas.drawn(html)


def on_post_build(config: Any) -> None:
    """The search index as a script."""
    folder = Path(config.site_dir) / "search"
    (folder / "search_index.js").write_text(f"var __index = {(folder / 'search_index.json').read_text()}")


def _put(files: Files, file: File) -> None:
    if (old := files.get_file_from_path(file.src_uri)) is not None:
        files.remove(old)
    files.append(file)
