"""The shipped emoji model: stock folder layout, sizes, licences, and that its parts fit together."""

import hashlib
import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open
from torch import Tensor
from torchvision.transforms.functional import to_tensor
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

from postdiff.zoo import EMOJI

pytestmark = pytest.mark.slow

ENCODER = EMOJI / "dual_encoder"
# The reference images of these emoji, in this order, side by side.
SHEET = ["heart", "apple", "dog", "sunflower", "pizza", "guitar", "airplane", "car", "house", "soccer"]
SHEET += ["christmas_tree", "fire", "rainbow", "grinning", "cat", "rocket"]


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(EMOJI)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def clip() -> CLIPModel:
    return CLIPModel.from_pretrained(ENCODER).eval()


@pytest.fixture(scope="module")
def real() -> Tensor:
    sheet = to_tensor(Image.open(__file__.replace("test_model.py", "real_emoji.png")).convert("RGB"))
    return torch.stack(sheet.split(64, dim=2))


def prompts() -> list[dict]:
    return [json.loads(line) for line in (EMOJI / "prompts.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("size", [64, 32])
def test_draws_finite_images(pipeline: StableDiffusionPipeline, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = pipeline(
        "red heart", num_inference_steps=3, height=size, width=size, generator=generator, output_type="pt"
    ).images
    assert images.shape == (1, 3, size, size)
    assert images.isfinite().all() and images.std() > 0.05


def test_draws_what_the_prompt_says(pipeline: StableDiffusionPipeline) -> None:
    images = pipeline(
        ["red heart", "green heart"],
        num_inference_steps=6,
        guidance_scale=4,
        generator=[torch.Generator().manual_seed(0) for _ in range(2)],
        output_type="pt",
    ).images
    red, green = images[:, :, 24:40, 24:40].mean((2, 3))
    assert red.argmax() == 0 and red[0] - red[1] > 0.3
    assert green.argmax() == 1 and green[1] - green[0] > 0.1


def test_latents_are_standardised(pipeline: StableDiffusionPipeline, real: Tensor) -> None:
    with torch.no_grad():
        latents = pipeline.vae.encode(real * 2 - 1).latent_dist.mode()
    assert pipeline.vae.config.scaling_factor == 1.0
    assert latents.mean((0, 2, 3)).abs().max() < 0.3
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 0.3


def test_dual_encoder_recognises_real_images(clip: CLIPModel, real: Tensor) -> None:
    """Among all prompts, the nearest to a real image is its own."""
    tokenizer = AutoTokenizer.from_pretrained(ENCODER)
    lines = prompts()
    pixels = CLIPImageProcessor.from_pretrained(ENCODER)(list(real), do_rescale=False, return_tensors="pt")
    ids = tokenizer([line["prompt"] for line in lines], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        nearest = clip(pixel_values=pixels.pixel_values, input_ids=ids).logits_per_image.argmax(1)
    names = [line["id"] for line in lines]
    hits = [names[found] == wanted for found, wanted in zip(nearest.tolist(), SHEET, strict=True)]
    assert sum(hits) / len(hits) >= 0.6


def test_reference_statistics_belong_to_the_encoder(clip: CLIPModel) -> None:
    with safe_open(EMOJI / "reference_statistics.safetensors", "pt") as file:
        mean, covariance, count = (file.get_tensor(key) for key in ("mean", "covariance", "count"))
        metadata = file.metadata()
    weights = (ENCODER / "model.safetensors").read_bytes()
    assert metadata["encoder_sha256"] == hashlib.sha256(weights).hexdigest()
    assert metadata["features"]
    assert mean.shape == (clip.config.projection_dim,) and covariance.shape == (len(mean), len(mean))
    assert mean.isfinite().all() and covariance.isfinite().all()
    assert torch.allclose(covariance, covariance.T) and torch.linalg.eigvalsh(covariance).min() > -1e-8
    assert int(count) == len(prompts())


def test_prompts_name_one_emoji_each() -> None:
    captions = [caption for line in prompts() for caption in line["captions"]]
    assert len(captions) == len(set(captions))
    assert all(line["prompt"] == line["captions"][0] and line["id"] for line in prompts())


def test_folder_is_small_and_carries_its_notices() -> None:
    files = [file for file in EMOJI.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 30e6
    assert "Noto Emoji" in (EMOJI / "NOTICE").read_text()
    for name in ("README.md", "LICENSES/Apache-2.0.txt", "LICENSES/MIT-emoji-data.txt"):
        assert (EMOJI / name).stat().st_size > 1000
    weights = [file for file in files if file.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    assert not weights, f"weights outside of safetensors: {weights}"
    paths = [file for file in files if file.suffix == ".json" and "_name_or_path" in file.read_text()]
    assert not paths, f"paths of the machine that trained: {paths}"
