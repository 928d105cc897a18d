"""What the cards, the pipeline's class and this machine fill into the config of a row, and whether all fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from postdiff.engine.errors import UsageError
from postdiff.lab.config import metric_specs
from postdiff.lab.config.schema import RunConfig
from postdiff.lab.data.data_cards import DataCard, Prompt
from postdiff.lab.devices import placement
from postdiff.lab.metrics import chosen
from postdiff.lab.pipelines import models, network_options, quantization, random_weights, signature, sizes
from postdiff.lab.pipelines.cards import ModelCard
from postdiff.lab.pipelines.stages import StageRun

__all__ = ["fill"]


def fill(
    config: RunConfig, card: ModelCard, data_card: DataCard, available: Sequence[Prompt], chain: Sequence[StageRun]
) -> RunConfig:
    """The config with nothing left open.

    Args:
        config: of the row, the first stage of a cascade laid over it.
        card: the model card.
        data_card: the data card.
        available: all its lines.
        chain: the stages of a cascade; empty if the model is one pipeline.

    Raises:
        UsageError: the model, the data or this machine cannot serve it.
    """
    random = config.weights == "random"
    count = config.count or len(available)
    if count > len(available):
        raise UsageError(f"count={count}, but data '{config.data}' has {len(available)} prompts; use at most that")
    asked = dataclasses.replace(config, **card.usual(config))
    first = chain[0].card if chain else card
    cls = random_weights.pipeline_class(first) if random else models.pipeline_class(first)
    wanted = cls and signature.signature_of(cls)
    if wanted is not None:
        signature.check(wanted, asked, data_card)
        signature.check_arguments(wanted, card.arguments)
    device = placement.device(config)
    native = (lambda: sizes.of_structure(str(first.structure))) if random else (lambda: sizes.of_card(card))
    height, width = sizes.whole(asked.height, asked.width, native)
    # The row's own word holds ("none": no offloading), or else the model card's, which speaks of GPUs alone.
    offload = config.network.offload or (card.offload if device.startswith("cuda") else None)
    frames = asked.frames
    if wanted is not None and wanted.default_frames is not None:
        if config.step_scores:
            raise UsageError(f"step_scores=true is for images, and {wanted.name} makes videos; use step_scores=false")
        frames = frames or wanted.default_frames
    filled = dataclasses.replace(
        asked,
        height=height,
        width=width,
        frames=frames,
        count=count,
        seeds=config.seeds or data_card.seeds or [0],
        dtype=config.dtype or card.dtype,
        device=device,
        network=dataclasses.replace(config.network, offload=None if offload == "none" else offload),
        metrics=[] if random else chosen.chosen(config, count, card, data_card),
    )
    measured = metric_specs.names(filled.metrics)
    if filled.step_scores and next(chosen.step_metrics(measured), None) is None:
        raise UsageError(
            f"step_scores=true needs a text score among the metrics, and those of model '{config.model}' are "
            f"{', '.join(measured) or 'none'}; use model=emoji or step_scores=false"
        )
    network_options.check(filled)
    for each in (card, *card.stages.values()):
        if each.quantization.given:
            quantization.check(each.quantization, device)
    return filled
