"""W&B and TensorBoard get what the record says, send nothing unasked, and break nothing."""

import csv
import json
import os
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from postdiff.engine.errors import UsageError
from postdiff.lab.config import experiment
from postdiff.lab.devices import distributed
from postdiff.lab.loggers import content, log, wandb_logger
from postdiff.lab.loggers.wandb_reader import ended, offline_runs
from postdiff.lab.plan import plan
from postdiff.lab.records.record import Record
from postdiff.lab.records.stored import images_of

FAST = ("run", "tiny", "--rows", "plain", "bench.repeats=0")


def prepared(row="plain", **changes):
    [one] = plan.plan_rows(experiment.load("tiny", changes).select([row]))
    return one


def record(outputs, row="plain", kind=""):
    return Record.read(outputs / "records" / "tiny" / f"{row}{kind}.json")


@pytest.fixture(autouse=True)
def fresh_server(monkeypatch):
    """What one test saw of a server is nothing to the next."""
    monkeypatch.setattr(log._Server, "answered", False)
    monkeypatch.setattr(log._Server, "lost", False)


def test_an_offline_run_holds_all_that_the_record_says(tiny, outputs, command):
    words = ("run", "tiny", "--rows", "cached", "bench.repeats=1", "wandb=offline", "logger.tags=[mine]", "count=2")
    code, _, err = command(*words, "logger.images=3", "step_scores=true")
    assert code == 0 and "warning" not in err, err
    [found] = offline_runs()
    made, timed = record(outputs, "cached"), record(outputs, "cached", ".speed")
    assert (found.name, found.group) == ("tiny/cached", "tiny")
    assert found.id == content.run_name(prepared("cached", count=2))
    assert set(found.tags) == {"tiny", "deepcache", "mine"}
    assert found.config["run_id"] == made.run_id and found.config["steps"] == made.config["steps"] == 4
    assert found.config["record"]["checkpoint"] == made.checkpoint
    for name, value in made.metrics.items():
        assert found.summary[name] == pytest.approx(value.value)
        assert found.summary[f"{name}_spread"] == pytest.approx(value.spread)
        assert {seed: found.summary[f"seeds/{name}/{seed}"] for seed in value.per_seed} == pytest.approx(value.per_seed)
        assert found.config["identity"][name] == value.identity
    assert found.summary["macs/denoiser/dense"] == made.macs["denoiser"]["dense"]
    assert found.summary["counts/deepcache hits"] == made.counts["deepcache hits"] > 0
    assert found.summary["latency/median_s"] == pytest.approx(timed.latency["median_s"])
    [(metric, by_seed)] = made.curves.items()
    assert found.curves == {f"curves/{metric}/{seed}": pytest.approx(curve) for seed, curve in by_seed.items()}


def test_the_table_holds_images_with_prompts_seeds_and_their_own_figures(tiny, outputs, command):
    assert command(*FAST, "wandb=offline", "logger.images=4")[0] == 0
    [found] = offline_runs()
    [(key, rows)] = found.tables.items()
    assert key == "images" and len(rows) == 4
    with (outputs / "records" / "tiny" / "plain.csv").open() as stream:
        values = {(row["seed"], row["index"]): row for row in csv.DictReader(stream)}
    one = prepared()
    for row, sample in zip(rows, one.samples, strict=False):
        assert (row["prompt"], row["seed"], row["index"]) == (sample.prompt, sample.seed, sample.index)
        own = values[str(row["seed"]), str(row["index"])]
        assert row["paired_psnr"] == pytest.approx(float(own["paired_psnr"]))
        with Image.open(row["image"]) as sent:
            drawn = images_of(one).read([sample])[0].permute(1, 2, 0).numpy()
            assert np.array_equal(np.array(sent.convert("RGB")), drawn)
        assert outputs in Path(row["image"]).parents, "W&B keeps its files somewhere else"


@pytest.fixture
def ends(monkeypatch):
    """What tells W&B that a run is at its end, and to close its file: held back, long after `finish`, to be called."""
    connection = pytest.importorskip("wandb.sdk.lib.service.service_connection").ServiceConnection
    inform, held = connection.inform_finish, []
    monkeypatch.setattr(connection, "inform_finish", lambda self, run_id: held.append(partial(inform, self, run_id)))
    yield held
    while held:
        held.pop()()


def test_the_file_is_whole_when_the_command_returns(tiny, outputs, command, ends, monkeypatch):
    wait = wandb_logger._wait_for_end

    def later(file, patience):
        assert not ended(file)
        threading.Timer(0.3, ends.pop()).start()
        wait(file, patience)

    monkeypatch.setattr(wandb_logger, "_wait_for_end", later)
    code, _, err = command(*FAST, "wandb=offline", "count=2", "metrics=[paired_psnr]")
    assert code == 0 and "warning" not in err, err
    [found] = offline_runs()
    assert found.summary["n_done"] == 4 and not found.unfinished


def test_a_file_that_does_not_come_to_its_end_is_one_warning(tiny, outputs, command, ends, monkeypatch):
    wait = wandb_logger._wait_for_end
    monkeypatch.setattr(wandb_logger, "_wait_for_end", lambda file, patience: wait(file, patience / 1000))
    code, out, err = command(*FAST, "wandb=offline", "count=2", "metrics=[paired_psnr]")
    [line] = [line for line in err.splitlines() if "warning" in line]
    assert code == 0 and "Plain" in out and record(outputs).full
    [file] = outputs.rglob("run-*.wandb")
    assert "row 'plain'" in line and f"W&B has not written {file} to its end" in line and "after 0.12 s" in line
    with pytest.raises(UsageError, match="unfinished"):
        offline_runs()
    [found] = offline_runs(unfinished=True)
    assert "no exit record" in found.unfinished


def test_no_images_are_sent_if_none_are_wanted(tiny, outputs, command):
    assert command(*FAST, "wandb=offline", "logger.images=0")[0] == 0
    assert offline_runs()[0].tables == {}


def test_the_same_row_is_the_same_run(tiny, outputs, command):
    command(*FAST, "wandb=offline", "count=2", "metrics=[paired_psnr]")
    command(*FAST, "wandb=offline", "count=2", "metrics=[paired_psnr,paired_ssim]")
    command("bench", *FAST[1:4], "bench.repeats=1", "wandb=offline", "count=2")
    [found] = offline_runs()
    assert {"paired_psnr", "paired_ssim", "latency/median_s"} <= found.summary.keys()
    assert len(list(outputs.rglob("run-*.wandb"))) == 3
    assert command(*FAST, "wandb=offline", "count=2", "steps=5")[0] == 0
    assert [one.config["steps"] for one in offline_runs()] == [4, 5], "other settings are another run"


def test_a_row_that_is_done_is_logged_when_it_is_asked_for(tiny, outputs, command):
    words = ("run", "tiny", "--rows", "plain", "bench.repeats=1", "count=2")
    command(*words)
    with pytest.raises(UsageError, match="no W&B run"):
        offline_runs()
    code, _, err = command(*words, "wandb=offline")
    assert code == 0 and "done already" in err
    [found] = offline_runs()
    assert found.summary["paired_psnr"] == pytest.approx(record(outputs).metrics["paired_psnr"].value)
    assert found.summary["latency/repeats"] == 1 and len(found.tables["images"]) == 4


def test_parts_are_logged_when_the_last_is_there(tiny, outputs, command):
    command(*FAST, "wandb=offline", "--shard", "1/2")
    assert not (outputs / "wandb").exists()
    command(*FAST, "wandb=offline", "--shard", "2/2")
    assert offline_runs()[0].summary["n_done"] == 6


def test_only_the_first_device_logs(tiny, outputs, monkeypatch):
    monkeypatch.setattr(distributed, "is_rank_zero", lambda: False)
    one = prepared(wandb="offline", tensorboard=True)
    assert log.start(one) == []
    log.relog(one)
    assert not outputs.exists()


def test_a_row_that_failed_leaves_no_open_run(tiny, outputs):
    first, second = prepared("plain", wandb="offline"), prepared("cached", wandb="offline")
    log.start(first)  # and never finished
    [opened] = log.start(second)
    assert opened.run.id == content.run_name(second) != content.run_name(first)
    opened.close()


def failing(*_):
    raise ConnectionError("the server\nhas gone.")


@pytest.mark.parametrize("at", ["quality", "close"])
def test_a_failure_at_the_end_is_a_warning(tiny, outputs, command, monkeypatch, at):
    act = getattr(wandb_logger.WandbLogger, at)
    monkeypatch.setattr(wandb_logger.WandbLogger, at, failing)
    code, out, err = command(*FAST, "wandb=offline")
    monkeypatch.setattr(wandb_logger.WandbLogger, at, act)
    [line] = [line for line in err.splitlines() if "warning" in line]
    assert code == 0 and "Plain" in out and record(outputs).full
    assert "row 'plain'" in line and "(the server has gone)" in line and "record is not affected" in line


def test_a_server_that_goes_away_stops_nothing(tiny, outputs, command, monkeypatch):
    """The first row is taken, the second finds nobody: it and all later ones are kept on disk."""
    opened = []
    start = wandb_logger.WandbLogger.__init__

    def answering_once(self, row, offline=False):
        if row.config.wandb == "online" and not offline and opened:
            raise UsageError("W&B did not start (no network)")
        opened.append((row.name, offline))
        start(self, row, offline=True)  # there is no server here either
        self.offline = offline

    monkeypatch.setattr(wandb_logger.WandbLogger, "__init__", answering_once)
    code, _, err = command("run", "tiny", "bench.repeats=1", "wandb=online")
    assert code == 0, err
    assert opened == [("plain", False), ("cached", True), ("plain", True), ("cached", True)]
    [line] = [line for line in err.splitlines() if "warning" in line]
    assert "no network" in line and "wandb sync" in line and str(outputs / "wandb") in line
    assert {one.name for one in offline_runs()} == {"tiny/plain", "tiny/cached"}


def test_what_a_lost_server_did_not_take_is_kept_offline(tiny, outputs, command, monkeypatch):
    start, quality_of = wandb_logger.WandbLogger.__init__, wandb_logger.WandbLogger.quality

    def unreachable(self, row, offline=False):
        start(self, row, offline=True)  # there is no server here
        self.offline = offline

    def sent(self, *given):
        if not self.offline:
            raise TimeoutError("Timed out.")
        quality_of(self, *given)

    monkeypatch.setattr(wandb_logger.WandbLogger, "__init__", unreachable)
    monkeypatch.setattr(wandb_logger.WandbLogger, "quality", sent)
    code, _, err = command(*FAST, "wandb=online")
    [line] = [line for line in err.splitlines() if "warning" in line]
    assert code == 0 and "(Timed out)" in line and "wandb sync" in line
    [found] = offline_runs()
    assert found.summary["paired_psnr"] == pytest.approx(record(outputs).metrics["paired_psnr"].value)
    assert len(found.tables["images"]) == 6


def test_a_missing_package_is_reported_before_anything_is_drawn(tiny, outputs, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "pip install" in refused(*FAST, "wandb=online") and not (outputs / "images").exists()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    line = refused(*FAST, "tensorboard=true")
    assert "tensorboard=false" in line and not (outputs / "images").exists()


OFFLINE_THEN_ONLINE = """
import socket, sys, time
asked = []
connect = socket.socket.connect
def blocked(self, address):
    # W&B's own process is spoken to on this machine.
    if self.family != socket.AF_UNIX and (address[0] not in ("127.0.0.1", "::1") or address[1] == int(sys.argv[1])):
        asked.append(address)
        raise OSError("blocked")
    return connect(self, address)
socket.socket.connect = blocked
from postdiff import cli
words = ["run", "tiny", "--rows", "plain", "bench.repeats=0", "count=1", "seeds=[0]", "metrics=[paired_psnr]"]
code = cli.main([*words, "wandb=offline"])
import wandb
wandb.teardown()  # W&B's own process ends, and with it all that it may have to send
print("offline", code, asked, flush=True)
sys.stdin.readline()
socket.socket.connect = connect
began = time.monotonic()
print("online", cli.main([*words, "steps=5", "wandb=online", "logger.timeout=3"]), time.monotonic() - began, flush=True)
"""


def test_offline_sends_nothing_and_online_without_a_network_ends_soon(tiny, outputs):
    """Everything that W&B could reach is a door here that counts who knocks: its server, and every proxy."""
    knocks = []
    door = socket.create_server(("127.0.0.1", 0))
    port = door.getsockname()[1]

    def count():
        while True:
            try:
                caller, _ = door.accept()
            except OSError:
                return
            knocks.append(caller.getpeername())
            caller.close()

    threading.Thread(target=count, daemon=True).start()
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), f"http://127.0.0.1:{port}")
    environment = {**os.environ, **proxies, "WANDB_BASE_URL": f"http://127.0.0.1:{port}", "WANDB_API_KEY": "0" * 40}
    for name in ("WANDB_MODE", "no_proxy", "NO_PROXY"):
        environment.pop(name, None)
    began = time.monotonic()
    script = subprocess.Popen(
        [sys.executable, "-c", OFFLINE_THEN_ONLINE, str(port)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        # Tables go to stdout as well.
        offline = next(line for line in script.stdout if line.startswith("offline"))
        assert offline.split(maxsplit=2)[1:] == ["0", "[]\n"], offline
        # Who knocks is counted in turn: once this knock is answered, all before it are counted.
        with socket.create_connection(("127.0.0.1", port)) as own:
            own.recv(1)
            assert time.monotonic() - began < 300 and knocks == [own.getsockname()], "an offline run has knocked"
        knocks.clear()
        out, err = script.communicate("\n", timeout=300)
    finally:
        script.kill()
        door.close()
    online = next(line for line in out.splitlines() if line.startswith("online")).split()
    assert online[1] == "2" and float(online[2]) < 60 and knocks, "W&B's own patience is 90 seconds"
    errors = [line for line in err.splitlines() if line.startswith("postdiff: error")]
    assert len(errors) == 1 and "W&B did not start" in errors[0] and "wandb=offline" in errors[0], err
    assert "Traceback" not in err and len(list((outputs / "images").iterdir())) == 2, "it generated before it asked"


def events(outputs, row):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [folder] = (outputs / "tensorboard" / "tiny" / row).iterdir()
    found = EventAccumulator(str(folder), {"images": 0, "scalars": 0, "tensors": 0})
    return found.Reload()


def test_tensorboard_reads_it_back(tiny, outputs, command):
    words = ("run", "tiny", "--rows", "cached", "bench.repeats=1", "tensorboard=true", "logger.images=3")
    code, _, err = command(*words)
    assert code == 0 and "warning" not in err, err
    found, made = events(outputs, "cached"), record(outputs, "cached")
    for name, value in made.metrics.items():
        assert found.Scalars(name)[-1].value == pytest.approx(value.value, rel=1e-5)
    assert found.Scalars("macs/denoiser/dense")[-1].value == pytest.approx(made.macs["denoiser"]["dense"], rel=1e-5)
    timed = record(outputs, "cached", ".speed")
    assert found.Scalars("latency/median_s")[-1].value == pytest.approx(timed.latency["median_s"], rel=1e-5)
    images = found.Tags()["images"]
    assert len(images) == 3 and all("seed 0" in name for name in images)
    [image] = found.Images(images[0])
    assert (image.width, image.height) == (32, 32)
    [text] = found.Tensors("config/text_summary")
    assert f"run_id: {made.run_id}" in text.tensor_proto.string_val[0].decode()
    [table] = found.Tensors("images/text_summary")
    assert table.tensor_proto.string_val[0].decode().count("\n") == 5
    assert command(*words, "--fresh")[0] == 0, "the second run stumbled over the first"
    assert len(list((outputs / "tensorboard" / "tiny" / "cached").iterdir())) == 1


OWN = """
import json
from postdiff.lab.loggers import content
from postdiff.lab.loggers.base import Logger

class Lines(Logger):
    \"\"\"One line of JSON a record.\"\"\"

    def quality(self, record, images):
        self.write({**content.numbers(record), "size": list(images.read(self.plan.samples[:1]).shape)})

    def speed(self, record):
        self.write(content.times(record))

    def write(self, numbers):
        with open(FILE, "a") as file:
            print(json.dumps({"row": self.plan.name, **numbers}), file=file)
"""


def test_a_logger_of_ones_own(extended, outputs, command, refused, tmp_path):
    (extended / "loggers").mkdir()
    (extended / "loggers" / "lines.py").write_text(OWN.replace("FILE", repr(str(tmp_path / "rows.jsonl"))))
    words = ("run", "tiny", "--rows", "plain", "bench.repeats=1", "count=2", "metrics=[paired_psnr]")
    code, out, err = command("list", "loggers")
    assert code == 0 and "lines        One line of JSON a record." in out and "tensorboard" in out, err
    assert "did you mean 'lines'" in refused(*words, "logger.names=[line]") and not (outputs / "images").exists()
    code, _, err = command(*words, "logger.names=[lines]")
    assert code == 0 and "warning" not in err, err
    made, timed = (json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines())
    assert made["paired_psnr"] == pytest.approx(record(outputs).metrics["paired_psnr"].value)
    assert made["size"] == [1, 3, 32, 32] and made["row"] == timed["row"] == "plain"
    assert timed["latency/median_s"] > 0


def test_a_logger_of_ones_own_that_fails_stops_nothing(extended, outputs, command, refused):
    (extended / "loggers").mkdir()
    (extended / "loggers" / "lines.py").write_text(OWN)  # FILE is no name
    words = ("run", "tiny", "--rows", "plain", "bench.repeats=0", "count=2", "metrics=[paired_psnr]")
    code, _, err = command(*words, "logger.names=[lines]")
    [line] = [line for line in err.splitlines() if "warning" in line]
    assert code == 0 and "row 'plain' is not logged whole (name 'FILE' is not defined)" in line
    (extended / "loggers" / "broken.py").write_text("1 / 0")
    message = refused(*words, "logger.names=[broken]", "steps=3")
    assert "logger 'broken' cannot be imported" in message and "line 1: ZeroDivisionError" in message


def test_tags_are_no_longer_than_wandb_takes(tiny):
    one = prepared(logger={"tags": ["t" * 99, "", "tiny"]})
    assert content.tags(one) == ["tiny", "t" * 64]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("logger.images=-1", "use at least 0"),
        ("logger.timeout=0", "use one above 0"),
        ("logger.project=[a]", "logger.project"),
        ("logger.imgaes=3", "did you mean 'logger.images'"),
        ("tensorboard=often", "tensorboard"),
    ],
)
def test_mistakes_are_reported(tiny, refused, words, message):
    assert message in refused("run", "tiny", words)


def test_loggers_change_no_identity(tiny):
    plain, message = prepared(), prepared(wandb="offline", tensorboard=True, logger={"tags": ["a"], "images": 1})
    for name in ("run_id", "speed_id", "images_id", "references_id", "content_id"):
        assert getattr(plain, name) == getattr(message, name)
    assert content.run_name(plain) == content.run_name(message) == content.run_name(prepared(batch_size=1))
    assert content.run_name(plain) != content.run_name(prepared(seeds=[0]))
