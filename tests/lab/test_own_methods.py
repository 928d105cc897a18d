"""Methods of the user's own that fail are told by file and line; all else goes on without them."""

from __future__ import annotations

import json

import pytest

from postdiff import cli, methods
from postdiff.engine.errors import UsageError
from tests.lab import mistake_files
from tests.lab.bad import run


@pytest.fixture
def own(extended):
    """`own("name", "text")` writes a method."""

    def write(name, text):
        file = extended / "methods" / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return file

    return write


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (mistake_files.HEAD + "\nraise ValueError('broken')\n", "line 12: ValueError: broken; mend it"),
        ("import sys\nsys.exit(0)\n", "line 2: SystemExit: 0; mend it"),
        ("def (\n", "line 1: SyntaxError"),
        (mistake_files.HEAD + "\n    def __post_init__(self):\n        raise KeyError('x')\n", "cannot be built, "),
        (mistake_files.HEAD.replace("size: int = 1", "step: int = 1"), "bears the name of a hook; rename it"),
        (mistake_files.HEAD.replace("@dataclass\n", ""), "is no dataclass; write @dataclass above it"),
        (mistake_files.HEAD.replace("= 1", ""), "needs the option 'size'"),
    ],
)
def test_what_cannot_be_imported_or_built(own, refused, text, message):
    file = own("zz_mine", text)
    line = refused(*run("methods=[{zz_mine: {}}]"))
    assert message in line and (str(file) in line or "needs the option" in line)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise KeyError('x')", "line 13: KeyError: 'x'"),
        ("sys.exit(3)", "line 13: NameError"),
        ("return None", "zz_mine.py"),
    ],
)
def test_what_fails_when_it_runs(own, refused, body, message):
    own("zz_mine", mistake_files.HEAD + mistake_files.DENOISE.format(body))
    line = refused(*run("methods=[{zz_mine: {}}]"))
    assert "code of your own" in line and message in line and "--debug shows the traceback" in line


def test_one_that_ends_the_process(own, refused):
    own("zz_mine", mistake_files.HEAD + mistake_files.DENOISE.format("raise SystemExit(0)"))
    assert "ends the process" in refused(*run("methods=[{zz_mine: {}}]"))


def test_debug_shows_its_traceback(own):
    own("zz_mine", mistake_files.HEAD + mistake_files.DENOISE.format("raise KeyError('x')"))
    with pytest.raises(KeyError):
        cli.main([*run("methods=[{zz_mine: {}}]"), "--debug"])


def test_the_list_goes_on_without_it(own, command):
    own("zz_broken", "raise ValueError('broken')\n")
    own("zz_sound", mistake_files.HEAD)
    code, out, err = command("list", "methods", "--format", "json")
    names = {entry["name"] for entry in json.loads(out)}
    assert code == 0 and {"zz_sound", "deepcache"} <= names and "zz_broken" not in names
    [line] = err.splitlines()
    assert line.startswith("postdiff: left out: method 'zz_broken' cannot be imported") and "line 1" in line
    assert methods.DeepCache is methods.find("deepcache")


@pytest.mark.parametrize("name", ["deepcache", "options"])
def test_a_name_of_ours_is_not_passed_over(own, command, name):
    own(name, mistake_files.HEAD)
    with pytest.raises(UsageError, match=f"method '{name}' is defined twice: .*; rename one"):
        methods.find(name)
    code, _, err = command("list", "methods")
    assert code == 0 and f"method '{name}' is defined twice" in err


def test_a_preset_that_names_itself(extended, refused):
    file = extended / "configs" / "methods" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("label: x\nreference: x\nmethods: [mine]\nidentity: []\n")
    assert "preset 'mine' names itself" in refused(*run("methods=[mine]"))
