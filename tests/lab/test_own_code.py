"""Images belong to the code that generated them: a stack's own modules and the driver, and not other methods' files."""

import shutil

import pytest
import yaml

from postdiff import methods
from postdiff.lab import code_hash
from postdiff.methods.cache import Cache
from postdiff.methods.solver_cache import SolverCache
from tests.lab import runs

pytestmark = pytest.mark.slow

ROW = ("--rows", "cached", "count=1", "seeds=[0]", "metrics=[paired_psnr]", "bench.repeats=0")
COMMENTED = '"""Another docstring."""\n\n# A comment.\n'


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the code that generates, whose files may be edited."""
    for part in ("engine", "methods"):
        shutil.copytree(code_hash.PACKAGE / part, tmp_path / "postdiff" / part)
    monkeypatch.setattr(code_hash, "PACKAGE", tmp_path / "postdiff")
    yield tmp_path / "postdiff"
    forget()


def forget():
    """As in a process of its own."""
    for kept in (code_hash.code_hash, code_hash._read):
        kept.cache_clear()


def hashes(*names):
    forget()
    return {name: code_hash.code_hash(frozenset([methods.find(name)])) for name in names or methods.names()}


def differing(before, after):
    return {name for name in before if before[name] != after[name]}


@pytest.fixture(scope="module")
def before():
    """Hashes of all methods as they are."""
    found = hashes()
    assert len(set(found.values())) == len(found)
    return found


def test_comments_docstrings_and_layout_decide_nothing(package, before):
    for file in package.rglob("*.py"):
        code = file.read_text().split('"""\n', 1)[-1]  # without the module's docstring
        file.write_text(
            COMMENTED + code.replace("\n\n\n", "\n\n\n\n").replace('"""', '"""Otherwise: ', 1) + "# The end.\n"
        )
    assert not differing(before, hashes(*before))


@pytest.mark.parametrize("name", ["deepcache", "tome", "mixed_resolution", "taylor_seer"])
def test_an_edited_method_orphans_its_own_images_alone(package, before, name):
    with (package / "methods" / name / "method.py").open("a") as stream:
        stream.write("\nNEW = 1\n")
    assert differing(before, hashes(*before)) == {name}


@pytest.mark.parametrize(
    ("module", "whose"),
    [
        ("engine/driver.py", None),
        ("engine/call.py", None),
        ("engine/intercept.py", None),
        ("methods/base.py", None),
        ("methods/tome/token_merging.py", {"tome"}),
        ("engine/replay/fills.py", "caches"),
        ("methods/mixed_resolution/history.py", {"mixed_resolution"}),
        ("methods/mixed_resolution/size_plan.py", {"mixed_resolution"}),
        ("methods/deepcache/reference.py", set()),
        ("methods/formulas/parts.py", set()),
        ("engine/errors.py", set()),
        ("methods/__init__.py", set()),
    ],
)
def test_what_a_method_imports_counts(package, before, module, whose):
    with (package / module).open("a") as stream:
        stream.write("\nNEW = 1\n")
    if whose == "caches":
        whose = {name for name in before if issubclass(methods.find(name), Cache | SolverCache)}
    assert differing(before, hashes(*before)) == (set(before) if whose is None else whose)


def test_a_new_method_orphans_nothing(package, before):
    shutil.copytree(package / "methods" / "tome", package / "methods" / "another")
    assert not differing(before, hashes(*before))


def test_a_row_finds_its_images_beside_new_methods(extended, outputs, command):
    command("run", "tiny", *ROW)
    runs.add_method(extended, "nudge", "output = output * 1.5")
    forget()
    code, _, err = command("score", "tiny", *ROW)
    assert code == 0, err
    runs.add_method(extended, "nudge", "output = output * 2.5")
    forget()
    code, _, err = command("score", "tiny", *ROW)
    assert code == 0, err


IMPORTS = (
    "from postdiff.methods.helper import FACTOR",
    "from postdiff.methods import helper",
    "from .helper import FACTOR",
    "from . import helper",
    "import helper",
    "def later():\n    from postdiff.methods.helper import FACTOR",
)


@pytest.mark.parametrize("line", IMPORTS)
def test_what_stands_beside_a_private_method_counts(extended, line, monkeypatch):
    monkeypatch.syspath_prepend(str(extended / "methods"))
    runs.add_method(extended, "nudge", "pass")
    file, beside = extended / "methods" / "nudge.py", extended / "methods" / "helper.py"
    file.write_text(file.read_text().replace("import os, signal, time\n", f"{line}\n"))
    beside.write_text("FACTOR = 1\n")
    before = hashes("nudge", "deepcache")
    beside.write_text("FACTOR = 1  # one\n")
    assert not differing(before, hashes(*before))
    beside.write_text("FACTOR = 2\n")
    assert differing(before, hashes(*before)) == {"nudge"}
    (extended / "methods" / "unrelated.py").write_text("FACTOR = 3\n")
    assert differing(before, hashes(*before)) == {"nudge"}


def test_what_stands_in_the_folder_of_a_private_method_counts_where_it_is_imported(extended):
    runs.add_method(extended, "nudge", "pass")
    folder = extended / "methods" / "nudge"
    folder.mkdir()
    (extended / "methods" / "nudge.py").rename(folder / "method.py")
    helper, reference = folder / "helper.py", folder / "reference.py"
    helper.write_text("FACTOR = 1\n")
    reference.write_text("FACTOR = 1\n")
    code = (folder / "method.py").read_text()
    (folder / "method.py").write_text(code.replace("import os, signal, time\n", "from .helper import FACTOR\n"))
    before = hashes("nudge", "deepcache")
    reference.write_text("FACTOR = 2\n")
    assert not differing(before, hashes(*before))
    helper.write_text("FACTOR = 2\n")
    assert differing(before, hashes(*before)) == {"nudge"}


def test_a_method_built_upon_another_one(extended):
    runs.add_method(extended, "nudge", "pass")
    file = extended / "methods" / "nudge.py"
    code = file.read_text()
    plain = hashes("nudge")
    built = code.replace("methods.base import Method", "methods import DeepCache as Method")
    file.write_text(built)
    assert "DeepCache" in built and differing(plain, hashes("nudge")) == {"nudge"}
    named = code_hash._origin("postdiff.methods", "DeepCache")
    assert list(named) == ["postdiff.methods.deepcache.method"]


def test_a_preset_more_changes_nothing(extended, command):
    before = hashes("deepcache")
    file = extended / "configs" / "methods" / "often.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump({"label": "a", "reference": "none", "methods": ["deepcache"], "identity": []}))
    assert hashes("deepcache") == before
