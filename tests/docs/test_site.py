"""The site builds strictly, has no dead link, and asks nobody for anything when a page is looked at."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from postdiff import methods
from tests.docs.pages import ROOT, blocks

pytestmark = pytest.mark.slow

NEEDED = ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers", "latex2mathml")
REASON = "the pages are built with the extra 'docs': pip install '.[docs]'"
for package in NEEDED:
    pytest.importorskip(package, reason=REASON)


class Page(HTMLParser):
    """What a page links to, what it loads, and the anchors in it."""

    def __init__(self, file):
        super().__init__()
        self.links, self.loaded, self.anchors, self.tags = [], [], set(), []
        self.feed(file.read_text())

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append((tag, given.get("class") or ""))
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif tag == "link" and given.get("href") and given.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(given["href"])
        elif given.get("src"):
            self.loaded.append(given["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages of a strict build, a method of one's own among them: {path: Page}, and the folder."""
    own, folder = tmp_path_factory.mktemp("own"), tmp_path_factory.mktemp("site")
    (own / "methods").mkdir()
    (own / "methods" / "nudge.py").write_text(blocks("add_a_method.md", "python")[0])
    environment = {**os.environ, "POSTDIFF_PATH": str(own), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, {file.relative_to(folder).as_posix(): Page(file) for file in folder.rglob("*.html")}


def target(folder, page, link):
    """(file, anchor) of a link within the site; None of one that leads out of it."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    path = unquote(parts.path)
    file = Path(os.path.normpath((folder / page).parent / path)) if path else folder / page
    return (file / "index.html" if file.is_dir() else file), unquote(parts.fragment)


def test_every_link_leads_somewhere(site):
    folder, pages = site
    dead = []
    for name, page in pages.items():
        if name == "404.html":  # served from anywhere, so it names places by their whole path
            continue
        for link in (*page.links, *page.loaded):
            if (found := target(folder, name, link)) is None:
                continue
            file, anchor = found
            known = (
                pages[file.relative_to(folder).as_posix()].anchors if file.suffix == ".html" and file.exists() else ()
            )
            if not file.is_file() or (anchor and not anchor.startswith("__") and anchor not in known):
                dead.append(f"{name}: {link}")
    assert not dead


def test_nothing_is_fetched_from_elsewhere(site):
    folder, pages = site
    assert not [
        (name, link) for name, page in pages.items() for link in page.loaded if target(folder, name, link) is None
    ]
    styles = [file.read_text() for file in folder.rglob("*.css")]
    assert styles and not any("url(http" in style or "@import" in style for style in styles)


class _Loader(yaml.SafeLoader):
    """Of mkdocs.yml, whose tags for Python are of no interest here."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def named(nav):
    """Paths in a navigation."""
    for item in nav:
        for part in item.values() if isinstance(item, dict) else [item]:
            if isinstance(part, str):
                yield part
            else:
                yield from named(part)


def test_every_page_of_the_navigation_is_there(site):
    _, pages = site
    config = yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)
    paths = [*named(config["nav"]), *(f"methods/{name}.md" for name in methods.names()), "methods/nudge.md"]
    assert len(paths) > 30
    start = [os.path.normpath(link) for link in pages["index.html"].links if not urlsplit(link).scheme]
    for path in paths:
        page = path.removesuffix(".md") + ".html"
        assert page in pages and page in start, f"{page} cannot be reached"
    own = {file.relative_to(ROOT / "docs").as_posix() for file in (ROOT / "docs").rglob("*.md")}
    assert own <= set(paths), "a page that nobody finds"


def test_formulas_are_drawn_and_figures_copied(site):
    folder, pages = site
    for name in methods.names():
        tags = pages[f"methods/{name}.html"].tags
        assert sum(tag == "math" for tag, _ in tags) >= 1
        assert not any("arithmatex" in cls for _, cls in tags)
    assert (folder / "repository/paper_figures/demo_grid.png").read_bytes() == (
        ROOT / "paper_figures/demo_grid.png"
    ).read_bytes()
    assert "repository/configs/experiments/demo.yaml.html" in pages


def test_programs_are_no_part_of_the_site(site):
    folder, _ = site
    assert not list(folder.rglob("program")) and not list(folder.rglob("*.py"))
    assert (folder / "search" / "search_index.js").read_text().startswith("var __index = {")
