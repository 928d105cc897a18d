"""The training of the model that combines: what it may see, and that a run in several sittings is one run."""

import itertools
import json
import random
import time
from types import SimpleNamespace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from experiments.styles import __main__ as training
from experiments.styles import dual_encoder, sittings
from experiments.styles.captions import COLOURS, PARTS, STYLES, Subject, parse, thin
from experiments.styles.drawings import Drawings
from experiments.styles.dual_encoder import PairBatches
from experiments.styles.export import steps_before
from experiments.styles.icons import read_concepts
from experiments.styles.judge import Judge, nearest_colour
from experiments.styles.judge_images import held_bank, seen_bank
from experiments.styles.latents import LEARNT, Captions, LatentBatches, encode_ahead
from experiments.styles.ship import ship
from experiments.styles.split import Split, choose, read_split
from experiments.styles.treatments import ink, outline, pixelate, premultiply
from experiments.styles.vae import Crops
from postdiff.lab.pipelines import cards
from postdiff.metrics import clip
from tests.support.styles import CONCEPTS, train


def test_captions_are_read_back():
    for concept, style, colour in itertools.product((None, *read_concepts()), (None, *STYLES), (None, *COLOURS)):
        subject = Subject(concept, style, colour)
        assert parse(subject.caption()) == subject
    assert Subject("apple", "pixel", "red").caption() == "apple, pixel style, on a red background"


def test_captions_leave_out_every_choice_of_parts():
    randomness = random.Random(0)
    left = {thin(Subject("apple", "pixel", "red"), randomness).caption() for _ in range(2000)}
    assert len(left) == len(PARTS) and "" in left and "apple" in left
    with pytest.raises(ValueError, match="'oil' is not among cartoon"):
        Subject("apple", "oil")


def test_the_kept_split_holds_a_tenth_out_and_shows_everything():
    split = read_split()
    assert split == choose(list(read_concepts()))
    assert len(split.pairs) == round(0.1 * len(split.concepts) * len(STYLES))
    assert len({concept for concept, _ in split.pairs}) == len(split.pairs)
    seen = list(split.seen())
    assert [{one[place] for one in seen} for place in range(3)] == [set(split.concepts), set(STYLES), set(COLOURS)]
    assert not {one[:2] for one in seen} & split.pairs and not {one[1:] for one in seen} & split.style_colours


def test_no_held_out_image_is_trained_on(drawings, split, state, tmp_path, monkeypatch):
    shown = []
    image = Drawings.image
    monkeypatch.setattr(Drawings, "image", lambda self, *subject: shown.append(subject[:3]) or image(self, *subject))
    crops = Crops(drawings, split)
    for step in range(40):
        assert crops(step)["image"].shape == (16, 3, 32, 32)
    seen_bank(drawings, split)
    train(tmp_path, state / "vae", drawings, split, 1)
    subjects = {(split.concepts[concept], style, colour) for concept, style, colour in shown}
    assert subjects == set(split.seen()) and len(shown) > 600
    assert not any(split.held(*subject) for subject in subjects)
    # The check can see what is held out: the bank of held-out images is nothing else.
    shown.clear()
    held_bank(drawings, split)
    assert shown and all((split.concepts[concept], style) in split.pairs for concept, style, _ in shown)


def test_a_batch_is_that_of_its_latents(drawings, split, state, tmp_path):
    train(tmp_path, state / "vae", drawings, split, 1)
    latents = torch.load(tmp_path / "latents.pt", weights_only=True)
    assert len(latents["subjects"]) == len(list(split.seen())) and latents["full"].shape[1:] == (8, 16, 16)
    module = training.StylesUNet(str(tmp_path / "tokenizer"), (16, 16, 16))
    batches = LatentBatches(latents, Captions(module.tokenizer, split.concepts), 4)
    sides = [batches(step)["latents"].shape for step in (*range(40), *range(LEARNT, LEARNT + 40))]
    assert {*sides} == {(4, 8, 16, 16), (8, 8, 8, 8)}
    # Half size comes most often while shapes are learnt.
    assert sides[:40].count((8, 8, 8, 8)) > 20 > sides[40:].count((8, 8, 8, 8))
    captions = [module.tokenizer.decode(ids, skip_special_tokens=True) for ids in batches(0)["tokens"]]
    assert all(words.split()[0] in (*CONCEPTS, *STYLES, "on") for words in captions if words)
    assert torch.equal(batches(7)["noise"], batches(7)["noise"])
    assert not torch.equal(batches(7)["noise"][:2], batches(8)["noise"][:2])


def test_latents_are_encoded_once(drawings, split, state, tmp_path, monkeypatch):
    class Backwards(frozenset):
        """A set in the order of another process."""

        def __iter__(self):
            return reversed(list(super().__iter__()))

        def __repr__(self):
            return repr(list(self))

    words = (state / "vae", drawings)
    first = encode_ahead(*words, split, tmp_path / "latents.pt", times=1)
    monkeypatch.setattr(Drawings, "image", lambda *_: pytest.fail("encoded again"))
    same = Split(split.concepts, Backwards(split.pairs), Backwards(split.style_colours))
    assert torch.equal(encode_ahead(*words, same, tmp_path / "latents.pt", times=1)["full"], first["full"])
    with pytest.raises(pytest.fail.Exception, match="encoded again"):
        encode_ahead(*words, split, tmp_path / "latents.pt", times=2)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_resumed_run_is_the_same_run(drawings, split, state, tmp_path, precision):
    whole = train(tmp_path / "whole", state / "vae", drawings, split, 5, precision)
    train(tmp_path / "parts", state / "vae", drawings, split, 2, precision)
    parts = train(tmp_path / "parts", state / "vae", drawings, split, 5, precision)
    assert whole["global_step"] == parts["global_step"] == 5
    for kind in ("current_model_state", "state_dict"):
        assert all(torch.equal(value, parts[kind][name]) for name, value in whole[kind].items()), kind
    moments = [one["optimizer_states"][0]["state"] for one in (whole, parts)]
    assert all(torch.equal(moments[0][key]["mean"], moments[1][key]["mean"]) for key in moments[0])
    # The average is not the weights themselves, or the comparison above would say less.
    name = "unet.conv_in.weight"
    assert not torch.equal(whole["state_dict"][name], whole["current_model_state"][name])


def test_shares_of_a_batch_add_up_to_it(drawings, split, state, tmp_path):
    whole = train(tmp_path / "whole", state / "vae", drawings, split, 3)
    shared = [train(tmp_path / name, state / "vae", drawings, split, 3, shares=2) for name in ("one", "two")]
    for name, value in whole["current_model_state"].items():
        # Threads end in any order, and the sum of two gradients does not depend on it.
        assert torch.equal(shared[0]["current_model_state"][name], shared[1]["current_model_state"][name])
        torch.testing.assert_close(shared[0]["current_model_state"][name], value, rtol=0, atol=2e-5)


def test_a_sitting_stops_in_time_and_keeps_its_state(drawings, split, state, tmp_path, monkeypatch):
    clock = itertools.count(0, 10)
    seconds = 0

    class Ticking(sittings.Sitting):
        def on_train_batch_end(self, *words):
            nonlocal seconds
            seconds = next(clock)
            super().on_train_batch_end(*words)

    monkeypatch.setattr(sittings, "Sitting", Ticking)
    monkeypatch.setattr(sittings, "time", SimpleNamespace(monotonic=lambda: seconds))
    # Steps end at 0, 10, 20 and 30 seconds: the last is the first that ends after 25.
    assert train(tmp_path, state / "vae", drawings, split, -1, until=25)["global_step"] == 4
    # A second sitting has its own time, and goes on where the first stopped.
    assert train(tmp_path, state / "vae", drawings, split, -1, until=65)["global_step"] == 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_a_gpu_trains_in_its_minutes(drawings, split, state, tmp_path):
    started = time.monotonic()
    done = train(tmp_path, state / "vae", drawings, split, -1, "bf16-mixed", "gpu", until=started + 20)
    again = train(tmp_path, state / "vae", drawings, split, done["global_step"] + 2, "bf16-mixed", "gpu")
    assert done["global_step"] > 10 and again["global_step"] == done["global_step"] + 2
    assert all(value.isfinite().all() for value in again["state_dict"].values() if value.is_floating_point())


def test_a_killed_sitting_leaves_the_state_before(drawings, split, state, tmp_path, monkeypatch):
    train(tmp_path, state / "vae", drawings, split, 2)
    monkeypatch.setattr(sittings.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(tmp_path, state / "vae", drawings, split, 4)
    assert torch.load(tmp_path / "checkpoints" / "unet.ckpt", weights_only=False)["global_step"] == 2


def test_the_exported_pipeline_starts_at_pure_noise_and_can_start_a_run(drawings, split, state, tmp_path):
    first = train(tmp_path / "one", state / "vae", drawings, split, 1)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "one" / "model")
    assert pipeline.scheduler.config.rescale_betas_zero_snr and pipeline.scheduler.alphas_cumprod[-1] < 1e-6
    for side in (64, 32):
        images = pipeline("cat", num_inference_steps=2, height=side, width=side, output_type="pt").images
        assert images.shape == (1, 3, side, side) and images.isfinite().all()
    again = train(tmp_path / "two", state / "vae", drawings, split, 1, start=tmp_path / "one" / "model", peak=0.0)
    name = "unet.conv_in.weight"
    assert torch.equal(again["current_model_state"][name], first["state_dict"][name].half().float())
    # The new run goes on after the steps of the old one, also when it is taken up again.
    batches = LatentBatches(
        torch.load(tmp_path / "two" / "latents.pt", weights_only=True),
        Captions(training.StylesUNet(str(tmp_path / "two" / "tokenizer"), (16, 16, 16)).tokenizer, split.concepts),
        2,
        steps_before(tmp_path / "two", None),
    )
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "LatentBatches", lambda *words: seen.append(words[-1]) or batches)
        train(tmp_path / "two", state / "vae", drawings, split, 2, start=tmp_path / "one" / "model")
    assert seen == [1] and (tmp_path / "two" / "model" / "training.json").read_text() == '{"steps": 3}\n'


def test_a_run_starts_from_what_is_kept(drawings, split, tmp_path):
    # Of other concepts, and with a rate of zero: what comes out is what went in.
    training.train_unet(tmp_path, drawings, split, float("inf"), 2, "32-true", 1, training.WEIGHTS, times=1, peak=0.0)
    for part in ("vae", "tokenizer"):
        for kept in (training.WEIGHTS / part).iterdir():
            assert (tmp_path / part / kept.name).read_bytes() == kept.read_bytes()
    for part, file in {"unet": "diffusion_pytorch_model.safetensors", "text_encoder": "model.safetensors"}.items():
        made, kept = (load_file(folder / part / file) for folder in (tmp_path / "model", training.WEIGHTS))
        assert made.keys() == kept.keys() and all(torch.equal(made[name], kept[name]) for name in kept), part
    before = json.loads((training.WEIGHTS / "training.json").read_text())["steps"]
    assert json.loads((tmp_path / "model" / "training.json").read_text()) == {"steps": before + 1}
    # The latents are standardised: of other drawings they are still about that wide.
    latents = torch.load(tmp_path / "latents.pt", weights_only=True)["full"].float()
    assert 0.5 < latents.std() < 1.5 and latents.mean().abs() < 0.5


def test_treatments():
    disc = torch.zeros(4, 256, 256, dtype=torch.uint8)
    disc[:, 64:192, 64:192] = 200
    cells = pixelate(torch.rand(4, 64, 64))
    assert torch.equal(cells, cells[:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2))
    line = outline(premultiply(disc))
    assert line[:, 128, 128].item() == 0 and line[:, 0].max() == 0 and line.max() == 1
    full = outline(premultiply(torch.full((4, 256, 256), 200, dtype=torch.uint8)))
    assert full[:, 128, 128].item() == 0  # no line within, whatever stands at the rim
    for colour, values in COLOURS.items():
        assert (ink(colour) - torch.tensor(values).view(3, 1, 1) / 255).abs().max() > 0.4, colour


def test_the_judge_names_every_colour_and_learns_its_step(drawings, split, state):
    bank = seen_bank(drawings, split) + held_bank(drawings, split)
    assert torch.equal(nearest_colour(bank.floats()), bank.subjects[:, 2])
    training.train_judge(
        "style-tried", state, training.judge_bank(state, drawings, split), split, float("inf"), "32-true", max_steps=2
    )
    checkpoint = state / "checkpoints" / "style-tried.ckpt"
    judge = Judge.load_from_checkpoint(checkpoint, weights_only=False)
    assert judge(bank.floats()[:3]).shape == (3, len(STYLES))


def test_the_dual_encoder_learns_and_ships_with_the_pipeline(drawings, split, state, tmp_path):
    bank = seen_bank(drawings, split)
    training.train_dual(state, bank, split, float("inf"), "32-true", max_steps=60)
    captions = Captions(CLIPTokenizer.from_pretrained(state / "dual_encoder"), split.concepts)
    batch = PairBatches(bank, captions)(3)
    assert batch["image"].shape == (len(batch["tokens"]), 3, 64, 64) and len(batch["tokens"]) > len(CONCEPTS)
    assert len({tuple(ids) for ids in batch["tokens"].tolist()}) == len(batch["tokens"])
    assert torch.equal(batch["image"], PairBatches(bank, captions)(3)["image"])
    right = dual_encoder.retrieved(state / "dual_encoder", bank, captions)
    assert right["colour"].mean() > 0.5 > 3 / len(COLOURS) and right["style"].mean() > 0.4
    # Together with a pipeline it is a model that the laboratory reads.
    out, to = tmp_path / "out", tmp_path / "styles"
    train(out, state / "vae", drawings, split, 1)
    (out / "dual_encoder").symlink_to(state / "dual_encoder")
    ship(out, to, drawings, split)
    ship(out, to, drawings, split)  # over what is there
    assert cards.card(str(to)).dual_encoder == str(to / "dual_encoder")
    assert clip.dual_encoder(to / "dual_encoder").features(bank.images[:2]).shape == (2, 96)
    lines = [json.loads(line) for line in (to / "prompts.jsonl").read_text().splitlines()]
    combinations = [(line["concept"], line["style"], line["colour"]) for line in lines]
    assert len({*combinations}) == len(lines) == len(CONCEPTS) * len(STYLES) * len(COLOURS) - len(list(split.seen()))
    assert all(split.held(*one) for one in combinations) and all(parse(line["prompt"]) for line in lines)
    with safe_open(to / "efficientnet_features.safetensors", "pt") as file:
        assert file.get_tensor("features").shape == (len(lines), 1280)
