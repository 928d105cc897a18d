"""Pages of methods are made of the code: complete, up to date, and there for a new method without an edit."""

from dataclasses import dataclass, fields
from typing import Literal

import pytest

from postdiff import methods
from postdiff.lab.documented import docstrings, option_rules
from postdiff.methods.base import Method
from postdiff.methods.options import require, require_moment
from tests.docs.pages import ROOT, blocks

NAMES = methods.names()
FOLDER = ROOT / "docs" / "methods"
# A build makes the page of a method that has none here yet; `make docs` writes it here as well.
PAGES = [name for name in NAMES if (FOLDER / f"{name}.md").exists()]
STALE = "out of date; run: python docs/program/method_pages.py"
SECTIONS = ("Equation", "Works on", "Oracle", "Reference")


@pytest.mark.parametrize("name", PAGES)
def test_the_page_in_the_repository_is_what_the_program_makes(program, name):
    made = program("method_pages").pages()[f"methods/{name}.md"]
    assert (FOLDER / f"{name}.md").read_text() == made, STALE


def test_the_overview_in_the_repository_is_what_the_program_makes(program):
    lines = program("method_pages").overview().splitlines()
    assert set((FOLDER / "index.md").read_text().splitlines()) <= set(lines), STALE


def test_no_page_is_of_a_method_that_is_gone():
    assert {file.stem for file in FOLDER.glob("*.md")} <= {*NAMES, "index"}


@pytest.mark.parametrize("name", PAGES)
def test_the_docstring_has_all_sections_and_reports_every_option(name):
    cls = methods.find(name)
    message = docstrings.sections(cls.__doc__)
    assert all(message.get(section) for section in SECTIONS)
    assert list(docstrings.about_options(message["Args"])) == [option.name for option in fields(cls)]


def test_what_a_docstring_is_made_of():
    message = docstrings.sections(
        "One line.\n\n    More:\n    and more.\n\n    Works on:\n        U-Nets.\n\n        All.\n    "
    )
    assert message == {"": "One line.", "More": "and more.", "Works on": "U-Nets.\n\nAll."}
    assert docstrings.about_options("a: one\n    two: three\nb: four") == {"a": "one two: three", "b": "four"}


@dataclass
class Many(Method):
    when: float = 0.5
    first: int = 1
    second: int = 1
    kind: Literal["a", "b"] = "a"
    free: bool = True

    def __post_init__(self):
        super().__post_init__()
        require_moment(self, "when")
        for option in ("first", "second"):
            require(self, getattr(self, option) >= 1, option, "1 or more")
        most = 3
        if self.free:
            require(self, self.second <= most, "second", f"more than first={self.first}, up to {most:g}")


def test_ranges_are_read_off_the_checks(program):
    found = option_rules.rules(Many)
    assert found["when"] == [option_rules.MOMENT]
    assert found["first"] == ["1 or more"]
    assert found["second"] == ["1 or more", "more than `first`, up to `most`"]
    assert set(found) == {"when", "first", "second"}
    lines = program("method_pages")._options(Many, {"kind": "which | of two"})
    assert lines[2] == f"| `when` | `0.5` | {option_rules.MOMENT} |  |"
    assert lines[5] == "| `kind` | `a` | `a` or `b` | which \\| of two |"
    assert lines[6] == "| `free` | `True` | true or false |  |"


def test_a_method_of_ones_own_has_a_page(program, own_folder):
    (own_folder / "methods").mkdir()
    (own_folder / "methods" / "nudge.py").write_text(blocks("add_a_method.md", "python")[0])
    (own_folder / "configs" / "methods").mkdir(parents=True)
    (own_folder / "configs" / "methods" / "nudge.yaml").write_text(blocks("add_a_method.md", "yaml")[0])
    made = program("method_pages").pages()
    assert "| `amount` | `0.01` | a number |" in made["methods/nudge.md"]
    assert "label: nudge" in made["methods/nudge.md"] and "(nudge.md)" in made["methods/index.md"]


def test_a_page_shows_the_formula_that_stands_beside_the_method(program):
    made = program("method_pages").page("fora")
    code = (ROOT / "postdiff" / "methods" / "fora" / "reference.py").read_text()
    assert "def reference(method: Any, run: Setting)" in made and code[code.index("def reference") :].strip() in made
    assert "import" not in made.partition("## The formula in code")[2].partition("## ")[0]
    assert "## The formula in code" not in program("method_pages").page("tome")
