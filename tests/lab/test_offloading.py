"""`network.offload`: weights wait elsewhere; images and their identities stay, times are told apart."""

import importlib.util

import pytest
import torch
import yaml

from postdiff import accelerate, presets
from postdiff.engine.errors import UsageError
from postdiff.lab.config.experiment import Experiment, Row
from postdiff.lab.config.schema import NetworkConfig, resolve
from postdiff.lab.devices import provenance
from postdiff.lab.generate import pipelines as sampling
from postdiff.lab.pipelines import models, network_options
from postdiff.lab.pipelines.network_options import NetworkOptions
from postdiff.lab.plan import plan
from tests.support import preparations
from tests.support import tiny as pipelines

MODES = ("model", "sequential", "group")
IMAGES = {"output_type": "pt", "num_inference_steps": 4}


def placed(mode):
    """A tiny pipeline whose weights wait; a CPU computes, since hooks do not care."""
    one = pipelines.build("sd", smallest=True)
    network_options.place(one.pipe, mode, "cpu")
    if mode == "sequential":
        preparations.without_number(one)
    return one


def hooks(network):
    """{what a module's offloading is served by: in how many modules}."""
    found = {}
    for module in network.modules():
        own = [
            getattr(module, "_hf_hook", None),
            *getattr(getattr(module, "_diffusers_hook", None), "hooks", {}).values(),
        ]
        for hook in own:
            found[type(hook).__name__] = found.get(type(hook).__name__, 0) + (hook is not None)
    return {name: count for name, count in found.items() if count}


@pytest.mark.parametrize("mode", MODES)
def test_images_stay_bit_for_bit(smallest, mode):
    one, two = smallest("sd")[0], placed(mode)
    networks = {"model": "CpuOffload", "sequential": "AlignDevicesHook", "group": "GroupOffloadingHook"}
    before = hooks(two.pipe.unet)
    assert before[networks[mode]] and hooks(two.pipe.vae)[networks[mode]]
    assert (before[networks[mode]] == 1) == (mode == "model")
    for stack in ([], ["postdiff"], ["mixed_resolution_pixels"]):
        plain, waiting = (accelerate(each.pipe, presets.build_methods(stack)) for each in (one, two))
        with NetworkOptions(two.pipe, NetworkConfig(offload=mode)).around(waiting):
            found = two.call(waiting, **IMAGES)
        assert torch.equal(found, one.call(plain, **IMAGES))
        assert waiting.counts == plain.counts
    assert hooks(two.pipe.unet) == before
    if mode == "sequential":
        assert {weight.device.type for weight in two.pipe.unet.parameters()} == {"meta"}


def jobs_of(rows, **base):
    """Jobs of rows that differ as `rows` says."""
    usual = {"model": "tiny", "data": "tiny", "steps": 2, "count": 1, "seeds": [0], "metrics": []}
    usual |= {"bench": {"batch_size": 2}, **base}
    found = [Row(name, name, resolve([("test", {**usual, **values})]), {}, {}) for name, values in rows.items()]
    return plan.plan_rows(Experiment("offloading", "", "offloading", tuple(found)))


@pytest.fixture
def gpu(monkeypatch):
    """Rows are made ready for a GPU; none is asked for anything."""
    monkeypatch.setattr(provenance, "resolve_device", lambda wanted: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


def test_only_times_know_of_it(tiny, gpu):
    rows = {"plain": {}, **{mode: {"network": {"offload": mode}} for mode in ("none", *MODES)}}
    plain, none, *others = jobs_of(rows, batch_size=2)
    for name in ("run_id", "images_id", "content_id", "references_id"):
        assert {getattr(each, name) for each in (plain, none, *others)} == {getattr(plain, name)}
    assert len({each.speed_id for each in (plain, *others)}) == 4 and none.speed_id == plain.speed_id
    assert len({each.variant for each in (plain, *others)}) == 4 and none.variant == plain.variant
    assert [len(group) for group in plan.same_weights([plain, none, *others])] == [2, 1, 1, 1]
    both = jobs_of({"both": {"network": {"offload": "group", "vae_slicing": True}}}, batch_size=2)[0]
    sliced = jobs_of({"sliced": {"network": {"vae_slicing": True}}}, batch_size=2)[0]
    assert both.images_id == sliced.images_id and both.speed_id != sliced.speed_id


def test_the_reference_run_needs_the_room_too(tiny, gpu):
    [row] = jobs_of({"row": {"network": {"offload": "group", "attention": "math"}}})
    assert row.reference().config.network == NetworkConfig(offload="group")
    assert row.reference().variant == row.variant and row.resolved()["network"]["offload"] == "group"


def test_a_model_card_knows_what_its_model_needs(extended, tiny, monkeypatch):
    card = yaml.safe_load((tiny / "configs" / "models" / "tiny.yaml").read_text())
    file = extended / "configs" / "models" / "large.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump({**card, "offload": "model"}))
    rows = {"usual": {}, "group": {"network": {"offload": "group"}}, "none": {"network": {"offload": "none"}}}
    monkeypatch.setattr(provenance, "resolve_device", lambda wanted: "cuda:0")
    assert [one.config.network.offload for one in jobs_of(rows, model="large")] == ["model", "group", None]
    monkeypatch.setattr(provenance, "resolve_device", lambda wanted: "cpu")
    assert [one.config.network.offload for one in jobs_of({"usual": {}}, model="large")] == [None]


def test_a_pipeline_is_never_on_the_gpu_as_a_whole(tiny, gpu, monkeypatch):
    loaded, placed = [], []
    pipe = pipelines.build("sd", smallest=True).pipe
    monkeypatch.setattr(models, "load", lambda card, dtype, device: loaded.append(device) or pipe)
    monkeypatch.setattr(network_options, "place", lambda pipe, *how: placed.append(how))
    plain, model, other = jobs_of(
        {"a": {}, "b": {"network": {"offload": "model"}}, "c": {"network": {"offload": "group"}}}
    )
    held = sampling.Pipelines()
    for one in (plain, model, model, other, plain):
        held.sampler(one)
    assert loaded == ["cuda", "cpu", "cpu", "cuda"]
    assert placed == [("model", "cuda"), ("group", "cuda")]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"offload": "sequential", "channels_last": True}, "channels_last=true would be lost.*offload=sequential"),
        ({"offload": "group", "compile": True}, "offload=group moves the weights of single layers.*use offload=model"),
        ({"offload": "disk"}, "unknown network.offload 'disk'; choose from: group, model, none, sequential"),
    ],
)
def test_what_it_cannot_go_with_is_refused(tiny, gpu, network, message):
    with pytest.raises(UsageError, match=message):
        jobs_of({"row": {"network": network, "bench": {"warmup": 1}}})


def test_compiled_blocks_go_with_whole_networks_that_wait(tiny, gpu):
    jobs_of({"row": {"network": {"offload": "model", "compile": True}, "bench": {"warmup": 1}}})


def test_a_cpu_has_nothing_to_offload_from(tiny, refused):
    line = refused("run", "tiny", "network.offload=model", "device=cpu")
    assert "network.offload=model keeps weights in the computer's memory until a GPU needs them" in line
    assert line.endswith("this row runs on 'cpu'; leave it out")


def test_a_missing_package_is_named(tiny, gpu, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "accelerate" else find(name))
    with pytest.raises(UsageError, match="needs the package accelerate.*pip install accelerate"):
        jobs_of({"row": {"network": {"offload": "model"}}})


def test_a_pipeline_that_diffusers_cannot_offload_is_refused(monkeypatch):
    pipe = pipelines.build("sd", smallest=True).pipe
    monkeypatch.setattr(type(pipe), "model_cpu_offload_seq", None)
    with pytest.raises(UsageError, match="offload=model cannot serve StableDiffusionPipeline: .*model_cpu_offload_seq"):
        network_options.place(pipe, "model", "cpu")
