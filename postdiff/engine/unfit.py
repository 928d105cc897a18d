"""Pipelines out of reach of a driver that wraps networks and one solver for runs of steps: why, and what is nearest."""

from __future__ import annotations

__all__ = ["UNFIT"]

_ZERO = (
    "it denoises in three loops of its own, goes back in time between them and swaps its scheduler, so there is no one "
    "run of steps to plan, and its frames look at each other by a fixed number of rows; use AnimateDiffPipeline"
)
_CASCADE = "its network counts time in units of its own, a vector of them; use StableDiffusionXLPipeline"
_COSMOS = "it asks its solver twice a step, the first time for a clean estimate alone; use Cosmos2TextToImagePipeline"
_SLICES = (
    "its latents hold channels of a given image, and its solver is handed a slice of them; use Kandinsky5T2IPipeline"
)
# {class: why, and what is nearest}
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
