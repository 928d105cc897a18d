"""What differs between pipelines, as data: the table of a `Family` for every class that the driver knows.

So no adapter class is needed. `families/CLASS.py` in a folder of `POSTDIFF_PATH` adds the row of a class: it defines
one `Family`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from postdiff.engine import plugins
from postdiff.engine.errors import UsageError, unknown
from postdiff.engine.unfit import UNFIT

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FAMILIES", "Family", "family_of"]


@dataclass(frozen=True)
class Family:
    """One row of the table of pipelines.

    Attributes:
        network: attribute of the pipeline that holds the denoiser.
        second: attribute of another denoiser, which takes turns with the first within a run; pipelines may lack it.
        cfg: the branches of a classifier-free-guidance batch, in their order along dimension 0. Empty where
            guidance is embedded in the network and there is one branch only.
        step_rows: what a row of `scheduler.step`'s tensors is. "samples": one row a sample; "frames": samples x
            frames rows, frames innermost; "doubled": both guidance halves are stepped.
        controlnet: attribute of a network that runs before the denoiser, or None.
        unbatched: arguments of the network without a batch dimension: never sliced along dimension 0.
        multiples: arguments of the network with a whole multiple of the sample's rows.
        resize: arguments that are tables over the token grid, (tokens, channels), and follow the latent size.
        pixels: micro-conditioning in pixels inside `added_cond_kwargs`: it may follow the latent size.
        calls: "batched": the guidance branches are rows of one network call; "whole": so they are, and the network's
            own attention takes them apart, so that none can be left out; "separate": each has a call of its own, in the
            order of `cfg`.
        scale: the pipeline's argument that holds the guidance scale.
        prediction: what the solver is given of one branch: "solver", the network's own prediction; "negated", that with
            the other sign; "other", something the pipeline makes of it.
        rows_at: arguments of the network whose batch dimension is not the first, and which it is.
        layout: what network and solver take in the place of rows of latents. "rows": these; "list": the network takes
            a list with an item a row, and other lists of that length go with it; "tokens": both take rows of tokens,
            beside which the network may see those of other images; "last": both take rows with channels last.
        side: side in latent pixels of what the network takes as one token, where the network's config has no
            `patch_size` to tell it.
    """

    network: Literal["unet", "transformer"]
    second: str | None = None
    cfg: tuple[str, ...] = ("uncond", "cond")
    step_rows: Literal["samples", "frames", "doubled"] = "samples"
    controlnet: str | None = None
    unbatched: tuple[str, ...] = ()
    multiples: tuple[str, ...] = ()
    resize: tuple[str, ...] = ()
    pixels: tuple[str, ...] = ()
    calls: Literal["batched", "whole", "separate"] = "batched"
    scale: str = "guidance_scale"
    prediction: Literal["solver", "negated", "other"] = "solver"
    rows_at: tuple[tuple[str, int], ...] = ()
    layout: Literal["rows", "list", "tokens", "last"] = "rows"
    side: int = 1

    @classmethod
    def like(cls, name: str, **changes: Any) -> Family:
        """The row of another pipeline class, with what differs: `Family.like("FluxPipeline", scale="guidance_scale")`.

        Args:
            name: a class that has a row.
            changes: attributes by name.

        Raises:
            UsageError: no such class, or no such attribute.
        """
        if (row := _row(name)) is None:
            raise unknown("pipeline class", name, FAMILIES)
        for wrong in set(changes) - {field.name for field in fields(cls)}:
            raise unknown("attribute of Family", wrong, (field.name for field in fields(cls)))
        return replace(row, **changes)

    def networks(self, pipe: Any) -> list[nn.Module]:
        """The denoisers of a pipeline, as it calls them."""
        found = [getattr(pipe, name, None) for name in (self.network, self.second) if name]
        return [network for network in found if network is not None]

    @property
    def packed(self) -> bool:
        """Whether squares of 2 x 2 latent pixels move as a whole."""
        return self.side == 2


_UNET = Family(network="unet")
_SDXL = replace(_UNET, pixels=("time_ids",))
_TRANSFORMER = Family(network="transformer")
_PIXART = replace(_TRANSFORMER, pixels=("resolution",))
_HUNYUAN = replace(_TRANSFORMER, unbatched=("image_rotary_emb",), resize=("image_rotary_emb",))
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
    **_alike(replace(_TRANSFORMER, **_PERTURBED), "StableDiffusion3PAG StableDiffusion3PAGImg2Img SanaPAG"),
    **_alike(replace(_PIXART, **_PERTURBED), "PixArtSigmaPAG"),
    **_alike(replace(_HUNYUAN, **_PERTURBED), "HunyuanDiTPAG"),
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
    **_alike(_HUNYUAN, "HunyuanDiT"),
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


def family_of(pipe: Any) -> Family:
    """The row of a pipeline's class, or of the nearest parent class whose `__call__` it has.

    Args:
        pipe: a pipeline, or a pipeline class.

    Raises:
        UsageError: neither the class nor a parent has a row, the class has a `__call__` of its own, it is known that
            the driver cannot serve it, or the file of a row of one's own is broken.
    """
    own = pipe if isinstance(pipe, type) else type(pipe)
    for cls in own.__mro__:
        if cls.__name__ in UNFIT:
            raise UsageError(f"{own.__name__} cannot be accelerated: {UNFIT[cls.__name__]}")
        if (row := _row(cls.__name__)) is None:
            continue
        if own.__call__ != cls.__call__:
            raise UsageError(
                f"{own.__name__} has a __call__ of its own and no row; if it calls network and solver as "
                f"{cls.__name__} does, pass accelerate(pipe, methods, family=Family.like('{cls.__name__}'))"
            )
        return row
    near = difflib.get_close_matches(own.__name__, FAMILIES, cutoff=0.7)
    known = near or ["StableDiffusionPipeline", "StableDiffusionXLPipeline", "FluxPipeline", "WanPipeline"]
    raise UsageError(
        f"{own.__name__} is not a pipeline this driver knows; pass accelerate(pipe, methods, family=Family(...)), or "
        f"use another of the {len(FAMILIES)}, for instance {', '.join(known)}"
    )


def _row(name: str) -> Family | None:
    if name not in {*FAMILIES, *plugins.own("families")}:
        return None
    row: Family | None = plugins.find("families", name, Family, FAMILIES)
    return FAMILIES[name] if row is None else row
