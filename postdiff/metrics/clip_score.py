"""How well an image fits its prompt: 100 cosines of a CLIP model, CLIPScore, and the shipped dual encoder's score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor
from torch.nn import functional

from postdiff.engine.errors import UsageError
from postdiff.metrics import clip
from postdiff.metrics.base import PerImageMetric, Resources
from postdiff.metrics.clip import ClipExtractor

__all__ = ["ClipOptions", "ClipScore", "ClipScoreW25", "EmojiTextScore"]


@dataclass
class ClipOptions:
    """A CLIP score.

    Attributes:
        model: CLIP folder or repository of the hub, or `open_clip:NAME/TAG_OR_FILE`; null means OpenAI's ViT-L/14.
        template: the text for a prompt, which stands where {prompt} is.
    """

    model: str | None = None
    template: str = "{prompt}"

    def __post_init__(self) -> None:
        if "{prompt}" not in self.template:
            raise UsageError(f"template='{self.template}' has no {{prompt}}; write it where the prompt belongs")


class ClipScore(PerImageMetric):
    """100 x cosine of image and prompt in a CLIP model of your choice; needs its weights.

    It is not clamped: the scale of DeepCache and torchmetrics.

    Args:
        clip: gives the features.
        options: see `ClipOptions`.
    """

    title = "CLIP score"
    higher_is_better = True
    digits = 2
    formula = "100 x cosine, not clamped"
    Options = ClipOptions

    def __init__(self, clip: ClipExtractor, options: ClipOptions | None = None) -> None:
        super().__init__()
        self.clip, self.template = clip, (options or ClipOptions()).template

    @classmethod
    def from_options(cls, options: Any, resources: Resources) -> Self:
        return cls(clip.load(options.model), options)

    @classmethod
    def rests_on(cls, options: Any, resources: Resources) -> list[str | None]:
        return [clip.weights_hash(options.model)]

    def update(self, images: Tensor, prompts: list[str]) -> None:
        """Take in images (B, 3, H, W), uint8, and their B prompts."""
        texts = [self.template.replace("{prompt}", prompt) for prompt in prompts]
        self.add(self.scaled(functional.cosine_similarity(self.clip(images), self.clip.text_features(texts))))

    def scaled(self, cosines: Tensor) -> Tensor:
        """The score of each cosine."""
        return 100 * cosines

    def identity(self) -> dict[str, Any]:
        return {"formula": self.formula, "template": self.template, **self.clip.identity()}


class ClipScoreW25(ClipScore):
    """2.5 x max(cosine, 0) of image and prompt in a CLIP model of your choice; needs its weights.

    Reference:
        Hessel et al., EMNLP 2021, arXiv:2104.08718, Sec. 3. They put "A photo depicts " before a caption: a `template`.
    """

    title = "CLIPScore (w=2.5)"
    digits = 4
    formula = "2.5 x max(cosine, 0)"

    def scaled(self, cosines: Tensor) -> Tensor:
        return 2.5 * cosines.clamp(min=0)


class EmojiTextScore(ClipScore):
    """100 x cosine of image and prompt in the shipped dual encoder; not comparable with other CLIP scores."""

    title = "Text score"
    digits = 1
    needs = ("encoder",)
    by_default = True
    Options = None  # type: ignore[assignment]

    @classmethod
    def from_options(cls, options: Any, resources: Resources) -> Self:
        assert resources.encoder is not None
        return cls(clip.dual_encoder(resources.encoder))

    @classmethod
    def rests_on(cls, options: Any, resources: Resources) -> list[str | None]:
        return []  # beside the row's own encoder
