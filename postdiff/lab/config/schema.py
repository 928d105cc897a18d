"""What a run is made of. The dataclasses are the schema over which `resolve` lays files and command line."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from postdiff.engine.errors import UsageError
from postdiff.lab.config import metric_specs
from postdiff.lab.config.layers import (
    Count,
    DType,
    Frames,
    Guidance,
    Offload,
    Pixels,
    Seconds,
    Seeds,
    Strength,
    Text,
    Whole,
    check_device,
    checked,
    merged,
)
from postdiff.lab.config.schedulers import SchedulerConfig

__all__ = [
    *("BenchConfig", "LoggerConfig", "NetworkConfig", "RunConfig", "StageConfig", "TrainerConfig"),
    *("digest", "long_form", "resolve"),
]

# {where: {old key: new key}}; "" is the row itself.
OLD_KEYS = {"": {"mirror": "logger"}, "logger": {"pictures": "images"}}


@dataclass
class BenchConfig:
    """How speed is measured; repeats 0 leaves it out.

    Attributes:
        repeats: timed rounds over all rows, at most.
        warmup: untimed rounds first.
        batch_size: images a call.
        seconds: how long it may take from the building of the networks on; rounds that would not be whole by then are
            left out. It holds for all rows together; null means as long as it takes.
        official: time the code of others in the same rounds, where it does the same work: the bare pipeline beside a
            row without methods, and the packages of methods' authors.
    """

    repeats: Annotated[int, Field(ge=0, le=10_000)] = 5
    warmup: Annotated[int, Field(ge=0, le=10_000)] = 1
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 1
    seconds: Seconds | None = None
    official: bool = False

    def described(self) -> dict[str, Any]:
        """As it belongs to an identity, without `official`, which changes nothing in a row's own times.

        Where there is no time limit it is not told, so that older ids stay true.
        """
        limit = {} if self.seconds is None else {"seconds": self.seconds}
        return {"repeats": self.repeats, "warmup": self.warmup, "batch_size": self.batch_size, **limit}


@dataclass
class NetworkConfig:
    """Options of the whole network that multiply with the methods; the images stay the same but for rounding.

    `offload` changes none of their bits, so it belongs to the identity of times alone.

    Attributes:
        channels_last: convolutions of denoiser, ControlNet and VAE work with channels last in memory.
        compile: torch.compile of the denoiser's repeated blocks, cut smaller where a method acts inside them. The
            first call of every shape compiles, so `bench.warmup` must be 1 or more.
        attention: how the denoiser computes attention: math, flash, efficient or cudnn, kernels of torch, or eager,
            products and softmax one by one, as before torch 2. null means that torch chooses for every shape.
        vae_slicing: decode a batch image by image.
        vae_tiling: decode a large image in overlapping tiles; seams are blended, so it changes pixels visibly.
        offload: keep weights in the computer's memory and move to the GPU, when they are needed, whole networks
            (model), single layers (sequential, the least memory and the slowest), or single layers of which the next
            is fetched while one computes (group). null means the model card's, none means no offloading. Rows of
            different kinds are not timed in turns, or one's weights would stand in the other's memory.
    """

    channels_last: bool = False
    compile: bool = False
    attention: Literal["math", "flash", "efficient", "cudnn", "eager"] | None = None
    vae_slicing: bool = False
    vae_tiling: bool = False
    offload: Offload | None = None


@dataclass
class LoggerConfig:
    """What W&B and TensorBoard are told beside the numbers; nothing of it changes a result.

    Attributes:
        names: loggers of your own, files in `POSTDIFF_PATH/loggers`.
        project: of W&B; null means the environment's WANDB_PROJECT, or else postdiff.
        entity: W&B user or team; null means your usual one.
        tags: added to those of experiment, model, data and methods.
        images: of each row, at most so many; 0 for none.
        timeout: seconds that W&B may take to answer at the start, and four times that to take the rest at the end.
    """

    names: list[Text] = field(default_factory=list)
    project: Text | None = None
    entity: Text | None = None
    tags: list[Text] = field(default_factory=list)
    images: Whole = 16
    timeout: Seconds = 30.0


@dataclass
class TrainerConfig:
    """The devices that share a run's images; all comes out as on one, but for the rounding of Frechet distances.

    Attributes:
        accelerator: auto, cpu or gpu.
        devices: on each machine; of a CPU, processes. Each device makes batches of `batch_size`.
        num_nodes: machines; they must see the same outputs folder.
        strategy: auto or ddp, which are the same.
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: Count = 1
    num_nodes: Annotated[int, Field(ge=1, le=10_000)] = 1
    strategy: Literal["auto", "ddp"] = "auto"


@dataclass
class StageConfig:
    """What a run sets in one stage of a cascade; null means the model card's.

    Attributes:
        steps: inference steps.
        guidance_scale: classifier-free guidance.
        scheduler: the solver.
        methods: as in `RunConfig`; null means none.
        reference_steps: steps in the run that paired metrics compare with.
    """

    steps: Count | None = None
    guidance_scale: Guidance | None = None
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    methods: list[Any] | None = None
    reference_steps: Count | None = None


@dataclass
class RunConfig:
    """Everything that one row of an experiment is made with.

    Attributes:
        model: name of a model card, or a pipeline folder.
        data: name of a data card or of a prepared manifest, or a file of prompts.
        weights: trained, or random ones in a network of the model card's structure, to time it without a download.
        scheduler: the solver.
        steps: inference steps.
        guidance_scale: classifier-free guidance; null means the model card's.
        height: image height in pixels; null means the model card's.
        width: image width in pixels; null means the model card's.
        strength: share of the noise that image-to-image starts from, above 0 to 1: it runs that share of `steps`.
            null means the model card's.
        frames: length of a video; null means the model card's. A video counts as that many images; network calls,
            MACs and times are of whole videos.
        methods: presets by name or one-key mappings {method: {option: value}}, first outermost.
        stages: {stage of a cascade: what differs there}. All that stands above is the first stage's, unless its own
            entry here says otherwise.
        count: number of prompts, from the first on; null means all.
        seeds: every prompt is sampled once with each of them; none set means those of the data, [0] as a rule.
        batch_size: images made at once in the quality run. Since it moves the last bits of each image, images of
            another batch size are others.
        dtype: float32, float16 or bfloat16; null means the model card's.
        device: auto, cpu, cuda or cuda:N.
        metrics: names of metrics, or one-key mappings {metric: {option: value}}; null means all that ship and that the
            model and the data can serve.
        bootstrap: how many times the images are drawn anew, with replacement, for 95 % intervals; 0 leaves them out.
        reference_steps: steps of the run without methods that the paired metrics compare with.
        reference_scheduler: the solver of that run; null means the row's own, {} the model's.
        step_scores: generate once more, and give the clean estimate after every step the model's text score.
        bench: how speed is measured.
        network: memory format, compilation, attention and VAE; the reference run of paired metrics has none of it.
        store: how images are kept: png, a file each.
        trainer: on how many devices.
        wandb: off, offline or online.
        tensorboard: also write what W&B would get below `outputs/tensorboard`.
        logger: what both are told.
    """

    model: Text = "emoji"
    data: Text = "emoji"
    weights: Literal["trained", "random"] = "trained"
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    steps: Count = 20
    guidance_scale: Guidance | None = None
    height: Pixels | None = None
    width: Pixels | None = None
    strength: Strength | None = None
    frames: Frames | None = None
    methods: list[Any] = field(default_factory=list)
    stages: dict[str, StageConfig] = field(default_factory=dict)
    count: Count | None = None
    seeds: Seeds = field(default_factory=list)
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 16
    dtype: DType | None = None
    device: Annotated[str, checked(check_device)] = "auto"
    metrics: Annotated[list[Any], checked(metric_specs.names)] | None = None
    bootstrap: Annotated[int, Field(ge=0, le=100_000)] = 0
    reference_steps: Count = 50
    reference_scheduler: SchedulerConfig | None = None
    step_scores: bool = False
    bench: BenchConfig = field(default_factory=BenchConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    store: Literal["png"] = "png"
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    # Readers of older YAML hand the word off on as false.
    wandb: Annotated[
        Literal["off", "offline", "online"], BeforeValidator(lambda value: "off" if value is False else value)
    ] = "off"
    tensorboard: bool = False
    logger: LoggerConfig = field(default_factory=LoggerConfig)


def resolve(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> RunConfig:
    """Merge the layers, the last one uppermost, and check every value that can be checked without a model.

    Raises:
        UsageError: unknown key or name, wrong type, or a value out of range.
    """
    return merged(RunConfig, [(where, long_form(values)) for where, values in layers])


def long_form(values: Mapping[str, Any], inside: str = "") -> dict[str, Any]:
    """A row as the schema has it: `scheduler: ddim` is what everybody writes first, and old keys have new names.

    Args:
        values: as they are written.
        inside: key that they stand below; empty for a row or a stage itself.

    Raises:
        UsageError: a key in both spellings.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        new = OLD_KEYS[inside].get(key, key)
        if new != key:
            if new in values:
                raise UsageError(f"'{key}' is the old name of '{new}', which is given too; leave '{key}' out")
            _warn(f"{inside}.{key}".lstrip("."), f"{inside}.{new}".lstrip("."))
        if not inside and new in ("scheduler", "reference_scheduler") and isinstance(value, str):
            value = {"name": value}
        elif not inside and new == "stages" and isinstance(value, Mapping):
            value = {name: long_form(own) if isinstance(own, Mapping) else own for name, own in value.items()}
        elif not inside and new in OLD_KEYS and isinstance(value, Mapping):
            value = long_form(value, new)
        found[new] = value
    return found


@functools.cache
def _warn(old: str, new: str) -> None:
    """Each old key is told of once."""
    print(f"warning: the key '{old}' is called '{new}' now; the old name goes with the next release", file=sys.stderr)


def digest(values: Any, length: int = 12) -> str:
    """A hash of plain values that does not depend on the order of keys."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
