"""Model cards: what experiments know a model by, one pipeline or several that hand images on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any

from postdiff import catalog
from postdiff.engine.errors import UsageError, shown
from postdiff.engine.values import expanded, sound
from postdiff.lab.config.layers import Count, DType, Frames, Guidance, Offload, Pixels, Strength, Text, checked, merged
from postdiff.lab.config.schedulers import SchedulerConfig
from postdiff.lab.files import weights
from postdiff.lab.files.weights import Source
from postdiff.lab.pipelines import adapters, quantization
from postdiff.lab.pipelines.adapters import Adapters
from postdiff.lab.pipelines.quantization import Quantization

__all__ = ["ModelCard", "PipelineCard", "StageCard", "card", "parts"]


def _check_arguments(values: dict[str, Any]) -> None:
    if not sound(values):
        raise UsageError(f"arguments={shown(values)} holds a number that is none; write another")


@dataclass
class PipelineCard(Adapters, Source):
    """One pipeline: its source, adapters laid over it, and what else makes it up.

    Attributes:
        pipeline: diffusers class; null means the one that the folder names.
        network: source of a denoiser that takes the place of the pipeline's own; empty means the pipeline's own.
        vae: the same of the autoencoder.
        controlnet: source of a ControlNet, for a pipeline that takes one.
        motion_adapter: source of AnimateDiff's motion layers.
        quantization: weights of some networks in fewer bits; needs the extra `quantization`.
        height: native height in pixels; null means the pipeline's default.
        width: native width in pixels; null means the pipeline's default.
        scheduler: laid over the scheduler that the folder holds.
        guidance_scale: usual guidance; null means the pipeline's default.
        arguments: further arguments of its call, for instance noise_level or negative_prompt.
        structure: file of `configs/structures` with the network's shapes, for counting MACs without weights; a card
            of a structure alone serves that and `weights=random`.
    """

    pipeline: str | None = None
    network: Source = field(default_factory=Source)
    vae: Source = field(default_factory=Source)
    controlnet: Source = field(default_factory=Source)
    motion_adapter: Source = field(default_factory=Source)
    quantization: Quantization = field(default_factory=Quantization)
    height: Pixels | None = None
    width: Pixels | None = None
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    guidance_scale: Guidance | None = None
    arguments: Annotated[dict[str, Any], checked(_check_arguments)] = field(default_factory=dict)
    structure: Annotated[str, checked(lambda name: catalog.path("structures", name))] | None = None


@dataclass
class StageCard(PipelineCard):
    """One pipeline of a cascade.

    Attributes:
        steps: usual steps of a stage after the first, whose steps are the run's; null means the pipeline's default.
        dtype: what it runs in; null means the model card's.
        shared_text: take the first stage's text embeddings and load no text encoder.
    """

    steps: Count | None = None
    dtype: DType | None = None
    shared_text: bool = False


@dataclass
class ModelCard(PipelineCard):
    """A model as experiments know it: one pipeline, or stages one after the other.

    Attributes:
        summary: one line.
        dtype: what it runs in.
        strength: usual share of the noise that image-to-image starts from; null means the pipeline's default.
        frames: usual length of a video; null means the pipeline's default.
        offload: usual `network.offload` on a GPU; null means none.
        dual_encoder: CLIPModel folder for features and text scores, relative to the package; null if there is none.
        stages: {name: its pipeline} in the order in which they run; the first generates from text, the others go on
            from its image. Everything that belongs to one pipeline then stands under its stage.
    """

    summary: Text = ""
    dtype: DType = "float32"
    strength: Strength | None = None
    frames: Frames | None = None
    offload: Offload | None = None
    dual_encoder: str | None = None
    stages: dict[str, StageCard] = field(default_factory=dict)

    def usual(self, config: Any) -> dict[str, Any]:
        """Guidance, size, strength and frames of a run: its config's, or else the card's; None if neither has any.

        Of a cascade, the guidance is the first stage's; sizes stand in the stages.
        """
        names = ("guidance_scale", "height", "width", "strength", "frames")
        own = {name: getattr(self, name) for name in names}
        if self.stages:
            own["guidance_scale"] = next(iter(self.stages.values())).guidance_scale
        return {name: value if (value := getattr(config, name)) is not None else own[name] for name in names}


def card(name: str) -> ModelCard:
    """The card of that name, or a card made up for a pipeline folder.

    Raises:
        UsageError: neither a known name nor a folder that holds a pipeline, or a card that contradicts itself.
    """
    if name not in catalog.names("models"):
        folder = expanded(name)
        if folder.is_dir():
            encoder = folder.resolve() / "dual_encoder"
            return ModelCard(folder=str(folder.resolve()), dual_encoder=str(encoder) if encoder.is_dir() else None)
        if "/" in name or folder.exists():
            raise UsageError(
                f"model '{shown(name)}' is not a folder; give a pipeline folder, or a name of 'postdiff list models'"
            )
    file = catalog.path("models", name)
    found = merged(ModelCard, [(str(file), catalog.read(file))])
    check = _check_stages if found.stages else _check
    check(found, str(file))
    return found


def parts(model: PipelineCard) -> dict[str, Source]:
    """Networks that the card brings from elsewhere, by its key: in the place of the pipeline's own, or beside them."""
    named = {key: getattr(model, key) for key in ("network", "vae", "controlnet", "motion_adapter")}
    return {key: source for key, source in named.items() if source.given}


def _check(found: PipelineCard, where: str) -> None:
    if found.folder is not None or found.hub is not None or found.structure is None:
        weights.check(found, f"{where}: give")
    for key, source in parts(found).items():
        weights.check(source, f"{where}: give '{key}'")
        if found.pipeline is None:
            raise UsageError(f"{where}: '{key}' is a part of a pipeline; name its class under 'pipeline'")
    for key, source in adapters.given(found):
        weights.check(source, f"{where}: give '{key}'")
    if found.quantization.given:
        quantization.check_card(found.quantization, found.pipeline, found.network, where)


def _check_stages(found: ModelCard, where: str) -> None:
    plain = ModelCard()
    for name in (*(each.name for each in dataclasses.fields(PipelineCard)), "strength", "frames"):
        if getattr(found, name) != getattr(plain, name):
            raise UsageError(f"{where}: '{name}' belongs to one pipeline; write it under one of the stages")
    if len(found.stages) < 2:
        raise UsageError(f"{where}: one stage is no cascade; write its values without 'stages'")
    for place, (name, stage) in enumerate(found.stages.items()):
        own = f"{where}: stage '{name}'"
        _check(stage, own)
        if stage.hub is not None and stage.pipeline is None:
            raise UsageError(f"{own}: name the class of a pipeline from the hub under 'pipeline'")
        if place == 0 and stage.steps is not None:
            raise UsageError(f"{own}: the steps of the first stage are the run's; leave them out")
        if place == 0 and stage.shared_text:
            raise UsageError(f"{own}: the first stage has nobody to share text with; leave out shared_text")
