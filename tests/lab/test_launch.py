"""Rows as jobs: for real by submitit on this machine, on SLURM with programs that stand in for its own."""

import sys

import pytest

from postdiff.lab import launch
from tests.lab import runs

pytestmark = pytest.mark.slow

ROWS = ["count=2", "seeds=[0]", "bench.repeats=0"]


@pytest.fixture
def local(monkeypatch):
    """submitit's executor for this machine in the place of SLURM."""
    pytest.importorskip("submitit")
    monkeypatch.setattr(launch, "CLUSTER", "local")


def test_rows_run_as_jobs_and_the_table_follows(tiny, outputs, command, local):
    code, out, err = command("launch", "tiny", "--wait", "--shards", "2", "--rows", "cached", *ROWS)
    assert code == 0, err
    assert out.count(": job ") == 2 and f"logs: {outputs / 'jobs' / 'tiny'}" in out and "Cached" in out
    assert runs.record(outputs, "cached").full
    code, out, err = command("launch", "tiny", "--wait", "--rows", "cached", *ROWS)
    assert code == 0 and ": job " not in out and "Cached" in out, "a finished row was launched again"


def test_a_job_that_fails_is_reported_with_its_reason(tiny, outputs, command, local):
    code, _, err = command("launch", "tiny", "--wait", "--rows", "plain", "height=33", *ROWS)
    message = [line for line in err.splitlines() if line.startswith("postdiff: error:")]
    assert code == 2 and len(message) == 1 and "1 of 1 jobs failed, first plain: row 'plain'" in message[0], err
    assert "divisible by 8" in message[0]


def test_a_dry_run_only_reports(tiny, outputs, command):
    words = ("--dry-run", "--shards", "2", "slurm.gpus=2", "steps=3", "methods=[]")
    code, out, _ = command("launch", "tiny", *words)
    assert code == 0 and not outputs.exists()
    assert "postdiff run tiny --rows plain --no-bench --shard 1/2 steps=3 'methods=[]'" in out
    assert out.count("postdiff run") == 4 and "'gpus_per_node': 2" in out


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Programs named as SLURM's; gives the file that sbatch was handed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {
        "sbatch": f'cp "$1" {tmp_path}/submitted; echo "Submitted batch job 4242"',
        "srun": "exit 0",
        "sacct": "exit 0",
    }
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return tmp_path / "submitted"


def test_slurm_is_asked_for_what_the_rows_need(tiny, outputs, command, slurm):
    pytest.importorskip("submitit")
    words = ["slurm.partition=gpu", "slurm.time=90", "slurm.requeue=5", "trainer.devices=4", "trainer.num_nodes=2"]
    code, out, err = command("launch", "tiny", "--rows", "plain", *words, *ROWS)
    assert code == 0 and "plain: job 4242" in out, err
    asked = slurm.read_text()
    for line in (
        "partition=gpu",
        "time=90",
        "nodes=2",
        "ntasks-per-node=4",
        "gpus-per-node=4",
        "job-name=postdiff-tiny",
    ):
        assert f"#SBATCH --{line}" in asked
    assert not (outputs / "records").exists(), "it waited or ran the row here"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shards", "0"], "--shards 0 is too small"),
        (["slurm.partition=gpu"], "there is no SLURM here"),
        (["stps=3"], "did you mean 'steps'"),
    ],
)
def test_mistakes(tiny, outputs, refused, words, message, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "/nowhere")
    assert message in refused("launch", "tiny", *words)


def test_an_unknown_resource(tiny, outputs, refused, slurm):
    pytest.importorskip("submitit")
    line = refused("launch", "tiny", "slurm.partitoin=gpu")
    assert "unknown SLURM resource 'partitoin'; did you mean 'partition'" in line


def test_without_submitit(tiny, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert "pip install 'postdiff[launch]'" in refused("launch", "tiny")
