"""Train with one command; run it again to go on.

    python -m experiments.styles --out outputs/styles --parts vae,style,concept,unet --minutes 40,10,30,120
    python -m experiments.styles --out outputs/styles --minutes 8

The first trains everything from the start, the second goes on with the U-Net (the default) for eight minutes, what it
needs before its first step counted. A sitting may be of any length and be killed; the state in `--out` is that of the
last checkpoint. On a CPU that has other work, one thread at low priority (`nice -n 19`) is best.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from experiments.styles.captions import COLOURS, STYLES, Subject
from experiments.styles.drawings import Drawings
from experiments.styles.dual_encoder import PairBatches, StylesDualEncoder, export_dual_encoder
from experiments.styles.export import export, export_vae, start_from, steps_before, take_weights
from experiments.styles.judge import Judge
from experiments.styles.judge_images import Bank, Batches, seen_bank
from experiments.styles.latents import Captions, LatentBatches, encode_ahead
from experiments.styles.sittings import fit
from experiments.styles.split import Split, read_split
from experiments.styles.unet import StylesUNet
from experiments.styles.vae import Crops, StylesVAE
from experiments.train_emoji.tokenizer import train_tokenizer

PARTS = ("vae", "style", "style-tried", "concept", "dual", "unet")
PEAK = {"vae": 1.5e-3, "style": 2e-3, "style-tried": 2e-3, "concept": 2e-3, "dual": 1e-3, "unet": 1e-3}
# Images of a step of the U-Net at full size; a GPU wants more at once.
SIZES = {"cpu": 32, "cuda": 256}
# Seconds of a sitting that are kept for saving and exporting after the last step.
RESERVE = 15.0
# Parts of the pipeline that are kept in the repository, as far as they are trained.
WEIGHTS = Path(__file__).parent / "weights"


def main() -> None:
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/styles"), help="data, state and trained parts")
    parser.add_argument("--parts", default="unet", help=f"which of {','.join(PARTS)}, in this order")
    parser.add_argument("--minutes", default="120", help="time of this sitting, one number for each part")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument(
        "--shares", type=int, default=1, help="parts of the U-Net's batches, each in a thread of its own"
    )
    parser.add_argument("--size", type=int, help="images in a step of the U-Net; never changed within a run")
    parser.add_argument(
        "--precision", help="bf16-mixed, on a GPU and on CPUs that are made for it, or 32-true; default: by the device"
    )
    parser.add_argument("--start", type=Path, default=WEIGHTS, help="what a new run of the U-Net starts from")
    options = parser.parse_args()
    parts, minutes = options.parts.split(","), [float(one) for one in options.minutes.split(",")]
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts: {', '.join(sorted(unknown))} not among {', '.join(PARTS)}")
    if len(parts) != len(minutes):
        parser.error(f"--minutes: {len(minutes)} numbers for {len(parts)} parts; give one for each")
    torch.set_num_threads(options.threads)
    # A CPU that is not made for bfloat16 is a hundred times slower with it.
    precision = options.precision or ("bf16-mixed" if torch.cuda.is_available() else "32-true")
    split = read_split()
    drawings = Drawings(options.out / "data", list(split.concepts))
    bank = None
    for part, budget in zip(parts, minutes, strict=True):
        until = started + budget * 60 - RESERVE
        if part == "unet":
            size = options.size or SIZES["cuda" if torch.cuda.is_available() else "cpu"]
            words = (size, precision)
            train_unet(options.out, drawings, split, until, *words, start=options.start, shares=options.shares)
        elif part == "vae":
            train_vae(options.out, drawings, split, until, precision)
        else:
            bank = bank or judge_bank(options.out, drawings, split)
            if part == "dual":
                train_dual(options.out, bank, split, until, precision, start=options.start)
            else:
                train_judge(part, options.out, bank, split, until, precision)
        started = time.monotonic()


def train_vae(
    out: Path, drawings: Drawings, split: Split, until: float, precision: str, max_steps: int = -1, **more: Any
) -> None:
    """Go on with the autoencoder, and write its folder."""
    torch.manual_seed(0)
    checkpoint = out / "checkpoints" / "vae.ckpt"
    fit(StylesVAE(), Crops(drawings, split), checkpoint, until, PEAK["vae"], precision, max_steps, **more)
    export_vae(checkpoint, drawings, split, out / "vae")


def train_judge(
    part: str, out: Path, bank: Bank, split: Split, until: float, precision: str, max_steps: int = -1
) -> None:
    """Go on with one network of the judge.

    `style-tried` is `style` without every fifth concept, on which it is tried.
    """
    torch.manual_seed(0)
    kind = part.partition("-")[0]
    judge = Judge(len(STYLES) if kind == "style" else len(split.concepts), kind)
    if part == "style-tried":
        bank = bank.where(bank.subjects[:, 0] % 5 != 0)
    batches = Batches(bank, column=1 if kind == "style" else 0)
    fit(judge, batches, out / "checkpoints" / f"{part}.ckpt", until, PEAK[part], precision, max_steps, warmup=100)


def train_dual(
    out: Path, bank: Bank, split: Split, until: float, precision: str, max_steps: int = -1, start: Path | None = None
) -> None:
    """Go on with the dual encoder, and write its folder."""
    make_tokenizer(out, split, start)
    torch.manual_seed(0)
    module = StylesDualEncoder(str(out / "tokenizer"))
    checkpoint = out / "checkpoints" / "dual.ckpt"
    batches = PairBatches(bank, Captions(module.tokenizer, split.concepts))
    fit(module, batches, checkpoint, until, PEAK["dual"], precision, max_steps, warmup=100)
    export_dual_encoder(checkpoint, out / "tokenizer", out / "dual_encoder")


def judge_bank(out: Path, drawings: Drawings, split: Split) -> Bank:
    """Seen images, real and, if there is an autoencoder, through it."""
    bank = seen_bank(drawings, split)
    if (out / "vae").is_dir():
        bank = bank + bank.through(AutoencoderKL.from_pretrained(out / "vae"))
    return bank


def make_tokenizer(out: Path, split: Split, start: Path | None) -> None:
    """That of the weights that a run starts from, or one of all captions."""
    if start is not None:
        start_from(start, out)
    if not (out / "tokenizer").is_dir():
        subjects = [Subject(one, two, three) for one in split.concepts for two in STYLES for three in COLOURS]
        train_tokenizer([subject.caption() for subject in subjects]).save_pretrained(out / "tokenizer")


def train_unet(
    out: Path,
    drawings: Drawings,
    split: Split,
    until: float,
    size: int,
    precision: str,
    max_steps: int = -1,
    start: Path | None = None,
    times: int = 5,
    channels: tuple[int, ...] = (64, 128, 192),
    peak: float = PEAK["unet"],
    shares: int = 1,
    **more: Any,
) -> None:
    """Go on with the U-Net and its text tower, and export the pipeline."""
    make_tokenizer(out, split, start)
    torch.manual_seed(0)
    module = StylesUNet(str(out / "tokenizer"), channels, shares=shares)
    checkpoint = out / "checkpoints" / "unet.ckpt"
    before = steps_before(out, start)
    if before and start is not None and not checkpoint.is_file():
        take_weights(module, start)
    latents = encode_ahead(out / "vae", drawings, split, out / "latents.pt", times)
    batches = LatentBatches(latents, Captions(module.tokenizer, split.concepts), size, before)
    fit(module, batches, checkpoint, until, peak, precision, max_steps, **more)
    export(checkpoint, out / "tokenizer", out / "vae", out / "model", before)


if __name__ == "__main__":
    main()
