"""Model folders that cannot be: configs that contradict their weights, or ask for more than a machine has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.lab.bad import run
from tests.lab.mistakes import Mistake

DEEP = '{"a": ' * 100_000 + "1" + "}" * 100_000
# {file: values, of which each one alone is a mistake}
VALUES: dict[str, dict[str, tuple[Any, ...]]] = {
    "unet/config.json": {
        "sample_size": ("x", 10**9, -1, [1], 0.5, 0, [10**9, 1]),
        "layers_per_block": (-1, 10**7, "x", [1], 0),
        "block_out_channels": ("x", [], [-8, 8], [10**12, 8], 3),
        "down_block_types": (["NoSuchBlock", "DownBlock2D"], [], "x"),
        "cross_attention_dim": (7, 10**12, "x", -1),
        "in_channels": (3, 10**12, "x", -1),
        "act_fn": ("nosuch", 3),
        "norm_num_groups": (7, 0, -1, "x"),
        "attention_head_dim": (0, -1, "x"),
        "transformer_layers_per_block": (10**7, -1, "x"),
    },
    "vae/config.json": {
        "block_out_channels": ("x", [], [10**12, 8]),
        "layers_per_block": (-1, 10**7, "x"),
        "latent_channels": (3, "x", 10**12),
        "scaling_factor": ("x",),
        "act_fn": ("nosuch",),
    },
    "text_encoder/config.json": {
        "num_hidden_layers": (10**7, "x", -1),
        "hidden_size": (10**9, "x", -1, 7),
        "vocab_size": (5, "x", -1, 10**12),
        "max_position_embeddings": (1, "x", 10**12),
        "hidden_act": ("nosuch",),
        "num_attention_heads": (0, 7, "x"),
    },
    "scheduler/scheduler_config.json": {
        "beta_schedule": ("nosuch", 3),
        "num_train_timesteps": (10**9, "x", -1, 0),
        "trained_betas": ([1], "x", [[0.5]]),
        "solver_order": (99, "x"),
        "beta_end": ("x", 7),
        "prediction_type": ("nosuch",),
        "steps_offset": ("x", 100_000),
        "timestep_spacing": ("nosuch",),
    },
    "tokenizer/tokenizer_config.json": {
        "model_max_length": (-1, 1e30, 0, "x"),
    },
    "model_index.json": {
        "_class_name": ("NoSuchPipeline", "UNet2DModel", "TextToVideoSDPipeline", "StableDiffusionXLPipeline", 3, None),
        "unet": (["os", "system"], ["builtins", "exec"], ["diffusers", "AutoencoderKL"], ["diffusers"], 3),
        "tokenizer": (["transformers", "NoSuch"], [None, None], ["os", "system"]),
        "vae": ([None, None], ["diffusers", "UNet2DConditionModel"]),
        "text_encoder": ([None, None], ["transformers", "CLIPVisionModel"]),
        "scheduler": (["diffusers", "UNet2DConditionModel"], ["diffusers", "NoSuchScheduler"], [None, None]),
    },
}
GONE = (
    "model_index.json",
    "tokenizer",
    "unet",
    "vae",
    "text_encoder",
    "scheduler",
    "unet/config.json",
    "vae/config.json",
)
GONE += ("text_encoder/config.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json")
WEIGHTS = ("unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors")
WEIGHTS += ("text_encoder/model.safetensors",)


def everything() -> Iterator[Mistake]:
    """All of them."""

    def folder(kind: str, **changes: Any) -> Mistake:
        return Mistake(
            f"model folder: {kind}", run("model=HERE/m", "height=32", "width=32"), changes=changes["changes"]
        )

    for file, values in VALUES.items():
        for key, wrong in values.items():
            for value in wrong:
                yield folder(f"{file} {key}={str(value)[:30]}", changes={file: {key: value}})
        yield folder(f"{file} nested deep", changes={file: DEEP})
        for content in ("{", "[1]", "", "x", "3", "\0"):
            yield folder(f"{file} is {content!r}", changes={file: content})
        yield folder(f"{file} is UTF-16", changes={file: "{}".encode("utf-16")})
        yield folder(f"{file} is a folder", changes={file: None, f"{file}/x": ""})
    for part in GONE:
        yield folder(f"without {part}", changes={part: None})
    for weights in WEIGHTS:
        for content in (b"", b"\x80\x04.", b"PK\x03\x04", b"\xff" * 100, b"\x08\0\0\0\0\0\0\0{}      ", "{}"):
            yield folder(f"{weights} is {content!r:.20}", changes={weights: content})
    yield Mistake("model folder: no size fits", run("model=HERE/m", "height=33", "width=33"), changes={"x": ""})
