"""Several processes share the images of a run: the same images and numbers as of one, and one end for all."""

import signal
import time

import pytest
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment

from postdiff.engine.errors import UsageError
from postdiff.lab.config import experiment
from postdiff.lab.config.schema import RunConfig, TrainerConfig
from postdiff.lab.data.samples import Shard, batches, measured_batches, measured_share, pairs, part_of
from postdiff.lab.devices import distributed, placement, processes
from tests.lab import runs
from tests.lab.forks import Fork

pytestmark = pytest.mark.slow

SEVERAL = [*runs.WORDS, "trainer.devices=2"]
FEW = ["metrics=[emoji_text_score]", "steps=2"]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


@pytest.mark.parametrize("launcher", [("-m",), TORCHRUN], ids=["lightning", "torchrun"])
def test_two_devices_are_one(tiny, outputs, tmp_path, monkeypatch, command, launcher):
    # Two batches of each seed, so that each device measures one.
    words = ("run", "tiny", "--rows", "plain", "metrics=[emoji_text_score,emoji_frechet_distance]", "seeds=[0,1,2]")
    words = (*words, "count=4", "bench.repeats=0", "batch_size=2")
    process = runs.start(*words, "trainer.devices=2", launcher=launcher)
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(tmp_path / "one"))
    code, _, err = command(*words)
    assert code == 0, err
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.count("Plain") == 1, "the second process prints as well"
    two, one = runs.record(outputs, "plain"), runs.record(tmp_path / "one", "plain")
    assert two.full and two.device == f"2 x {one.device}" and two.run_id == one.run_id
    assert runs.hashes(outputs, "plain") == runs.hashes(tmp_path / "one", "plain")
    frechet, alone = (found.metrics.pop("emoji_frechet_distance") for found in (two, one))
    assert two.metrics == one.metrics, "means over images differ in bits"
    assert frechet.value == pytest.approx(alone.value, rel=1e-9) and frechet.identity == alone.identity
    assert (two.macs, two.counts) == (one.macs, one.counts)


@pytest.mark.parametrize("place", [0, 1])
def test_a_device_that_dies_ends_all(extended, outputs, tmp_path, place):
    """Whoever it is, the others do not wait for it, and what is made stays."""
    body = (
        f"if os.environ.get('LOCAL_RANK') == '{place}' and len(output) > 1:\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    runs.add_method(extended, "dying", body)
    began = time.monotonic()
    process = Fork(["run", "tiny", "--rows", "plain", "methods=[dying]", *FEW, *SEVERAL], folder=tmp_path)
    _, err = process.communicate()
    message = [line for line in err.splitlines() if line.startswith("postdiff: error:")]
    if place == 1:
        assert process.returncode == 2 and len(message) == 1, err
        assert "device 2 of 2 ended with code -9; finished images are kept" in message[0]
    else:
        assert process.returncode == -9
    assert time.monotonic() - began < 250
    until = time.monotonic() + 20
    while process.left() and time.monotonic() < until:
        time.sleep(0.05)
    assert not process.left(), "a process of the run goes on"
    assert not list((outputs / "records").rglob("*.json"))


def test_a_mistake_that_one_device_meets_is_reported_once(extended, outputs, tmp_path):
    body = "if os.environ.get('LOCAL_RANK') == '1' and len(output) > 1:\n    output = output * float('nan')"
    runs.add_method(extended, "poison", body)
    process = Fork(["run", "tiny", "--rows", "plain", "methods=[poison]", *FEW, *SEVERAL], folder=tmp_path)
    _, err = process.communicate()
    message = [line for line in err.splitlines() if line.startswith("postdiff: error:")]
    assert process.returncode == 2 and len(message) == 1 and "Traceback" not in err, err
    assert "device 2 of 2: row 'plain': image 1 ('an apple', seed 1) holds NaN or infinity from step 0 on" in message[0]


def test_nothing_is_made_or_measured_twice():
    samples = pairs([str(number) for number in range(7)], [0, 1])
    whole = batches(samples, 3)
    for devices in (2, 3, 6):
        shares = [Shard(number + 1, devices) for number in range(devices)]
        made = [part_of(whole, share) for share in shares]
        assert sorted(map(str, (batch for share in made for batch in share))) == sorted(map(str, whole))
        assert max(map(len, made)) - min(map(len, made)) <= 1
        cut = measured_batches(samples, 3)
        measured = [[sample for batch in measured_share(cut, share) for sample in batch] for share in shares]
        for seed in (0, 1):
            joined = [sample for share in measured for sample in share if sample.seed == seed]
            assert joined == [sample for sample in samples if sample.seed == seed], "order is not kept"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.devices=0"], "trainer.devices=0 is too small"),
        (["trainer.accelerator=tpu"], "unknown trainer.accelerator 'tpu'"),
        (["trainer.strategy=dpd"], "did you mean 'ddp'"),
        (["trainer.device=2"], "did you mean 'trainer.devices'"),
        (["device=cpu", "trainer.accelerator=gpu"], "device=cpu and trainer.accelerator=gpu differ"),
        (["store=jpg"], "unknown store 'jpg'"),
    ],
)
def test_mistakes(tiny, refused, words, message):
    assert message in refused("run", "tiny", *words)


def test_more_gpus_than_there_are(tiny, refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "this machine has 2 CUDA devices" in refused("run", "tiny", "trainer.devices=3")
    with pytest.raises(UsageError, match="names one GPU"):
        placement.device(RunConfig(device="cuda:1", trainer=TrainerConfig(devices=2)))
    assert placement.device(RunConfig(trainer=TrainerConfig(devices=2))) == "cuda"
    assert placement.device(RunConfig(trainer=TrainerConfig(accelerator="cpu", devices=4))) == "cpu"


def test_torchrun_with_another_number_of_processes(tiny, refused, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert "torchrun started 4 processes" in refused("run", "tiny", "trainer.devices=2")


def test_rows_on_different_devices_are_refused(tiny):
    rows = experiment.load("tiny").rows
    configs = [rows[0].config, RunConfig(trainer=TrainerConfig(devices=2))]
    with pytest.raises(UsageError, match="ask for different devices"):
        placement.common(configs)


def test_slurm_puts_the_job_back(tmp_path, monkeypatch, capfd):
    script = tmp_path / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name, value in {
        "JOB_ID": "77",
        "NTASKS": "2",
        "NTASKS_PER_NODE": "2",
        "PROCID": "0",
        "JOB_NAME": "row",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    environment = distributed.cluster()
    assert isinstance(environment, SLURMEnvironment)
    before = signal.getsignal(signal.SIGUSR1)
    with processes.requeue(environment):
        signal.raise_signal(signal.SIGUSR1)
    assert (tmp_path / "asked").read_text() == "requeue 77\n" and signal.getsignal(signal.SIGUSR1) == before
    assert "SLURM job 77 goes back into the queue" in capfd.readouterr().err
