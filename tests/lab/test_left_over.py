"""What killed processes leave is swept, wherever it is; what others keep or are writing is not."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from threading import Event, Thread

import pytest

from postdiff.engine.errors import UsageError
from postdiff.lab.files import folders
from tests.lab import runs

ELSEWHERE = "0123456789ab"


def test_what_the_dead_leave_goes_and_what_the_living_write_stays(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        living = runs.left_over(".png", process.pid)
        names = [living, runs.left_over(".json"), runs.left_over(".npz", 1, ELSEWHERE)]
        names += [folders.temporary_name(".csv"), runs.left_over(".csv", 2, ELSEWHERE)]
        for name in names:
            (tmp_path / "deep").mkdir(exist_ok=True)
            (tmp_path / "deep" / name).write_text("half")
        os.utime(tmp_path / "deep" / names[4], (0, 0))
        assert folders.remove_stale_files(tmp_path) == 2
        left = {file.name for file in (tmp_path / "deep").iterdir()}
        assert left == {living, names[2], names[3]}, "of this machine alive, of another one not a day old, my own"
        process.communicate(b"\n")
    assert folders.remove_stale_files(tmp_path) == 1


def test_a_clock_that_is_wrong_does_not_make_files_old(tmp_path, monkeypatch):
    """The file system's own clock dates them, whatever this machine believes."""
    (tmp_path / runs.left_over(".npz", 1, ELSEWHERE)).write_text("being written elsewhere")
    for days in (-400, 2, 400):
        monkeypatch.setattr(time, "time", lambda days=days: 1.8e9 + 86400 * days)
        assert folders.remove_stale_files(tmp_path) == 0


def test_a_container_of_the_same_host_name_is_another_machine(tmp_path, monkeypatch):
    """A process number means nothing there, though the host is called the same."""
    own = folders.temporary_name(".png")
    folders._machine.cache_clear()
    monkeypatch.setattr(os, "readlink", lambda _: "pid:[4026532999]")
    theirs = folders.temporary_name(".png")
    monkeypatch.undo()
    folders._machine.cache_clear()
    assert own.split("-")[1] != theirs.split("-")[1]
    (tmp_path / theirs.replace(f"-{os.getpid()}-", "-999999999-")).write_text("being written there")
    assert folders.remove_stale_files(tmp_path) == 0


HIDDEN = (
    *(".my-settings.json", ".vscode-abcdefgh.txt", ".git-keepfile.a", ".guard", ".mail-2024@work@personal.txt"),
    *(".a-999999999@host@abcdefgh.png", ".postdiff", ".postdiff-notes.txt", "postdiff-1-2-3-4.png", ".DS_Store"),
    *(".postdiff-0123456789ab-1-0123abcd.png.bak", ".postdiff-0123456789ab-x-0123abcd.png"),
)


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_files_of_others_stay(tmp_path, name):
    (tmp_path / name).write_text("mine")
    os.utime(tmp_path / name, (0, 0))
    assert folders.remove_stale_files(tmp_path) == 0 and (tmp_path / name).exists()


def test_links_are_not_followed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / runs.left_over(".png")).write_text("")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "linked").symlink_to(tmp_path / "mine")
    (tmp_path / "outputs" / runs.left_over()).symlink_to(tmp_path / "mine")
    assert folders.remove_stale_files(tmp_path / "outputs") == 1 and len(list((tmp_path / "mine").iterdir())) == 1


def test_a_folder_goes_at_once_or_stays(tmp_path):
    folder = tmp_path / "abc"
    (folder / "0").mkdir(parents=True)
    (folder / "0" / "00000.png").write_text("")
    folders.discard(folder)
    folders.discard(folder)
    assert not list(tmp_path.iterdir())
    (tmp_path / runs.left_over() / "0").mkdir(parents=True)  # as a killed process leaves it
    assert folders.remove_stale_files(tmp_path, deep=False) == 1 and not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").write_text("")
    folder.symlink_to(tmp_path / "mine")
    with pytest.raises(UsageError, match="is a link, and nothing behind a link is removed"):
        folders.discard(folder)
    assert (tmp_path / "mine" / "photo.png").exists()


def test_permissions_are_those_of_the_umask(tmp_path):
    for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            with folders.atomic_write(tmp_path / "a.txt") as temporary:
                temporary.write_text("a")
        finally:
            os.umask(before)
        assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode


def test_every_folder_of_outputs_is_swept(tiny, outputs, command, tmp_path):
    """Also where nothing is written any more, since all is there."""
    words = ("--rows", "plain", "bench.repeats=0", "steps=2", "reference_steps=3", "metrics=[paired_psnr]")
    prepare = ("data", "prepare", "mine", "--from", str(tiny / "prompts.jsonl"))
    assert command("run", "tiny", *words)[0] == command(*prepare)[0] == command("export", "tiny", *words)[0] == 0
    places = [folder for folder in outputs.rglob("*") if folder.is_dir()]
    assert {"images", "records", "grids", "exports", "data", "locks"} <= {folder.name for folder in places}
    for folder in places:
        (folder / runs.left_over(".npz")).write_text("half")
    _, _, err = command("run", "tiny", *words)
    assert "done already" in err and not list(outputs.rglob(".postdiff-*"))
    for folder, again in (
        (outputs / "data", prepare),
        (tmp_path, ("export", "tiny", *words, "--out", str(tmp_path / "x.npz"))),
    ):
        (folder / runs.left_over(".npz")).write_text("half")
        assert command(*again)[0] == 0 and not list(folder.glob(".postdiff-*"))


def test_who_holds_a_lock_is_not_written_through_a_link(outputs, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    place = outputs / "locks" / "abc"
    place.mkdir(parents=True)
    (place / "all.who").symlink_to(victim)
    with folders.lock("abc/all"):
        assert victim.read_text() == "precious"
        assert (place / "all.who").read_text().startswith(f"process {os.getpid()} on ")


@pytest.mark.parametrize("text", ["", "[]", "process \u001b[31m", "process " + "1" * 100_000, b"process \xff", None])
def test_a_strange_signature_is_another_process(tmp_path, text):
    holder = tmp_path / "all.who"
    if text is None:
        os.mkfifo(holder)
    else:
        holder.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert folders._holder_in(holder) == "another process"


def test_a_file_system_without_locks_is_reported_of_once(outputs, monkeypatch, capsys):
    def missing(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    folders._warn_of_soft_locks.cache_clear()
    for _ in range(2):
        with folders.lock("abc/1-of-2", print), folders.lock("records/tiny/plain"):
            pass
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "has no locks, so files stand in for them" in err


def test_a_lock_that_is_held_for_long_is_reported_of(outputs, monkeypatch, capsys):
    monkeypatch.setattr(folders, "SILENT", 0.1)
    begun = Event()

    def hold():
        with folders.lock("records/tiny/plain"):
            begun.set()
            time.sleep(0.5)

    other = Thread(target=hold)
    other.start()
    begun.wait(10)
    with folders.lock("records/tiny/plain"):
        pass
    other.join(10)
    place = outputs / "locks" / "records" / "tiny" / "plain.lock"
    assert f"waiting for process {os.getpid()} on " in (err := capsys.readouterr().err)
    assert err.endswith(f", which holds {place}\n") and err.count("\n") == 1
