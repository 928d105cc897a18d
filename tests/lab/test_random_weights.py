"""Real shapes with random weights: only speed is measured of them, and nothing is downloaded."""

import json

import pytest
import torch

from postdiff import catalog, hub
from postdiff.cost.macs import count_macs
from postdiff.cost.structures import real_size
from postdiff.lab.config import experiment, schedulers
from postdiff.lab.data import samples as samples_
from postdiff.lab.generate.pipelines import Pipelines
from postdiff.lab.pipelines import adapters, cards, models, random_weights
from postdiff.lab.pipelines.random_weights import fill, unfilled
from postdiff.lab.plan.plan import plan_rows
from postdiff.lab.records.record import Record

CARD = cards.card("emoji")
WORDS = ("weights=random", "steps=4", "bench.repeats=1", "bench.warmup=0")


@pytest.fixture(scope="module")
def pipe():
    return random_weights.load(CARD, "float32", "cpu")


def plan(methods=(), **changes):
    given = {"weights": "random", "count": 2, "seeds": [0], "steps": 4, "methods": list(methods), **changes}
    return plan_rows(experiment.load("demo", given).select(["steps_20"]))[0]


def drawn(of, samples=None):
    return Pipelines().sampler(of).call(of.samples if samples is None else samples).images


def test_the_shapes_are_those_of_the_shipped_model(pipe):
    shipped = models.load(CARD, "float32", "cpu")
    for part in ("unet", "vae"):
        ours, theirs = (
            {name: tensor.shape for name, tensor in getattr(one, part).state_dict().items()} for one in (pipe, shipped)
        )
        assert ours == theirs
    assert pipe.text_encoder is None
    assert pipe.vae_scale_factor == shipped.vae_scale_factor == 4


def test_weights_are_fixed_by_the_seed_and_the_global_numbers_stay(pipe):
    before = torch.get_rng_state()
    again, other = (random_weights.load(CARD, "float32", "cpu", seed) for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    for name, weight in pipe.unet.named_parameters():
        assert torch.isfinite(weight).all()
        assert torch.equal(weight, again.unet.get_parameter(name))
        if weight.ndim > 1:
            assert not torch.equal(weight, other.unet.get_parameter(name))


def test_a_block_of_numbers_goes_on_from_weight_to_weight(monkeypatch):
    monkeypatch.setattr("postdiff.lab.pipelines.random_weights.BLOCK", 7)
    monkeypatch.setattr("postdiff.lab.pipelines.random_weights.GAIN", 2.0)
    with unfilled():
        layers = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3), torch.nn.Linear(4, 1))
        layers.register_buffer("table", torch.arange(3.0))
        layers.register_buffer("places", torch.arange(3))
    fill(layers, torch.float16, "cpu", seed=5)
    block = torch.randn(7, generator=torch.Generator().manual_seed(5))
    expected = block.repeat(3)[:16]  # 2 / sqrt(4) times the numbers
    made = torch.cat([layers[0].weight.flatten(), layers[2].weight.flatten()])
    assert torch.equal(made, expected.half())
    assert layers[1].weight.eq(1).all() and layers[0].bias.eq(0).all()
    assert {tensor.dtype for tensor in layers.parameters()} == {torch.float16}
    assert torch.equal(layers.table, torch.arange(3.0).half()) and layers.places.dtype == torch.int64


def test_what_diffusers_keeps_exact_stays_so():
    class Kept(torch.nn.Module):
        _keep_in_fp32_modules = ("norm",)

        def __init__(self):
            super().__init__()
            self.norm, self.linear = torch.nn.LayerNorm(2), torch.nn.Linear(2, 2)

    made = Kept()
    fill(made, torch.bfloat16, "cpu")
    assert (made.norm.weight.dtype, made.linear.weight.dtype) == (torch.float32, torch.bfloat16)


def test_no_number_of_a_call_overflows_in_float16():
    unet = random_weights.load(CARD, "float16", "cpu").unet
    generator = torch.Generator().manual_seed(0)
    # A hundred times what a network is made for: the clean estimates of random predictions are large.
    sample = 100 * torch.randn(1, 4, 8, 8, generator=generator).half()
    words = torch.randn(1, 16, 128, generator=generator).half()
    largest = []
    for module in unet.modules():
        module.register_forward_hook(
            lambda _, inputs, output: largest.append(output.abs().max() if torch.is_tensor(output) else 0)
        )
    with torch.no_grad():
        output = unet(sample, 500, encoder_hidden_states=words).sample
    assert 0.01 < output.float().std() < 10
    assert max(largest) < 6000


def test_runs_are_finite_and_depend_on_each_samples_seed_alone():
    plain, together = plan(), drawn(plan())
    assert together.shape == (2, 3, 64, 64) and torch.isfinite(together).all()
    assert together.std() > 0.01 and not torch.equal(together[0], together[1])
    torch.testing.assert_close(drawn(plain, plain.samples[1:]), together[1:], atol=1e-4, rtol=0)


def test_what_stands_for_a_prompt(pipe):
    samples = samples_.pairs(["a", "b"], [0, 1])
    found = random_weights.inputs(CARD, pipe, samples)
    assert set(found) == {"prompt_embeds", "negative_prompt_embeds"}
    prompts, negative = found["prompt_embeds"], found["negative_prompt_embeds"]
    assert prompts.shape == negative.shape == (4, 16, 128)
    assert len(prompts.flatten(1).unique(dim=0)) == 4 and len(negative.flatten(1).unique(dim=0)) == 1
    assert torch.equal(random_weights.inputs(CARD, pipe, samples[2:])["prompt_embeds"], prompts[2:])


def test_masks_are_whole_and_a_model_without_decoder_ends_in_latents(pipe):
    card, blind = cards.card("pixart_alpha"), cards.card("videofusion")
    samples = samples_.pairs(["a"], [0])
    found = random_weights.inputs(card, pipe, samples)
    assert found["prompt_attention_mask"].eq(1).all() and found["prompt_embeds"].shape == (1, 120, 4096)
    assert found["negative_prompt"] is None and "output_type" not in found
    before, pipe.vae = pipe.vae, None
    try:
        found = random_weights.inputs(blind, pipe, samples)
    finally:
        pipe.vae = before
    assert found["output_type"] == "latent" and "num_frames" not in found


STACK = [
    {"mixed_resolution": {"beta": 0.5, "switch": 0.5}},
    {"deepcache": {"interval": 2, "branch": 1}},
    {"cross_attention_cache": {"gate": 0.75}},
]


@pytest.mark.parametrize("methods", [STACK, ["tome", {"encoder_propagation": {"keys": 2}}]])
def test_work_is_what_is_counted_without_weights(methods):
    one = plan(methods)
    sampler = Pipelines().sampler(one)
    real = count_macs(sampler.pipe, lambda: sampler.call(one.samples[:1]))
    twin = real_size("emoji", schedulers.stand_in())
    found, _ = twin.tally(one.methods, num_inference_steps=4, height=64, width=64, guidance_scale=4.0)
    for part in ("denoiser", "vae"):
        assert found.macs(part) == real[part], part


def test_bench_writes_a_record_that_says_so(outputs, command, monkeypatch):
    monkeypatch.setattr(hub, "fetch_pipeline", lambda *_: pytest.fail("asked the hub"))
    monkeypatch.setattr("postdiff.lab.files.weights.pipeline_index", lambda *_: pytest.fail("read a folder"))
    code, _, err = command("bench", "demo", *WORDS, "--rows", "postdiff")
    assert code == 0, err
    record = Record.read(outputs / "records" / "demo" / "postdiff.speed.json")
    assert (record.checkpoint, record.config["weights"]) == ("random:emoji", "random")
    assert record.latency["median_s"] > 0 and record.macs["denoiser"]["all"] > 0
    assert record.macs["text_encoder"]["all"] == 0


def test_identities_of_trained_rows_do_not_know_of_weights():
    plain = plan_rows(experiment.load("demo", {}).select(["steps_20"]))[0]
    said = plan_rows(experiment.load("demo", {"weights": "trained"}).select(["steps_20"]))[0]
    assert (plain.run_id, plain.speed_id, plain.images_id) == (said.run_id, said.speed_id, said.images_id)
    assert plan(count=16, steps=20).speed_id != plain.speed_id


@pytest.mark.parametrize("words", [("run",), ("score",), ("launch", "--dry-run"), ("export", "--rows", "steps_20")])
def test_images_are_refused_before_anything_is_made(words, outputs, refused):
    line = refused(words[0], "demo", *words[1:], "weights=random")
    assert line.startswith("row 'steps_20': weights=random is for speed alone") and "postdiff bench demo" in line
    assert not outputs.exists()


def test_macs_are_the_same(command):
    words = ("macs", "demo", "--rows", "steps_8", "steps=1", "--format", "json")
    assert json.loads(command(*words)[1]) == json.loads(command(*words, "weights=random")[1])


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (cards.ModelCard(folder="x"), "names none; give its card one, or use weights=trained"),
        (cards.ModelCard(stages={"one": cards.StageCard(folder="x")}), "stage 'one' of model 'mine' names none"),
        (cards.ModelCard(structure="emoji", lora=adapters.Lora(folder="x")), "knows no adapters.*'lora'"),
        (cards.ModelCard(structure="emoji", pipeline="DiTPipeline"), "'emoji' describes a StableDiffusionPipeline"),
        (cards.ModelCard(structure="emojy"), "unknown structure 'emojy'; did you mean 'emoji'"),
    ],
)
def test_cards_that_do_not_say_what_to_build(card, message):
    with pytest.raises(ValueError, match=message):
        random_weights.identity(card, "mine")


def test_speed_experiments_say_what_their_rows_need():
    names = [name for name in catalog.names("experiments") if name.startswith("speed/")]
    published = [name for name in names if experiment.load(name).rows[0].config.model != "emoji"]
    assert len(published) > 4
    for name in published:
        rows = experiment.load(name).rows
        assert {row.config.weights for row in rows} == {"random"}
        plans = plan_rows(experiment.load(name))
        assert len({plan.name for plan in plans}) == len({plan.row.label for plan in plans}) == len(rows)
        assert all(plan.checkpoint.startswith("random:") for plan in plans)
