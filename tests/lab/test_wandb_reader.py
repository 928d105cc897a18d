"""Files of offline W&B runs: put together from their pieces, and never taken for whole where they are not."""

import struct

import pytest

from postdiff.engine.errors import UsageError
from postdiff.lab.loggers.wandb_reader import _messages, ended, offline_runs

HEAD = b":W&B\xe1\xbe\0"


def piece(kind, content):
    return struct.pack("<IHB", 0, len(content), kind) + content


@pytest.fixture
def written():
    """The bytes of a run's file: its name, two values, and its exit record."""
    proto = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    run, first, second, end = (proto.Record() for _ in range(4))
    run.run.display_name, run.run.run_group = "tiny/plain", "tiny"
    for record, key in ((first, "paired_psnr"), (second, "n_done")):
        record.history.item.add(key=key, value_json="6")
    end.exit.exit_code = 0
    return [HEAD, *(piece(1, record.SerializeToString()) for record in (run, first, second, end))]


def save(root, content, run_id="a", opened=0):
    file = root / f"offline-run-2026010{opened}_000000-{run_id}" / f"run-{run_id}.wandb"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return file


def test_a_long_message_is_put_together_again():
    first = b"a" * (32768 - 7 - 7)
    log = HEAD + piece(2, first) + piece(3, b"b" * (32768 - 7)) + piece(4, b"c" * 100)
    log += piece(1, b"d" * (32768 - 107 - 7 - 3)) + b"\0" * 3 + piece(1, b"e")
    assert [len(message) for message in _messages(log)] == [len(first) + 32761 + 100, 32651, 1]
    assert [len(message) for message in _messages(log[:-1])] == [len(first) + 32761 + 100, 32651]
    assert list(_messages(log[: 2 * 32768 + 50])) == []


def test_no_run_is_reported(tmp_path):
    with pytest.raises(UsageError, match="holds no W&B run"):
        offline_runs(tmp_path)


def test_a_whole_file(tmp_path, written):
    assert ended(save(tmp_path, b"".join(written)))
    [found] = offline_runs(tmp_path)
    assert (found.name, found.group, found.id) == ("tiny/plain", "tiny", "a")
    assert found.summary == {"paired_psnr": 6, "n_done": 6} and not found.unfinished


def test_a_file_that_is_cut_is_unfinished_wherever_it_is_cut(tmp_path, written):
    whole = b"".join(written)
    file = save(tmp_path, whole)
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert not ended(file)
        with pytest.raises(UsageError, match="unfinished") as message:
            offline_runs(tmp_path)
        [found] = offline_runs(tmp_path, unfinished=True)
        assert f"{file.parent.name}/run-a.wandb is unfinished: it has no exit record" in found.unfinished
        assert str(message.value).startswith(found.unfinished) and len(str(message.value)) <= 300
        assert "\n" not in str(message.value) and "unfinished=True" in str(message.value)
        there = sum(len(b"".join(written[:count])) <= length for count in (3, 4))
        assert found.summary == dict(list({"paired_psnr": 6, "n_done": 6}.items())[:there])


@pytest.mark.parametrize(
    "hole", [b"\0" * 20, piece(1, b"\xff" * 20), piece(9, b"no piece")], ids=["zeros", "bytes", "kind"]
)
def test_a_damaged_file_is_unfinished(tmp_path, written, hole):
    """Its exit record may be there: what was before it, nobody knows."""
    file = save(tmp_path, b"".join([*written[:3], hole, *written[3:]]))
    assert not ended(file)
    [found] = offline_runs(tmp_path, unfinished=True)
    assert found.unfinished and found.summary == {"paired_psnr": 6}


@pytest.mark.parametrize("cut", [0, 1])
def test_a_run_with_one_unfinished_file_is_unfinished(tmp_path, written, cut):
    contents = [written, written[:-1]]
    for opened in (0, 1):
        save(tmp_path, b"".join(contents[opened == cut]), opened=opened)
    save(tmp_path, b"".join(written), run_id="b")
    save(tmp_path, b"".join(written[:2]), run_id="c")
    with pytest.raises(UsageError, match=rf"offline-run-2026010{cut}_000000-a/run-a.wandb .* \(and 1 more\)"):
        offline_runs(tmp_path)
    found = {run.id: bool(run.unfinished) for run in offline_runs(tmp_path, unfinished=True)}
    assert found == {"a": True, "b": False, "c": True}
