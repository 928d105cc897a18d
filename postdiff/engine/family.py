"""The table of pipelines: the `Family` of every class that the driver knows, and why others are out of its reach.

`families/CLASS.py` in a folder of `POSTDIFF_PATH` adds the row of a class: it defines one `Family`.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Any

from postdiff.engine import plugins
from postdiff.engine.errors import UsageError
from postdiff.engine.family_row import Family

__all__ = ["FAMILIES", "UNFIT", "Family", "family_of"]

_UNET = Family(network="unet")
_SDXL = replace(_UNET, pixels=("time_ids",))
_TRANSFORMER = Family(network="transformer")
_PIXART = replace(_TRANSFORMER, pixels=("resolution",))
_TWO_CALLS = replace(_TRANSFORMER, cfg=("cond", "uncond"), calls="separate")
_TRUE_CFG = replace(_TWO_CALLS, scale="true_cfg_scale")
_FLUX = replace(_TRUE_CFG, layout="tokens", side=2, unbatched=("img_ids", "txt_ids"))
_QWEN = replace(_TRUE_CFG, layout="tokens", side=2, unbatched=("img_shapes",))
_Z_IMAGE = replace(_TRANSFORMER, cfg=("cond", "uncond"), layout="list", side=2, prediction="negated")
_EDITING: dict[str, Any] = {"cfg": ("cond", "image", "uncond")}
_PERTURBED: dict[str, Any] = {"cfg": ("uncond", "cond", "perturbed"), "calls": "whole"}


def _alike(row: Family, names: str) -> dict[str, Family]:
    return dict.fromkeys((f"{name}Pipeline" for name in names.split()), row)


def _with_control(row: Family, names: str) -> dict[str, Family]:
    return _alike(replace(row, controlnet="controlnet"), names)


FAMILIES: dict[str, Family] = {
    **_alike(_UNET, "StableDiffusion StableDiffusionImg2Img StableDiffusionInpaint StableDiffusionAdapter"),
    **_alike(_UNET, "IF IFSuperResolution StableDiffusionUpscale"),
    **_with_control(
        _UNET, "StableDiffusionControlNet StableDiffusionControlNetImg2Img StableDiffusionControlNetInpaint"
    ),
    **_alike(_SDXL, "StableDiffusionXL StableDiffusionXLImg2Img StableDiffusionXLInpaint StableDiffusionXLAdapter"),
    **_with_control(
        _SDXL, "StableDiffusionXLControlNet StableDiffusionXLControlNetImg2Img StableDiffusionXLControlNetInpaint"
    ),
    **_with_control(_SDXL, "StableDiffusionXLControlNetUnion StableDiffusionXLControlNetUnionImg2Img"),
    **_with_control(_SDXL, "StableDiffusionXLControlNetUnionInpaint"),
    **_alike(replace(_UNET, **_EDITING), "StableDiffusionInstructPix2Pix"),
    **_alike(replace(_SDXL, **_EDITING), "StableDiffusionXLInstructPix2Pix"),
    **_alike(replace(_UNET, **_PERTURBED), "StableDiffusionPAG StableDiffusionPAGImg2Img StableDiffusionPAGInpaint"),
    **_alike(
        replace(_SDXL, **_PERTURBED), "StableDiffusionXLPAG StableDiffusionXLPAGImg2Img StableDiffusionXLPAGInpaint"
    ),
    **_with_control(replace(_UNET, **_PERTURBED), "StableDiffusionControlNetPAG StableDiffusionControlNetPAGInpaint"),
    **_with_control(
        replace(_SDXL, **_PERTURBED), "StableDiffusionXLControlNetPAG StableDiffusionXLControlNetPAGImg2Img"
    ),
    **_alike(replace(_UNET, cfg=()), "LatentConsistencyModel"),
    **_alike(replace(_UNET, multiples=("encoder_hidden_states",)), "AnimateDiff"),
    **_alike(replace(_UNET, step_rows="frames"), "TextToVideoSD"),
    **_alike(_PIXART, "PixArtAlpha PixArtSigma"),
    **_alike(replace(_TRANSFORMER, cfg=("cond", "uncond"), step_rows="doubled"), "DiT"),
    **_alike(_TRANSFORMER, "StableDiffusion3 StableDiffusion3Img2Img StableDiffusion3Inpaint AuraFlow Sana"),
    **_alike(replace(_TRANSFORMER, cfg=(), prediction="other"), "SanaSprint SanaSprintImg2Img"),
    **_alike(
        replace(_TRANSFORMER, rows_at=(("encoder_hidden_states_llama3", 1),), prediction="negated"), "HiDreamImage"
    ),
    **_alike(replace(_TRANSFORMER, unbatched=("image_rotary_emb",), resize=("image_rotary_emb",)), "HunyuanDiT"),
    **_alike(_TWO_CALLS, "CogView4 WanVideoToVideo HunyuanImage HunyuanVideo15"),
    **_alike(replace(_TWO_CALLS, second="transformer_2"), "Wan WanImageToVideo WanVACE"),
    **_alike(replace(_TWO_CALLS, prediction="negated"), "Lumina2"),
    **_alike(replace(_TWO_CALLS, prediction="other"), "Cosmos2TextToImage"),
    **_alike(_TRUE_CFG, "HunyuanVideo"),
    **_alike(_FLUX, "Flux FluxImg2Img FluxInpaint FluxFill FluxControl FluxControlImg2Img FluxControlInpaint"),
    **_alike(_FLUX, "FluxKontext FluxKontextInpaint"),
    **_with_control(_FLUX, "FluxControlNet FluxControlNetImg2Img FluxControlNetInpaint"),
    **_with_control(_QWEN, "QwenImageControlNet QwenImageControlNetInpaint"),
    **_with_control(_TRANSFORMER, "StableDiffusion3ControlNet StableDiffusion3ControlNetInpainting"),
    **_with_control(_Z_IMAGE, "ZImageControlNet ZImageControlNetInpaint"),
    **_alike(replace(_FLUX, scale="guidance_scale"), "Chroma ChromaImg2Img"),
    **_alike(replace(_TRANSFORMER, cfg=(), layout="tokens"), "Flux2"),
    **_alike(replace(_TWO_CALLS, layout="tokens"), "Flux2Klein Flux2KleinInpaint"),
    **_alike(_QWEN, "QwenImage QwenImageImg2Img QwenImageInpaint"),
    **_alike(_QWEN, "QwenImageEdit QwenImageEditPlus QwenImageEditInpaint"),
    **_alike(replace(_TWO_CALLS, layout="tokens", side=2, unbatched=("position_ids",)), "Krea2"),
    **_alike(_Z_IMAGE, "ZImage ZImageImg2Img ZImageInpaint"),
    **_alike(replace(_TRANSFORMER, layout="tokens"), "LTX LTXImageToVideo"),
    **_alike(replace(_TRANSFORMER, layout="tokens", prediction="other"), "LTX2"),
    **_alike(replace(_TWO_CALLS, layout="last", unbatched=("visual_rope_pos", "text_rope_pos")), "Kandinsky5T2I"),
}

_ZERO = (
    "it denoises in three loops of its own, goes back in time between them and swaps its scheduler, so there is no one "
    "run of steps to plan, and its frames look at each other by a fixed number of rows; use AnimateDiffPipeline"
)
_CASCADE = "its network counts time in units of its own, a vector of them; use StableDiffusionXLPipeline"
_COSMOS = "it asks its solver twice a step, the first time for a clean estimate alone; use Cosmos2TextToImagePipeline"
_SLICES = (
    "its latents hold channels of a given image, and its solver is handed a slice of them; use Kandinsky5T2IPipeline"
)
# Known, and out of reach of a driver that wraps networks and one solver for runs of steps: why, and what is nearest.
UNFIT: dict[str, str] = {
    **dict.fromkeys(("TextToVideoZeroPipeline", "TextToVideoZeroSDXLPipeline"), _ZERO),
    **dict.fromkeys(("StableCascadePriorPipeline", "StableCascadeDecoderPipeline"), _CASCADE),
    **dict.fromkeys(("CosmosTextToWorldPipeline", "CosmosVideoToWorldPipeline"), _COSMOS),
    **dict.fromkeys(("Kandinsky5I2IPipeline", "Kandinsky5I2VPipeline"), _SLICES),
    "FluxPriorReduxPipeline": "it does not denoise, it makes prompts; accelerate the FluxPipeline that takes them",
    "Flux2KleinKVPipeline": "its network keeps keys and values of its first step, which a cache would leave out; use "
    "Flux2KleinPipeline",
    "QwenImage21Pipeline": "its network keeps keys and values of its first step, which a cache would leave out; use "
    "QwenImageEditPlusPipeline",
    "QwenImageLayeredPipeline": "its tokens are those of several layers of an image; use QwenImageEditPipeline",
    "ZImageOmniPipeline": "its network takes lists of lists of images; use ZImagePipeline or QwenImageEditPlusPipeline",
    "OmniGenPipeline": "it names rows of a batch in a dict, which nobody can cut; use QwenImageEditPipeline",
    "GlmImagePipeline": "its network is set to write or read keys and values before a call; use CogView4Pipeline",
    "Ideogram4Pipeline": "it has a network of its own for the unconditional branch; use QwenImagePipeline",
    "LTXConditionPipeline": "every token has a time of its own, for its solver too; use LTXImageToVideoPipeline",
    "WanAnimatePipeline": "it makes a video in segments, each of frames of the one before; use WanVACEPipeline",
    "HunyuanVideoFramepackPipeline": "it makes a video in sections, one after the other; use HunyuanVideoPipeline",
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
            raise UsageError(f"{own.__name__} cannot be accelerated: {UNFIT[cls.__name__]}")
        if cls.__name__ in {*FAMILIES, *plugins.own("families")}:
            row: Family | None = plugins.find("families", cls.__name__, Family, FAMILIES)
            return FAMILIES[cls.__name__] if row is None else row
    near = difflib.get_close_matches(own.__name__, FAMILIES, cutoff=0.7)
    known = near or ["StableDiffusionPipeline", "StableDiffusionXLPipeline", "FluxPipeline", "WanPipeline"]
    raise UsageError(
        f"{own.__name__} is not a pipeline this driver knows; pass accelerate(pipe, methods, family=Family(...)), or "
        f"use another of the {len(FAMILIES)}, for instance {', '.join(known)}"
    )
