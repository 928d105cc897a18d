"""Runs that break off: nothing whole is made again, nothing damaged is used, and the record is the same in the end."""

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from postdiff.lab.data.samples import Shard
from postdiff.lab.files import folders
from postdiff.lab.images.image_folder import ImageFolder
from tests.lab import runs
from tests.lab.forks import Fork

pytestmark = pytest.mark.slow


def images(outputs):
    return list(runs.states(outputs / "images"))


def test_a_killed_run_goes_on_to_the_same_record(extended, outputs, command, monkeypatch, tmp_path):
    # Slow enough to be found at work, where it is to be killed.
    runs.add_method(extended, "slow", "time.sleep(float(os.environ.get('NAP_S', 0)))")
    few = ("steps=2", "metrics=[emoji_text_score,emoji_frechet_distance]")
    words = ("run", "tiny", "--rows", "cached", "methods=[slow]", *runs.WORDS, *few)
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(tmp_path / "undisturbed"))
    code, _, err = command(*words)
    assert code == 0, err
    expected = runs.record(tmp_path / "undisturbed", "cached")
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(outputs))
    before = {}
    for moment in (1, 5, 9, 13, 17):
        process = Fork(list(words), {**os.environ, "NAP_S": "0.2"}, tmp_path)
        while len(images(outputs)) < moment and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        process.communicate()
        after = runs.states(outputs / "images")
        assert process.returncode == -signal.SIGKILL and moment <= len(after) < 24
        assert {file: after[file] for file in before} == before, "whole images were made again"
        before = after
    code, _, err = command(*words)
    assert code == 0, err
    after = runs.states(outputs / "images")
    assert len(after) == 24 and {file: after[file] for file in before} == before, "whole images were made again"
    assert runs.but_for_times(runs.record(outputs, "cached")) == runs.but_for_times(expected)
    assert not list(outputs.rglob(".*"))


def test_what_is_half_written_or_damaged_is_made_anew(tiny, outputs, command):
    words = ("run", "tiny", "--rows", "plain", *runs.WORDS)
    command(*words)
    expected, hashes = runs.but_for_times(runs.record(outputs, "plain")), runs.hashes(outputs, "plain")
    own = outputs / "images" / expected["images"] / "2"
    (own / "00000.png").write_bytes((own / "00000.png").read_bytes()[:300])
    (own / "00001.png").write_bytes(b"")
    (own / "00003.png").unlink()
    os.link(outputs / "images" / expected["images"] / "3" / "00003.png", own / "00003.png")
    (own / "00002.png").unlink()
    left = own / runs.left_over(".png")
    left.write_bytes(b"half")
    (outputs / "records" / "tiny" / "plain.json").unlink()
    whole = runs.states(own.parent)
    code, _, err = command(*words)
    message = [line for line in err.splitlines() if "made anew" in line]
    assert code == 0 and len(message) == 1 and "and 2 more" in message[0], err
    assert runs.but_for_times(runs.record(outputs, "plain")) == expected and runs.hashes(outputs, "plain") == hashes
    again = {file for file, state in runs.states(own.parent).items() if state != whole.get(file)}
    assert {file.name for file in again} == {f"0000{index}.png" for index in range(4)} and not left.exists()


def test_images_that_do_not_say_what_they_are_of_are_made_anew(tiny, outputs, command):
    """As the first versions wrote them, or as anybody may put them there: valid, and of nobody knows what."""
    words = ("run", "tiny", "--rows", "plain", "bench.repeats=0", "steps=2", "reference_steps=3")
    command(*words)
    before, states = runs.hashes(outputs, "plain"), runs.states(outputs / "images")
    for file in images(outputs):
        Image.new("RGB", (32, 32)).save(file)
    (outputs / "records" / "tiny" / "plain.json").unlink()
    code, _, err = command(*words)
    message = [line for line in err.splitlines() if "does not say what it is of; it is made anew and 5 more" in line]
    assert code == 0 and len(message) == 2, err
    assert runs.hashes(outputs, "plain") == before and runs.states(outputs / "images").keys() == states.keys()


def test_a_full_disk_loses_nothing(tiny, outputs, command, refused, monkeypatch):
    words = ("run", "tiny", "--rows", "plain", *runs.WORDS)
    write, written = Path.write_bytes, []

    def full(self, content):
        if len(written) == 12:
            write(self, content[:10])
            raise OSError(28, "No space left on device")
        written.append(self)
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    line = refused(*words)
    assert "No space left on device" in line and str(outputs / "images") in line
    before = runs.states(outputs / "images")
    assert before and not list((outputs / "images").rglob(".*")), "half a file was left"
    assert not (outputs / "records" / "tiny" / "plain.json").exists()
    monkeypatch.setattr(Path, "write_bytes", write)
    assert command(*words)[0] == 0 and runs.record(outputs, "plain").full
    after = runs.states(outputs / "images")
    assert {file: after[file] for file in before} == before


def test_latents_that_stop_being_numbers_are_named(extended, outputs, refused):
    body = "if state.index == 2 and len(output) > 1:\n    output = output.clone()\n    output[1] = float('inf')"
    runs.add_method(extended, "poison", body)
    line = refused(
        "run", "tiny", "--rows", "plain", "methods=[poison]", "bench.repeats=0", "metrics=[emoji_text_score]"
    )
    assert "image 1 ('an apple', seed 0) holds NaN or infinity from step 2 on" in line
    assert not images(outputs), "a batch with a bad image was kept"


def test_sigterm_ends_cleanly(extended, outputs, tmp_path):
    runs.add_method(extended, "slow", "time.sleep(0.1)")
    few = ("steps=2", "metrics=[emoji_text_score]")
    process = Fork(["run", "tiny", "--rows", "cached", "methods=[slow]", *runs.WORDS, *few], folder=tmp_path)
    while len(images(outputs)) < 5 and process.poll() is None:
        time.sleep(0.02)
    process.terminate()
    _, err = process.communicate()
    assert process.returncode == 130 and "Traceback" not in err and "postdiff: interrupted" in err.splitlines()[-1]
    assert not list((outputs / "images").rglob(".*"))


def test_processes_that_divide_the_work_otherwise_lose_nothing(tiny, outputs, command, monkeypatch, tmp_path):
    """At worst both make the same images; whoever comes last leaves what one process leaves."""
    words = ["run", "tiny", "--rows", "plain", *runs.WORDS, "steps=2", "metrics=[emoji_text_score]"]
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(tmp_path / "undisturbed"))
    assert command(*words)[0] == 0
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(outputs))
    forks = []
    for place, more in enumerate((["--shard", "1/2"], ["--shard", "1/3"], [])):
        (tmp_path / str(place)).mkdir()
        forks.append(Fork([*words, *more], folder=tmp_path / str(place)))
    message = [fork.communicate()[1] for fork in forks]
    assert [fork.returncode for fork in forks] == [0, 0, 0], message
    assert command(*words)[0] == 0
    assert runs.contents(outputs) == runs.contents(tmp_path / "undisturbed")


def test_the_second_process_waits_and_says_for_whom(outputs, monkeypatch):
    monkeypatch.setattr(folders, "SILENT", 0.1)
    message, order = [], []
    folder = ImageFolder(outputs / "images" / "abc")

    def second(part):
        with folder.lock(part, message.append):
            order.append(part)

    with folder.lock(Shard(1, 2), message.append):
        second(Shard(2, 2))
        second(Shard(1, 3))
        assert order == [Shard(2, 2), Shard(1, 3)] and not message, "only whoever would make the same part waits"
        waiting = [threading.Thread(target=second, args=(part,)) for part in (None, Shard(1, 2))]
        for thread in waiting:
            thread.start()
        until = time.monotonic() + 60
        while len(message) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        assert len(message) == 2 and len(order) == 2
        order.append("first")
    for thread in waiting:
        thread.join(10)
    assert order[2] == "first" and len(order) == 5
    place = outputs / "locks" / "abc" / "1-of-2.lock"
    assert message[0] == f"waiting for process {os.getpid()} on {socket.gethostname()[:40]}, which holds {place}"
