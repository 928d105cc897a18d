"""What differs between pipelines, as data: one row a pipeline class, so that no adapter class is needed.

`families/CLASS.py` in a folder of `POSTDIFF_PATH` adds the row of a class: it defines one `Family`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from postdiff.engine import plugins
from postdiff.engine.errors import UsageError

__all__ = ["FAMILIES", "UNFIT", "Family", "family_of"]


@dataclass(frozen=True)
class Family:
    """One row of the table of pipelines.

    Attributes:
        network: attribute of the pipeline that holds the denoiser.
        cfg: the branches of a classifier-free-guidance batch, in their order along dimension 0. Empty where
            guidance is embedded in the network and there is one branch only.
        step_rows: what a row of `scheduler.step`'s tensors is. "samples": one row a sample; "frames": samples x
            frames rows, frames innermost; "doubled": both guidance halves are stepped.
        controlnet: attribute of a second network that runs before the denoiser, or None.
        unbatched: arguments of the network without a batch dimension: never sliced along dimension 0.
        multiples: arguments of the network with a whole multiple of the sample's rows.
        resize: arguments that are tables over the token grid, (tokens, channels), and follow the latent size.
        pixels: micro-conditioning in pixels inside `added_cond_kwargs`: it may follow the latent size.
        calls: "batched": the guidance branches are rows of one network call; "separate": each has a call of its own,
            in the order of `cfg`.
        scale: the pipeline's argument that holds the guidance scale.
        prediction: what the solver is given of one branch: "solver", the network's own prediction; "negated", that with
            the other sign; "other", something the pipeline makes of it.
        rows_at: arguments of the network whose batch dimension is not the first, and which it is.
        packed: the network and the solver see rows of tokens, each a square of 2 x 2 latent pixels.
    """

    network: Literal["unet", "transformer"]
    cfg: tuple[str, ...] = ("uncond", "cond")
    step_rows: Literal["samples", "frames", "doubled"] = "samples"
    controlnet: str | None = None
    unbatched: tuple[str, ...] = ()
    multiples: tuple[str, ...] = ()
    resize: tuple[str, ...] = ()
    pixels: tuple[str, ...] = ()
    calls: Literal["batched", "separate"] = "batched"
    scale: str = "guidance_scale"
    prediction: Literal["solver", "negated", "other"] = "solver"
    rows_at: tuple[tuple[str, int], ...] = ()
    packed: bool = False


_UNET = Family(network="unet")
_SDXL = replace(_UNET, pixels=("time_ids",))
_TRANSFORMER = Family(network="transformer")
_PIXART = replace(_TRANSFORMER, pixels=("resolution",))
_TWO_CALLS = replace(_TRANSFORMER, cfg=("cond", "uncond"), calls="separate")
_PACKED = replace(_TWO_CALLS, scale="true_cfg_scale", packed=True)

FAMILIES: dict[str, Family] = {
    "StableDiffusionPipeline": _UNET,
    "StableDiffusionImg2ImgPipeline": _UNET,
    "StableDiffusionInpaintPipeline": _UNET,
    "StableDiffusionControlNetPipeline": replace(_UNET, controlnet="controlnet"),
    "StableDiffusionXLPipeline": _SDXL,
    "StableDiffusionXLImg2ImgPipeline": _SDXL,
    "StableDiffusionXLInpaintPipeline": _SDXL,
    "StableDiffusionXLControlNetPipeline": replace(_SDXL, controlnet="controlnet"),
    "LatentConsistencyModelPipeline": replace(_UNET, cfg=()),
    "AnimateDiffPipeline": replace(_UNET, multiples=("encoder_hidden_states",)),
    "TextToVideoSDPipeline": replace(_UNET, step_rows="frames"),
    "IFPipeline": _UNET,
    "IFSuperResolutionPipeline": _UNET,
    "StableDiffusionUpscalePipeline": _UNET,
    "PixArtAlphaPipeline": _PIXART,
    "PixArtSigmaPipeline": _PIXART,
    "DiTPipeline": replace(_TRANSFORMER, cfg=("cond", "uncond"), step_rows="doubled"),
    "StableDiffusion3Pipeline": _TRANSFORMER,
    "SanaPipeline": _TRANSFORMER,
    "HunyuanDiTPipeline": replace(_TRANSFORMER, unbatched=("image_rotary_emb",), resize=("image_rotary_emb",)),
    "FluxPipeline": replace(_PACKED, unbatched=("img_ids", "txt_ids")),
    "QwenImagePipeline": replace(_PACKED, unbatched=("img_shapes",)),
    "CogView4Pipeline": _TWO_CALLS,
    "WanPipeline": _TWO_CALLS,
}

_SEVERAL_LOOPS = (
    "it denoises in three loops of its own, goes back in time between them and swaps its scheduler, so there is no one "
    "run of steps to plan; and its frames look at each other by a fixed number of rows"
)
# Known, and out of reach of a driver that wraps one network and one solver for one run of steps.
UNFIT: dict[str, str] = {
    **dict.fromkeys(("TextToVideoZeroPipeline", "TextToVideoZeroSDXLPipeline"), _SEVERAL_LOOPS),
    "ZImagePipeline": "its network takes a list of images and a list of texts in the place of rows of a batch",
    "ChromaPipeline": "its attention mask spans text and image tokens, which the driver cannot tell apart",
}


def family_of(pipe: Any) -> Family:
    """The row of a pipeline's class, or of its nearest parent class.

    Args:
        pipe: a pipeline, or a pipeline class.

    Raises:
        UsageError: neither the class nor a parent has a row, it is known that the driver cannot serve it, or the file
            of a row of one's own is broken.
    """
    own = pipe if isinstance(pipe, type) else type(pipe)
    for cls in own.__mro__:
        if cls.__name__ in UNFIT:
            raise UsageError(
                f"{own.__name__} cannot be accelerated: {UNFIT[cls.__name__]}; "
                f"use one of: {', '.join(sorted(FAMILIES))}"
            )
        if cls.__name__ in {*FAMILIES, *plugins.own("families")}:
            row: Family | None = plugins.find("families", cls.__name__, Family, FAMILIES)
            return FAMILIES[cls.__name__] if row is None else row
    raise UsageError(
        f"{own.__name__} is not a pipeline this driver knows; pass accelerate(pipe, methods, family=Family(...)) "
        f"or use one of: {', '.join(sorted(FAMILIES))}"
    )
