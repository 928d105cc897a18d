"""What only reads text answers without loading torch, which takes seconds."""

import subprocess
import sys

import pytest

from postdiff import methods
from postdiff.lab.records.record import fresh_path
from tests.lab.test_results import record

HEAVY = "{'torch', 'diffusers', 'transformers', 'lightning', 'matplotlib', 'pyarrow'}"
CODE = f"""
import sys
from postdiff.cli import main
code = main(sys.argv[1:])
print({HEAVY} & set(sys.modules))
sys.exit(code)
"""


def loaded(*words):
    found = subprocess.run([sys.executable, "-c", CODE, *words], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()[-1]


@pytest.mark.parametrize("words", [("list",), ("list", "methods", "--format", "json"), ("table", "tiny")], ids=" ".join)
def test_nothing_heavy_is_loaded(tiny, outputs, words):
    record().write(fresh_path("tiny", "plain"))
    assert loaded(*words) == "set()"


@pytest.mark.parametrize("name", methods.names())
def test_a_summary_is_the_first_line_of_the_docstring(name):
    assert methods.summary(name) == methods.find(name).__doc__.strip().splitlines()[0] != ""
