"""PickScore against its model card's formula, ImageReward against its authors' class, and missing weights."""

import pickle

import pytest
import torch
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from postdiff.engine.errors import UsageError
from postdiff.metrics import checkpoints, image_reward, pick_score
from postdiff.metrics.image_reward import ImageReward, RewardScorer
from postdiff.metrics.pick_score import PairedPickPreference, PickScore, PickScorer
from tests.lab import tiny_folder
from tests.metrics import authors_reward
from tests.metrics.test_metrics import images, near
from tests.support import hub_cache

PROMPTS = ["a number 0", "a longer text about another number", "x"]


def built(metric):
    """As a row has it built."""
    return metric.from_options(None, None)


@pytest.fixture(scope="module")
def pick_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pick") / "weights"
    tiny_folder.save_encoder(folder)
    return folder


@pytest.fixture
def pick(pick_folder, monkeypatch):
    """PickScore's checkpoint is a tiny folder; gives it."""
    monkeypatch.setenv("POSTDIFF_PICKSCORE", str(pick_folder))
    return pick_folder


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward")
    authors_reward.save(folder)
    return folder


@pytest.fixture
def reward(reward_folder, monkeypatch):
    """ImageReward's checkpoint is a tiny folder; gives it."""
    monkeypatch.setenv("POSTDIFF_IMAGEREWARD", str(reward_folder))
    return reward_folder


@torch.no_grad()
def by_the_model_card(folder, images, prompt):
    """Scores of several images for one prompt: the example on PickScore's model card."""
    clip = CLIPModel.from_pretrained(folder)
    pixels = AutoImageProcessor.from_pretrained(folder)(images=list(images), return_tensors="pt")
    words = AutoTokenizer.from_pretrained(folder)(prompt, padding=True, truncation=True, return_tensors="pt")
    image = clip.get_image_features(**pixels).pooler_output
    text = clip.get_text_features(**words).pooler_output
    image, text = image / image.norm(dim=-1, keepdim=True), text / text.norm(dim=-1, keepdim=True)
    return clip.logit_scale.exp() * (text @ image.T)[0]


@pytest.mark.parametrize("size", [32, 80])
def test_pick_score_is_its_model_cards_formula(pick, size):
    batch = images(0, 3, size)
    metric = built(PickScore)
    metric.update(batch, PROMPTS)
    expected = [by_the_model_card(pick, batch[i : i + 1], prompt).item() for i, prompt in enumerate(PROMPTS)]
    assert metric.last.tolist() == pytest.approx(expected, rel=1e-4)
    assert float(metric.compute()) == pytest.approx(sum(expected) / 3, rel=1e-4)
    assert max(expected) - min(expected) > 0.1, "all images score alike, so this shows nothing"


def test_preference_is_the_softmax_of_two_scores(pick):
    batch, others = images(0, 3), near(images(0, 3), by=90)
    one, other, same = built(PairedPickPreference), built(PairedPickPreference), built(PairedPickPreference)
    one.update(batch, others, PROMPTS)
    other.update(others, batch, PROMPTS)
    same.update(batch, batch, PROMPTS)
    pairs = [torch.stack([image, another]) for image, another in zip(batch, others, strict=True)]
    expected = [
        100 * by_the_model_card(pick, pair, prompt).softmax(-1)[0].item()
        for pair, prompt in zip(pairs, PROMPTS, strict=True)
    ]
    assert one.last.tolist() == pytest.approx(expected, abs=1e-3)
    assert (one.last + other.last).tolist() == pytest.approx([100] * 3)
    assert same.last.tolist() == [50] * 3
    assert abs(float(one.compute()) - 50) > 0.01


def test_scores_do_not_depend_on_the_batch(pick, reward):
    batch = images(0, 3)
    for metric in (built(PickScore), built(ImageReward)):
        whole = metric.scorer(batch, PROMPTS)
        single = [metric.scorer(batch[i : i + 1], PROMPTS[i : i + 1]).item() for i in range(3)]
        assert whole.tolist() == pytest.approx(single, rel=1e-4, abs=1e-5)


def test_one_copy_of_the_weights_and_one_scoring_of_a_batch(pick, monkeypatch):
    score, preference = built(PickScore), built(PairedPickPreference)
    assert score.scorer is preference.scorer is built(PickScore).scorer
    calls = []
    monkeypatch.setattr(score.scorer, "scores", lambda batch, prompts: calls.append(batch) or torch.ones(2))
    batch, references = images(0, 2), images(1, 2)
    preference.update(batch, references, PROMPTS[:2])
    score.update(batch, PROMPTS[:2])
    assert len(calls) == 2, "one call for the references and one for the images"
    score.update(batch, PROMPTS[1:])
    assert len(calls) == 3, "the same images for other prompts"


def test_image_reward_gives_its_authors_scores(reward):
    for seed, (size, expected) in enumerate(authors_reward.SCORES.items()):
        metric = built(ImageReward)
        image = authors_reward.image(seed, size)
        metric.update(torch.stack([image, image]), authors_reward.PROMPTS)
        assert metric.last.tolist() == pytest.approx(expected, rel=1e-5)
        assert float(metric.compute()) == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_a_value_says_what_it_rests_on(pick, reward, monkeypatch):
    for metric in (built(PickScore), built(PairedPickPreference), built(ImageReward)):
        message = metric.identity()
        assert {"model", "checkpoint", "resize", "dtype"} <= set(message) and len(message["checkpoint"]) == 16
    for checkpoint in (checkpoints.PICK_SCORE, checkpoints.IMAGE_REWARD):
        monkeypatch.delenv(checkpoint.variable)
        assert checkpoint.identity() == f"{checkpoint.hub}@main"
        monkeypatch.setenv(checkpoint.variable, "somebody/weights@v2")
        assert checkpoint.identity() == "somebody/weights@v2"


@pytest.mark.parametrize("load", [PickScorer.load, RewardScorer.load])
def test_missing_weights_are_reported_in_one_line(load, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("POSTDIFF_PICKSCORE", "POSTDIFF_IMAGEREWARD"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match=r"run once without HF_HUB_OFFLINE, or set POSTDIFF_\w+ to a folder"):
        load()
    for name in ("POSTDIFF_PICKSCORE", "POSTDIFF_IMAGEREWARD"):
        monkeypatch.setenv(name, "/no/such/folder")
    with pytest.raises(UsageError, match=r"=/no/such/folder is no folder; set POSTDIFF_\w+ to"):
        load()
    for name in ("POSTDIFF_PICKSCORE", "POSTDIFF_IMAGEREWARD"):
        monkeypatch.setenv(name, str(tmp_path))
    with pytest.raises(UsageError, match=r"has no (model\.safetensors|ImageReward\.pt); set"):
        load()


def test_pick_score_without_a_processor_beside_it(pick_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    CLIPModel.from_pretrained(pick_folder).save_pretrained(tmp_path / "weights")
    monkeypatch.setenv("POSTDIFF_PICKSCORE", str(tmp_path / "weights"))
    with pytest.raises(UsageError, match=f"{pick_score.PROCESSOR}@main is missing .* into the folder of the weights"):
        built(PickScore)


class Harmful:
    def __reduce__(self):
        return print, ("code ran while weights were loaded",)


def test_files_that_are_no_image_reward_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("POSTDIFF_IMAGEREWARD", str(tmp_path))
    authors_reward.save(tmp_path)
    tensors = authors_reward.state()
    del tensors["blip.text_encoder.encoder.layer.1.output.dense.bias"]
    torch.save(tensors, tmp_path / "ImageReward.pt")
    with pytest.raises(UsageError, match=r"are not those of THUDM/ImageReward \(at 'text\.encoder\.layer\.1\.output"):
        RewardScorer(tensors, authors_reward.CONFIG, None, "weights of a test")
    torch.save({"blip": Harmful()}, tmp_path / "ImageReward.pt", pickle_module=pickle)
    with pytest.raises(UsageError, match="holds more than tensors"):
        built(ImageReward)
    assert "code ran" not in capsys.readouterr().out
    (tmp_path / "med_config.json").unlink()
    with pytest.raises(UsageError, match=r"has no med_config\.json"):
        built(ImageReward)


def test_published_weights_come_from_the_hubs_cache(pick_folder, reward_folder, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    for name in ("POSTDIFF_PICKSCORE", "POSTDIFF_IMAGEREWARD"):
        monkeypatch.delenv(name, raising=False)
    weights, words, rest = (tmp_path / name for name in ("weights", "words", "rest"))
    CLIPModel.from_pretrained(pick_folder).save_pretrained(weights)
    authors_reward.save(rest)
    words.mkdir()
    (rest / "vocab.txt").rename(words / "vocab.txt")
    for number, (repository, folder) in enumerate(
        {
            checkpoints.PICK_SCORE.hub: weights,
            pick_score.PROCESSOR: pick_folder,
            checkpoints.IMAGE_REWARD.hub: rest,
            image_reward.TOKENIZER: words,
        }.items()
    ):
        hub_cache.put(cache, repository, str(number) * 40, folder)
    batch = images(0, 1)
    score, reward = built(PickScore), built(ImageReward)
    score.update(batch, PROMPTS[:1])
    assert score.last.item() == pytest.approx(by_the_model_card(pick_folder, batch, PROMPTS[0]).item(), rel=1e-4)
    assert score.identity()["checkpoint"] == f"yuvalkirstain/PickScore_v1@{'0' * 40}"
    reward.update(authors_reward.image(0, (64, 64))[None], authors_reward.PROMPTS[:1])
    assert reward.last.item() == pytest.approx(authors_reward.SCORES[64, 64][0], rel=1e-5)
    assert reward.identity()["checkpoint"] == f"THUDM/ImageReward@{'2' * 40}"
