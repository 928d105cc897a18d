"""From checkpoints to folders: a pipeline that diffusers loads, in half precision."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from experiments.styles.drawings import Drawings
from experiments.styles.split import Split
from experiments.styles.unet import NOISE, StylesUNet
from experiments.styles.vae import StylesVAE, standardise
from experiments.train_emoji.export import clean

STEPS = "training.json"


def export_vae(checkpoint: Path, drawings: Drawings, split: Split, to: Path) -> None:
    """Write the averaged autoencoder, its latents standardised on the seen images, as it ships: in half precision."""
    vae = StylesVAE.load_from_checkpoint(
        checkpoint, map_location="cpu", from_emoji=False, weights_only=False
    ).vae.eval()
    triples = split.numbered(split.seen())
    standardise(vae, drawings.images(triples[:: max(1, len(triples) // 600)]))
    vae.half().save_pretrained(to)


def export(checkpoint: Path, tokenizer: Path, vae: Path, to: Path, before: int = 0) -> StableDiffusionPipeline:
    """Write the whole pipeline with the averaged weights of a checkpoint, also while the training goes on.

    Args:
        checkpoint: of the U-Net and its text tower.
        tokenizer: folder of the tokenizer.
        vae: folder of the autoencoder.
        to: folder to write; `training.json` there says how many steps the weights have seen.
        before: steps of an earlier run, from whose weights this one started.
    """
    module = StylesUNet.load_from_checkpoint(
        checkpoint, map_location="cpu", tokenizer=str(tokenizer), weights_only=False
    ).eval()
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(vae, torch_dtype=torch.float16),
        text_encoder=module.text_encoder.half(),
        tokenizer=CLIPTokenizer.from_pretrained(tokenizer),
        unet=module.unet.half(),
        scheduler=DPMSolverMultistepScheduler(**NOISE, algorithm_type="dpmsolver++"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(to)
    steps = before + torch.load(checkpoint, map_location="cpu", weights_only=False, mmap=True)["global_step"]
    (to / STEPS).write_text(json.dumps({"steps": steps}) + "\n")
    for config in to.glob("*/config.json"):
        clean(config)
    for file in to.rglob("*.safetensors"):
        file.chmod(0o644)  # they are written readable by their owner only
    return pipeline


def start_from(folder: Path, out: Path) -> None:
    """Take the finished parts of an exported pipeline: the autoencoder and the tokenizer."""
    for part in ("vae", "tokenizer"):
        if (folder / part).is_dir() and not (out / part).is_dir():
            shutil.copytree(folder / part, out / part)


def steps_before(out: Path, start: Path | None) -> int:
    """How many steps came before those of the run in `out`: those of the weights that it starts or started from."""
    kept = out / STEPS
    if not kept.is_file():
        out.mkdir(parents=True, exist_ok=True)
        own = start / STEPS if start is not None else None
        kept.write_text(own.read_text() if own is not None and own.is_file() else '{"steps": 0}\n')
    return int(json.loads(kept.read_text())["steps"])


def take_weights(module: StylesUNet, folder: Path) -> None:
    """Take the weights of an exported pipeline, with nothing known of the optimiser."""
    module.unet.load_state_dict(UNet2DConditionModel.from_pretrained(folder / "unet").state_dict())
    module.text_encoder.load_state_dict(CLIPTextModel.from_pretrained(folder / "text_encoder").state_dict())
