"""The pages, the programs behind them, and a folder for methods of a test's own."""

import importlib
import sys
from pathlib import Path

import pytest

from tests.support.own_methods import forgotten

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "docs" / "program"


@pytest.fixture
def program(monkeypatch):
    """`program("method_pages")`: a module of docs/program."""
    monkeypatch.syspath_prepend(str(PROGRAMS))
    yield importlib.import_module
    for file in PROGRAMS.glob("*.py"):
        sys.modules.pop(file.stem, None)


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """A folder in `POSTDIFF_PATH`; methods in it are forgotten afterwards."""
    monkeypatch.setenv("POSTDIFF_PATH", str(tmp_path))
    with forgotten(tmp_path):
        yield tmp_path
