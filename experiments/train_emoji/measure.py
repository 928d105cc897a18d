"""Measure the exported model and draw its sample sheets, for the model card.

    python -m experiments.train_emoji.measure --model postdiff/zoo/emoji --package outputs/emoji/data/package

writes `measurements.json` and `images/` into the model's folder.
"""

import argparse
import json
import statistics as stats
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from experiments.train_emoji.data import decode, encode, half_size
from experiments.train_emoji.dual_encoder import token_ids
from experiments.train_emoji.features import embed, frechet_distance, mean_and_covariance
from experiments.train_emoji.fetch import Emoji, read_emoji, read_image, read_images
from experiments.train_emoji.generate import generate, grid, load
from postdiff import accelerate
from postdiff.methods import MixedResolution

STEPS = (20, 10, 5, 3)
SEEDS = (0, 1, 2)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """PSNR in dB of each pair, (N, 3, H, W) twice to (N,)."""
    return -10 * (a - b).square().mean((1, 2, 3)).clamp(min=1e-8).log10()


def reconstruct(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Through the autoencoder and back, (N, 3, H, W) in [0, 1]."""
    return decode(vae, encode(vae, images))


@torch.no_grad()
def text_embeddings(folder: Path, prompts: list[str]) -> Tensor:
    """Unit text embeddings of the dual encoder, (N, 96)."""
    clip, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    pooled = clip.text_model(token_ids(tokenizer, prompts)).pooler_output
    return F.normalize(clip.text_projection(pooled), dim=-1)


def topk(similarity: Tensor, k: int, own: Tensor | None = None) -> float:
    """Share of rows whose own column (their number, or `own`) is among the k largest, in percent."""
    own = torch.arange(len(similarity)) if own is None else own
    return 100 * (similarity.topk(k).indices == own[:, None]).any(1).float().mean().item()


@dataclass(frozen=True)
class Judge:
    """The dual encoder with everything that scores are taken against."""

    clip: CLIPModel
    text: Tensor
    real: Tensor
    chosen: Tensor

    @classmethod
    def load(cls, model: Path, emoji: list[Emoji], count: int) -> "Judge":
        """`count` prompts, evenly spread over the list, are the `chosen` ones."""
        clip = CLIPModel.from_pretrained(model / "dual_encoder").eval()
        text = text_embeddings(model / "dual_encoder", [one.prompt for one in emoji])
        return cls(clip, text, read_images(emoji), torch.arange(count) * len(emoji) // count)

    def score(self, images: Tensor) -> dict[str, float]:
        """Frechet distance to all reference images, caption found among all, and cosine with the caption."""
        image = embed(self.clip, images)
        every = mean_and_covariance(embed(self.clip, self.real))
        return {
            "frechet": frechet_distance(*mean_and_covariance(image), *every),
            "caption_top1": topk(image @ self.text.T, 1, self.chosen),
            "cosine": (image * self.text[self.chosen]).sum(1).mean().item(),
        }


def measure_parts(vae: AutoencoderKL, judge: Judge, unseen: Tensor) -> dict:
    """Autoencoder and dual encoder on reference images."""
    real, image = judge.real, embed(judge.clip, judge.real)
    return {
        "vae_psnr": psnr(reconstruct(vae, real), real).mean().item(),
        "vae_psnr_half_size": psnr(reconstruct(vae, half_size(real)), half_size(real)).mean().item(),
        "vae_psnr_unseen_emoji": psnr(reconstruct(vae, unseen), unseen).mean().item(),
        "unseen_emoji": len(unseen),
        "retrieval_text_to_image_top1": topk(judge.text @ image.T, 1),
        "retrieval_text_to_image_top5": topk(judge.text @ image.T, 5),
    }


def measure_seed(model: Path, package: Path, count: int, seed: int) -> dict[str, dict]:
    """Generated images of `count` prompts at several numbers of steps, from one seed."""
    # Seeds run side by side, one thread each; threads that wait for each other at every layer are slower.
    torch.set_num_threads(1)
    emoji, pipeline = read_emoji(package), load(model)
    judge = Judge.load(model, emoji, count)
    prompts = [emoji[i].prompt for i in judge.chosen]
    reference = generate(pipeline, prompts, 50, seed)
    rows = {f"50 steps, seed {seed}": judge.score(reference)}
    for steps in STEPS:
        images = generate(pipeline, prompts, steps, seed)
        rows[f"{steps} steps, seed {seed}"] = {
            **judge.score(images),
            "psnr_to_50_steps": psnr(images, reference).mean().item(),
            **(memorisation(images, judge.real, judge.chosen) if steps == 20 else {}),
        }
        print(f"{steps} steps, seed {seed}", rows[f"{steps} steps, seed {seed}"], flush=True)
    return rows


def memorisation(images: Tensor, real: Tensor, chosen: Tensor) -> dict:
    """How close generated images are to their own training image, in pixels."""
    distance = torch.cdist(images.flatten(1), real.flatten(1))
    return {
        "nearest_training_picture_is_own": topk(-distance, 1, chosen),
        "median_psnr_to_own_training_picture": psnr(images, real[chosen]).median().item(),
    }


def summary(rows: dict) -> dict:
    """Mean and standard deviation over the seeds, for each number of steps and each value."""
    out = {}
    for steps in (50, *STEPS):
        runs = [rows[f"{steps} steps, seed {seed}"] for seed in SEEDS]
        values = {key: [run[key] for run in runs] for key in runs[0]}
        out[f"{steps} steps"] = {key: {"mean": stats.mean(v), "sd": stats.stdev(v)} for key, v in values.items()}
    return out


def draw_sheets(pipeline: StableDiffusionPipeline, emoji: list[Emoji], real: Tensor, to: Path) -> None:
    """The first 24 prompts at full, half and mixed size, 6 at each number of steps, real above autoencoded ones."""
    to.mkdir(exist_ok=True)
    prompts = [one.prompt for one in emoji[:24]]
    grid(generate(pipeline, prompts, 20), 8, zoom=2).save(to / "full_size_20_steps.png", optimize=True)
    grid(generate(pipeline, prompts, 20, size=32), 8, zoom=2).save(to / "half_size_20_steps.png", optimize=True)
    mixed = accelerate(pipeline, [MixedResolution(beta=0.5, switch=0.5)])
    grid(generate(mixed, prompts, 20), 8, zoom=2).save(to / "mixed_resolution_20_steps.png", optimize=True)
    rows = [generate(pipeline, prompts[:6], steps) for steps in (50, *STEPS)]
    grid(torch.cat(rows), 6).save(to / "steps_50_20_10_5_3.png", optimize=True)
    sheet = torch.cat([real[:8], reconstruct(pipeline.vae, real[:8])])
    grid(sheet, 8).save(to / "real_and_autoencoded.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("postdiff/zoo/emoji"))
    parser.add_argument("--package", type=Path, default=Path("outputs/emoji/data/package"))
    parser.add_argument("--prompts", type=int, default=100, help="how many prompts to generate")
    parser.add_argument("--processes", type=int, default=2, help="seeds to generate side by side, one thread each")
    parser.add_argument("--sheets-only", action="store_true", help="draw the sheets and measure nothing")
    options = parser.parse_args()
    emoji, pipeline = read_emoji(options.package), load(options.model)
    real = read_images(emoji)
    draw_sheets(pipeline, emoji, real, options.model / "images")
    if options.sheets_only:
        return
    files = {one.file for one in emoji}
    # Every tenth emoji with a single code point that no part of the model has seen.
    every = sorted((options.package / "img/google/64").glob("*.png"))
    others = [file for file in every if file not in files and "-" not in file.stem]
    unseen = torch.stack([read_image(file) for file in others[::10]])
    judge = Judge.load(options.model, emoji, options.prompts)
    shipped = load_file(options.model / "reference_statistics.safetensors")["mean"]
    assert torch.allclose(mean_and_covariance(embed(judge.clip, real))[0], shipped), "statistics of other images"
    found = measure_parts(pipeline.vae, judge, unseen)
    own = real[judge.chosen]
    rows = {"real": judge.score(own), "autoencoded": judge.score(reconstruct(pipeline.vae, own))}
    print(found, rows, flush=True)
    job = partial(measure_seed, options.model, options.package, options.prompts)
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for seed_rows in pool.map(job, SEEDS):
            rows |= seed_rows
    found["samples"] = {"prompts": options.prompts, "summary": summary(rows), "rows": rows}
    (options.model / "measurements.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
