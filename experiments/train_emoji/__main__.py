"""Train all parts with one command; run it again to resume.

    python -m experiments.train_emoji --out outputs/emoji --minutes 12,12,60

On a CPU two processes of one thread each (`--parts unet --processes 2 --threads 1`) lose far less than two threads when
the machine has other work. The dual encoder compares images within a batch and is better left in one process.
"""

import argparse
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from experiments.train_emoji.budget import Budget, OwnRandomness
from experiments.train_emoji.data import EmojiData
from experiments.train_emoji.dual_encoder import EmojiDualEncoder
from experiments.train_emoji.export import export_part
from experiments.train_emoji.fetch import Emoji, fetch, read_emoji
from experiments.train_emoji.tokenizer import train_tokenizer
from experiments.train_emoji.unet import EmojiUNet
from experiments.train_emoji.vae import EmojiVAE

PARTS = ("vae", "dual", "unet")
BATCH_SIZE = {"vae": 16, "dual": 96, "unet": 64}
EMA = {"vae": 0.995, "dual": 0.99, "unet": 0.998}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/emoji"), help="checkpoints and trained parts")
    parser.add_argument("--parts", default=",".join(PARTS), help="which parts to train, in this order")
    parser.add_argument("--minutes", default="12,12,60", help="training time of each part")
    parser.add_argument("--package", type=Path, help="unpacked npm package; fetched when not given")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--processes", type=int, default=1, help="data-parallel processes, which share each batch")
    parser.add_argument(
        "--precision", help="bf16-mixed, on a GPU and on CPUs that are made for it, or 32-true; default: by the device"
    )
    options = parser.parse_args()
    parts, minutes = options.parts.split(","), [float(part) for part in options.minutes.split(",")]
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"parts: {sorted(unknown)} not among {PARTS}")
    if len(parts) != len(minutes):
        raise ValueError(f"minutes: one number for each of {parts}, not {minutes}")
    if options.threads:
        torch.set_num_threads(options.threads)
    # A CPU that is not made for bfloat16 is a hundred times slower with it.
    precision = options.precision or ("bf16-mixed" if torch.cuda.is_available() else "32-true")
    emoji = read_emoji(fetch(options.out / "data", options.package))
    if not (options.out / "tokenizer").is_dir():
        train_tokenizer([name for one in emoji for name in one.captions]).save_pretrained(options.out / "tokenizer")
    for part, budget in zip(parts, minutes, strict=True):
        train(part, emoji, options.out, budget, precision, options.processes)


def train(
    part: str,
    emoji: list[Emoji],
    out: Path,
    minutes: float,
    precision: str,
    processes: int = 1,
    max_steps: int = -1,
) -> None:
    """Train one part from its last checkpoint, if there is one, until its time is over, and save its folder."""
    torch.manual_seed(0)
    tokenizer, checkpoints = str(out / "tokenizer"), out / "checkpoints" / part
    data = EmojiData(emoji, BATCH_SIZE[part] // processes, vae=None if part == "vae" else out / "vae")
    module = {
        "vae": lambda: EmojiVAE(),
        "dual": lambda: EmojiDualEncoder(tokenizer),
        "unet": lambda: EmojiUNet(tokenizer, str(out / "dual_encoder")),
    }[part]()
    trainer = L.Trainer(
        accelerator="auto",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        precision=precision,
        max_epochs=-1,
        max_steps=max_steps,
        gradient_clip_val=1.0,
        callbacks=[
            Budget(minutes),
            OwnRandomness(),
            EMAWeightAveraging(decay=EMA[part], use_buffers=False),
            ModelCheckpoint(checkpoints, save_last=True, save_top_k=0, every_n_train_steps=500),
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=out,
    )
    last = checkpoints / "last.ckpt"
    trainer.fit(module, datamodule=data, ckpt_path=last if last.is_file() else None)
    trainer.save_checkpoint(last)
    if trainer.is_global_zero:
        export_part(part, out, emoji)
    trainer.strategy.barrier()


if __name__ == "__main__":
    main()
