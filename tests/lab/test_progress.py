"""Bars: which row of how many, all devices counted, few lines in a file, and honest rates."""

import functools
import io
import sys
import time

import pytest

from postdiff.lab import progress
from postdiff.lab.data.samples import Shard
from postdiff.lab.devices import distributed


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests move; also the one by which bars measure."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    monkeypatch.setattr(progress.tqdm, "monitor_interval", 0)
    return now


def image_bar(monkeypatch, device="1/1", total=100):
    monkeypatch.setattr(distributed, "share", lambda: Shard.parse(device))
    return progress.ImageBar("Row", total).__enter__()


def made(one, images, new=None):
    one.update(images, images if new is None else new)


def test_every_title_says_which_row_it_is(capsys):
    rows = progress.Rows(3)
    for _ in range(3):
        with rows.row(), progress.bar("DeepCache", 1, "img") as shown:
            shown.update()
    with progress.bar("after", 1, "img"):
        pass
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines[::2]] == [
        *(f"row {number} of 3, DeepCache" for number in (1, 2, 3)),
        "after",
    ]


def test_a_single_row_is_not_numbered(capsys):
    with progress.Rows(1).row(), progress.bar("DeepCache", 1, "img"):
        pass
    assert capsys.readouterr().err.startswith("DeepCache:")


def test_after_a_row_the_time_to_come_is_reported(capsys, clock):
    rows = progress.Rows(4)
    for seconds in (60, 120):
        with rows.row():
            clock[0] += seconds
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("postdiff: row 2 of 4 took 02:00; 03:00 gone, about 03:00 to come"), last
    for _ in range(2):
        with rows.row():
            clock[0] += 60
    assert len(capsys.readouterr().err.splitlines()) == 1, "nothing is to come after the last row"


def test_no_estimate_for_what_takes_no_time_or_fails(capsys, clock):
    rows = progress.Rows(3)
    with rows.row():
        clock[0] += 1
    with pytest.raises(ValueError, match="broken"), rows.row():
        clock[0] += 100
        raise ValueError("broken")
    assert capsys.readouterr().err == ""
    with progress.bar("next", 1, "img") as shown:
        assert shown.desc.startswith("next"), "the failed row's number stuck"


def test_images_that_were_there_do_not_count_as_fast(clock, monkeypatch):
    one = image_bar(monkeypatch)
    made(one, 50, new=0)
    clock[0] += 10
    made(one, 10)
    assert one.bar.n == 60
    message = one.bar.format_dict
    assert (message["n"] - message["initial"]) / message["elapsed"] == pytest.approx(1.0)
    assert "[00:10, 00:40 left,  1.00img/s]" in str(one.bar)
    one.__exit__(None, None, None)


def test_the_first_device_counts_for_all(monkeypatch, capsys):
    one = image_bar(monkeypatch, "1/4", total=30)
    made(one, 4)
    assert one.bar.n == 16
    made(one, 4)
    assert one.bar.n == 30, "more than there are"
    one.__exit__(None, None, None)
    other = image_bar(monkeypatch, "2/4")
    made(other, 4)
    other.__exit__(None, None, None)
    assert other.bar is None
    assert capsys.readouterr().err.splitlines()[-1].startswith("Row: 100%")


def test_what_the_last_batches_of_other_devices_made_is_counted_at_the_end(monkeypatch, capsys):
    one = image_bar(monkeypatch, "1/2", total=5)
    made(one, 2)
    one.__exit__(None, None, None)
    assert "| 5/5 [" in capsys.readouterr().err


def test_a_broken_off_run_does_not_look_whole(monkeypatch, capsys):
    one = image_bar(monkeypatch, total=5)
    made(one, 2)
    one.__exit__(ValueError, ValueError(), None)
    assert "| 2/5 [" in capsys.readouterr().err.splitlines()[-1]


def test_a_file_gets_few_whole_lines(capsys, clock):
    with progress.bar("Row", 10_000, "img") as shown:
        for _ in range(10_000):
            clock[0] += 1
            shown.update()
    err = capsys.readouterr().err
    lines = err.splitlines()
    assert "\r" not in err and 10 <= len(lines) <= progress.LINES + 2
    assert all(line.startswith("Row:") for line in lines) and "100%" in lines[-1]


def test_a_terminal_gets_one_line_that_changes(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress.bar("Row", 3, "img") as shown:
        shown.update(3)
    assert screen.getvalue().count("\n") == 1 and "\r" in screen.getvalue()


def test_bars_that_are_switched_off(monkeypatch, capsys, clock):
    """As TQDM_DISABLE in the environment of servers does."""
    off = functools.partial(progress.tqdm, disable=True)
    off.format_interval = progress.tqdm.format_interval
    monkeypatch.setattr(progress, "tqdm", off)
    one = image_bar(monkeypatch, total=5)
    made(one, 2, new=0)
    made(one, 3)
    one.__exit__(None, None, None)
    assert capsys.readouterr().err == ""


def test_no_stderr_at_all(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with progress.bar("Row", 3, "img") as shown:
        shown.update(3)
    progress.report("nothing")
