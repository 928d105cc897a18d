"""A tiny experiment on a tiny model, and a fresh outputs folder for each test."""

import pytest

from postdiff import cli
from tests.lab import tiny_folder
from tests.support.own_methods import forgotten


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory):
    """Folder with the configs and the model named `tiny`."""
    root = tmp_path_factory.mktemp("tiny")
    tiny_folder.save_configs(root)
    return root


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """The outputs folder of this test."""
    folder = tmp_path / "outputs"
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(folder))
    return folder


@pytest.fixture
def tiny(tiny_root, outputs, monkeypatch):
    """Makes the tiny experiment known; gives its root."""
    monkeypatch.setenv("POSTDIFF_PATH", str(tiny_root))
    return tiny_root


@pytest.fixture
def extended(tiny, tmp_path, monkeypatch):
    """A folder beside `tiny` in POSTDIFF_PATH, for methods of the test's own, which are forgotten afterwards."""
    root = tmp_path / "extended"
    root.mkdir()
    monkeypatch.setenv("POSTDIFF_PATH", f"{tiny}:{root}")
    with forgotten(root):
        yield root


@pytest.fixture
def command(capsys):
    """`command("run", "tiny")` gives exit code, stdout and stderr."""

    def run(*words):
        code = cli.main(list(words))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def refused(command):
    """`refused("run", "nothing")` gives the one line on stderr of a command that must end in exit code 2."""

    def run(*words):
        code, out, err = command(*words)
        lines = [line for line in err.splitlines() if line.startswith("postdiff:")]
        assert (code, len(lines), out) == (2, 1, ""), (code, out, err)
        assert "Traceback" not in err and lines[0].startswith("postdiff: error: ")
        return lines[0].removeprefix("postdiff: error: ")

    return run
