"""Other code beside ours: the same pictures, everything as before, and its times in record and table."""

import json
from types import SimpleNamespace

import pytest
import torch

from postdiff import accelerate
from postdiff.cli import main
from postdiff.engine.errors import UsageError
from postdiff.lab.timing import peers
from postdiff.methods import FORA, DeepCache, PyramidAttentionBroadcast, ToMe
from tests.support.snapshot import snapshot
from tests.support.tiny import build


def job(*methods, stages=()):
    return SimpleNamespace(methods=methods, stages=stages)


WITH_PEER = [
    ("sd_deep", [], "diffusers"),
    ("sd_deep", [DeepCache(interval=3, branch=1)], "DeepCache 0.1.1"),
    ("sd_deep_euler", [DeepCache(interval=2, branch=2, numbering="paper")], "DeepCache 0.1.1"),
    ("sd_ddim", [ToMe(seed=3)], "tomesd 0.1.3"),
    ("dit", [ToMe(rand=False)], "tomesd 0.1.3"),
    ("sd", [PyramidAttentionBroadcast(spatial=2, cross=3, window=[50, 900])], "hooks of diffusers"),
    ("pixart_alpha", [PyramidAttentionBroadcast(spatial=3, cross=3, window=[50, 900])], "hooks of diffusers"),
]


@pytest.mark.parametrize(("name", "methods", "package"), WITH_PEER, ids=lambda value: str(value)[:20])
def test_a_peer_makes_the_same_pictures_and_leaves_no_trace(name, methods, package):
    one = build(name)
    plain = one.call(one.pipe)  # a pipeline notes down its first call
    before = snapshot(one.pipe)
    peer = peers.peer_of(job(*methods), one.pipe)
    assert peer.name.startswith(package)
    for _ in range(2):  # nothing is carried over
        with peer.ready():
            theirs = one.call(one.pipe)
        assert torch.equal(theirs, one.call(accelerate(one.pipe, methods)))
    assert torch.equal(theirs, plain) != bool(methods)
    assert torch.equal(one.call(one.pipe), plain)
    assert snapshot(one.pipe) == before


@pytest.mark.parametrize(
    "methods",
    [[FORA()], [DeepCache(), ToMe()], [DeepCache(restarts=[3])], [DeepCache(schedule="nonuniform")]],
    ids=str,
)
def test_where_nobody_does_the_same(case, methods):
    assert peers.peer_of(job(*methods), case("sd_deep").pipe) is None


def test_the_helper_counts_on_two_layers_a_block(case):
    assert peers.peer_of(job(DeepCache()), case("sd_deep").pipe) is not None
    assert peers.peer_of(job(DeepCache()), case("sd").pipe) is None
    assert peers.peer_of(job(DeepCache(), stages=("a", "b")), case("sd_deep").pipe) is None


def test_a_missing_package_is_named(case, monkeypatch):
    monkeypatch.setattr(peers, "version", lambda name: (_ for _ in ()).throw(peers.PackageNotFoundError(name)))
    with pytest.raises(UsageError, match=r"needs tomesd, .*postdiff\[official\]"):
        peers.peer_of(job(ToMe()), case("sd").pipe)


def test_bench_from_the_command_line(outputs, capsys):
    words = ["bench", "demo", "--rows", "steps_20,deepcache", "steps=2", "bench.repeats=3", "count=1", "seeds=[0]"]
    assert main([*words, "bench.official=true", "--format", "json"]) == 0
    plain, cached = json.loads(capsys.readouterr().out)
    assert plain["official"].startswith("diffusers") and plain["official_difference"] == 0
    assert plain["official_ratio_q25"] <= plain["official_ratio"] <= plain["official_ratio_q75"]
    assert plain["speedup"] == plain["loop_speedup"] == plain["ideal"] == plain["realised"] == 1
    assert 0 < plain["loop_s"] < plain["time_s"] and plain["pictures_per_s"] == pytest.approx(1 / plain["time_s"])
    assert "official" not in cached and cached["ideal"] > 1
    assert cached["realised"] == pytest.approx(cached["loop_speedup"] / cached["ideal"])
    record = json.loads((outputs / "records" / "demo" / "steps_20.speed.json").read_text())
    assert len(record["latency"]["rounds_s"]) == len(record["latency"]["loop_rounds_s"]) == 3
    assert record["latency"]["environment"]["threads"] >= 1
    assert main(["bench", *words[1:]]) == 0
    table = capsys.readouterr().out
    assert "of ideal" in table and "beside" not in table
