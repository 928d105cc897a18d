"""The training: two steps of each part on drawn images, stopped and resumed, then exported and used."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

from experiments.train_emoji import __main__ as training
from experiments.train_emoji.export import export
from experiments.train_emoji.features import frechet_distance, mean_and_covariance
from experiments.train_emoji.fetch import Emoji, fetch, read_emoji, read_images
from experiments.train_emoji.tokenizer import train_tokenizer
from experiments.train_emoji.vae import EmojiVAE, encode, standardise

pytestmark = pytest.mark.slow

COLOURS = ("red", "green", "blue", "black")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An npm package of four squares and four discs."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "img/google/64").mkdir(parents=True)
    entries = []
    for shape in ("square", "disc"):
        for colour in COLOURS:
            image = Image.new("RGBA", (64, 64))
            pen = ImageDraw.Draw(image)
            (pen.rectangle if shape == "square" else pen.ellipse)((12, 12, 52, 52), fill=colour)
            image.save(folder / f"img/google/64/{colour}-{shape}.png")
            name = f"{colour}_{shape}"
            names = {"short_name": name, "short_names": [name, shape], "name": name.upper()}
            entries.append({**names, "image": f"{colour}-{shape}.png"})
    (folder / "emoji.json").write_text(json.dumps(entries))
    listing = [f"{entry['short_name']} = {entry['short_name'].replace('_', ' ')}" for entry in entries]
    (folder / "listing.txt").write_text("# all of them\n" + "\n".join(listing) + "\n")
    return folder


@pytest.fixture(scope="module")
def emoji(package: Path) -> list[Emoji]:
    return read_emoji(fetch(Path("unused"), package), package / "listing.txt")


def test_captions_are_unambiguous(emoji: list[Emoji]) -> None:
    captions = [caption for one in emoji for caption in one.captions]
    assert len(captions) == len(set(captions))
    # "square" is a name of four images: the first keeps it.
    assert emoji[0].captions == ("red square", "square") and emoji[1].captions == ("green square",)


def test_unknown_short_name_is_refused(package: Path, tmp_path: Path) -> None:
    (tmp_path / "listing.txt").write_text("purple_square\n")
    with pytest.raises(ValueError, match="purple_square"):
        read_emoji(package, tmp_path / "listing.txt")


def test_tokenizer_round_trip(emoji: list[Emoji], tmp_path: Path) -> None:
    tokenizer = train_tokenizer([caption for one in emoji for caption in one.captions])
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    ids = again("red disc").input_ids
    assert ids == tokenizer("red disc").input_ids and len(ids) == 4
    assert again.decode(again("zigzag!").input_ids, skip_special_tokens=True).replace(" ", "") == "zigzag!"


def test_standardise_changes_latents_but_not_images(emoji: list[Emoji]) -> None:
    torch.manual_seed(0)
    images, vae = read_images(emoji), EmojiVAE(channels=(8, 8, 8)).vae.eval()
    with torch.no_grad():
        before = vae.decode(encode(vae, images)).sample
        standardise(vae, images)
        latents = encode(vae, images)
        after = vae.decode(latents).sample
    assert torch.allclose(before, after, atol=1e-4)
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(4), atol=1e-3)


def test_frechet_distance_of_known_gaussians() -> None:
    torch.manual_seed(0)
    mean, covariance = mean_and_covariance(torch.randn(500, 6))
    assert frechet_distance(mean, covariance, mean, covariance) == pytest.approx(0, abs=1e-6)
    # tr(S + 4 S - 2 (4 S S)^(1/2)) = tr(S), plus a shift of 6 * 3^2.
    assert frechet_distance(mean, covariance, mean + 3, 4 * covariance) == pytest.approx(54 + covariance.trace().item())


def test_trains_resumes_and_exports(
    package: Path, emoji: list[Emoji], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "BATCH_SIZE", {"vae": 6, "dual": 4, "unet": 4})
    out, model = tmp_path / "out", tmp_path / "model"
    train_tokenizer([caption for one in emoji for caption in one.captions]).save_pretrained(out / "tokenizer")
    for part in training.PARTS:
        last = out / "checkpoints" / part / "last.ckpt"
        for steps in (2, 4):
            training.train(part, emoji, out, minutes=5, precision="32-true", max_steps=steps)
            checkpoint = torch.load(last, weights_only=False)
            assert checkpoint["global_step"] == steps == int(checkpoint["averaging_state"]["n_averaged"])
        timer = next(state for key, state in checkpoint["callbacks"].items() if key.startswith("Budget"))
        assert timer["time_elapsed"]["train"] > 0
    export(out, model, emoji)
    images = StableDiffusionPipeline.from_pretrained(model)("red disc", num_inference_steps=2, output_type="pt").images
    assert images.shape == (1, 3, 64, 64) and images.isfinite().all()
