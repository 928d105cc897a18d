"""Turn checkpoints into folders that diffusers and transformers load.

    python -m experiments.train_emoji.export --out outputs/emoji --to postdiff/zoo/emoji

works from the latest checkpoints, also while the UNet still trains.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPModel, CLIPTextModel, CLIPTokenizer

from experiments.train_emoji.dual_encoder import MEAN, STD, EmojiDualEncoder
from experiments.train_emoji.features import reference_statistics
from experiments.train_emoji.fetch import Emoji, fetch, read_emoji, read_images
from experiments.train_emoji.unet import NOISE, EmojiUNet
from experiments.train_emoji.vae import EmojiVAE, standardise


def export_part(part: str, out: Path, emoji: list[Emoji]) -> None:
    """Write the averaged weights of one part's last checkpoint to its folder under `out`."""
    checkpoint = out / "checkpoints" / part / "last.ckpt"
    module = {"vae": EmojiVAE, "dual": EmojiDualEncoder, "unet": EmojiUNet}[part].load_from_checkpoint(
        checkpoint, map_location="cpu"
    )
    module.eval()
    if part == "vae":
        standardise(module.vae, read_images(emoji))
        module.vae.save_pretrained(out / "vae")
    elif part == "dual":
        module.clip.save_pretrained(out / "dual_encoder")
        module.tokenizer.save_pretrained(out / "dual_encoder")
        image_processor().save_pretrained(out / "dual_encoder")
    else:
        module.unet.save_pretrained(out / "unet")
        module.text_encoder.save_pretrained(out / "text_encoder")


def image_processor() -> CLIPImageProcessor:
    """Resize to 64x64 (bilinear, antialiased), scale to [0, 1], subtract 0.5, divide by 0.5; nothing else."""
    return CLIPImageProcessor(
        size={"height": 64, "width": 64},
        resample=2,
        do_center_crop=False,
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    )


def export(out: Path, to: Path, emoji: list[Emoji]) -> None:
    """Write the whole model as fp16 safetensors, with the prompts and the reference statistics."""
    half = {"torch_dtype": torch.float16}
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(out / "vae", **half),
        text_encoder=CLIPTextModel.from_pretrained(out / "text_encoder", dtype=torch.float16),
        tokenizer=CLIPTokenizer.from_pretrained(out / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(out / "unet", **half),
        scheduler=DPMSolverMultistepScheduler(**NOISE, algorithm_type="dpmsolver++", timestep_spacing="trailing"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(to)
    encoder = CLIPModel.from_pretrained(out / "dual_encoder", dtype=torch.float16)
    encoder.save_pretrained(to / "dual_encoder")
    for processor in (CLIPTokenizer, CLIPImageProcessor):
        processor.from_pretrained(out / "dual_encoder").save_pretrained(to / "dual_encoder")
    lines = [{"id": one.id, "prompt": one.prompt, "captions": list(one.captions)} for one in emoji]
    (to / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for folder in ("text_encoder", "dual_encoder", "unet", "vae"):
        clean(to / folder / "config.json")
    # From the fp16 weights as shipped, so that others find exactly these numbers.
    tensors, metadata = reference_statistics(to / "dual_encoder", read_images(emoji))
    save_file(tensors, to / "reference_statistics.safetensors", metadata)
    for file in to.rglob("*.safetensors"):
        file.chmod(0o644)  # they are written readable by their owner only


def clean(config: Path) -> None:
    """Remove the path that a part was loaded from, and let transformers load fp16 files as fp32 by default.

    diffusers does the latter anyway; a CPU can compute with nothing less.
    """
    values = json.loads(config.read_text())
    values.pop("_name_or_path", None)
    for part in (values, *(values[key] for key in ("text_config", "vision_config") if key in values)):
        if "dtype" in part:
            part["dtype"] = "float32"
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/emoji"), help="folder that the training wrote")
    parser.add_argument("--to", type=Path, default=Path("postdiff/zoo/emoji"), help="where to put the model")
    parser.add_argument("--package", type=Path, help="unpacked npm package; fetched when not given")
    options = parser.parse_args()
    emoji = read_emoji(fetch(options.out / "data", options.package))
    for part in ("vae", "dual", "unet"):
        # The folder of a finished part is already the one that the parts after it were trained against.
        if part == "unet" or not (options.out / {"vae": "vae", "dual": "dual_encoder"}[part]).is_dir():
            export_part(part, options.out, emoji)
    export(options.out, options.to, emoji)


if __name__ == "__main__":
    main()
