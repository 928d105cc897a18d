"""What a run is made of. The dataclasses are the schema; `resolving` lays files and command line over them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from postdiff.engine.values import one_of, real, text, whole
from postdiff.lab.config import ranges

__all__ = [
    "BenchConfig",
    "MirrorConfig",
    "NetworkConfig",
    "RunConfig",
    "SchedulerConfig",
    "StageConfig",
    "TrainerConfig",
    "digest",
]


@dataclass
class SchedulerConfig:
    """The solver: a name of `schedulers.SCHEDULERS` (null: the model's own) and options laid over the model's."""

    name: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class BenchConfig:
    """How speed is measured; repeats 0 leaves it out.

    Attributes:
        repeats: timed rounds over all rows, at most.
        warmup: untimed rounds first.
        batch_size: pictures a call.
        seconds: how long it may take from the building of the networks on; rounds that would not be whole by then are
            left out. It holds for all rows together; null means as long as it takes.
        official: time the code of others in the same rounds, where it does the same work: the bare pipeline beside a
            row without methods, and the packages of methods' authors.
    """

    repeats: int = whole(5, 0, 10_000)
    warmup: int = whole(1, 0, 10_000)
    batch_size: int = whole(1, 1, 100_000)
    seconds: float | None = real(None, lambda seconds: 0 < seconds <= 86400, "seconds above 0, at most a day")
    official: bool = False

    def described(self) -> dict[str, Any]:
        """As it belongs to an identity, without `official`, which changes nothing in a row's own times.

        Where there is no time limit it is not told, so that older ids stay true.
        """
        limit = {} if self.seconds is None else {"seconds": self.seconds}
        return {"repeats": self.repeats, "warmup": self.warmup, "batch_size": self.batch_size, **limit}


@dataclass
class NetworkConfig:
    """Options of the whole network that multiply with the methods; the pictures stay the same but for rounding.

    `offload` changes none of their bits, so it belongs to the identity of times alone.

    Attributes:
        channels_last: convolutions of denoiser, ControlNet and VAE work with channels last in memory.
        compile: torch.compile of the denoiser's repeated blocks, cut smaller where a method acts inside them. The
            first call of every shape compiles, so `bench.warmup` must be 1 or more.
        attention: how the denoiser computes attention: math, flash, efficient or cudnn, kernels of torch, or eager,
            products and softmax one by one, as before torch 2. null means that torch chooses for every shape.
        vae_slicing: decode a batch picture by picture.
        vae_tiling: decode a large picture in overlapping tiles; seams are blended, so it changes pixels visibly.
        offload: keep weights in the computer's memory and move to the GPU, when they are needed, whole networks
            (model), single layers (sequential, the least memory and the slowest), or single layers of which the next
            is fetched while one computes (group). null means the model card's, none means no offloading. Rows of
            different kinds are not timed in turns, or one's weights would stand in the other's memory.
    """

    channels_last: bool = False
    compile: bool = False
    attention: str | None = one_of(None, ("math", "flash", "efficient", "cudnn", "eager"))
    vae_slicing: bool = False
    vae_tiling: bool = False
    offload: str | None = ranges.offload()


@dataclass
class MirrorConfig:
    """What loggers are told beside the numbers; nothing of it changes a result.

    Attributes:
        names: loggers of one's own beside W&B and TensorBoard, `loggers/NAME.py` in a folder of `POSTDIFF_PATH`.
        project: of W&B; null means the environment's WANDB_PROJECT, or else postdiff.
        entity: W&B user or team; null means your usual one.
        tags: added to those of experiment, model, data and methods.
        pictures: of each row, at most so many; 0 for none.
        timeout: seconds that W&B may take to answer at the start, and four times that to take the rest at the end.
    """

    names: list[str] = field(default_factory=list)
    project: str | None = None
    entity: str | None = None
    tags: list[str] = field(default_factory=list)
    pictures: int = whole(16, 0)
    timeout: float = real(30.0, lambda seconds: 0 < seconds <= 86400, "seconds above 0, at most a day")


@dataclass
class TrainerConfig:
    """The devices that share a run's pictures; all comes out as on one, but for the rounding of Frechet distances.

    Attributes:
        accelerator: auto, cpu or gpu.
        devices: on each machine; of a CPU, processes. Each device makes batches of `batch_size`.
        num_nodes: machines; they must see the same outputs folder.
        strategy: auto or ddp, which are the same.
    """

    accelerator: str = one_of("auto", ("auto", "cpu", "gpu"))
    devices: int = whole(1, 1)
    num_nodes: int = whole(1, 1, 10_000)
    strategy: str = one_of("auto", ("auto", "ddp"))


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

    steps: int | None = whole(None, 1)
    guidance_scale: float | None = ranges.guidance()
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    methods: list[Any] | None = None
    reference_steps: int | None = whole(None, 1)


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
        height: picture height in pixels; null means the model card's.
        width: picture width in pixels; null means the model card's.
        strength: share of the noise that image-to-image starts from, above 0 to 1: it runs that share of `steps`.
            null means the model card's.
        frames: length of a video; null means the model card's. A video counts as that many pictures; network calls,
            MACs and times are of whole videos.
        methods: presets by name or one-key mappings {method: {option: value}}, first outermost.
        stages: {stage of a cascade: what differs there}. All that stands above is the first stage's, unless its own
            entry here says otherwise.
        count: number of prompts, from the first on; null means all.
        seeds: every prompt is drawn once with each of them; none set means those of the data, [0] as a rule.
        batch_size: pictures made at once in the quality run. Since it moves the last bits of each picture, pictures of
            another batch size are others.
        dtype: float32, float16 or bfloat16; null means the model card's.
        device: auto, cpu, cuda or cuda:N.
        metrics: names of metrics, or one-key mappings {metric: {option: value}}; null means all that ship and that the
            model and the data can serve.
        bootstrap: how many times the pictures are drawn anew, with replacement, for 95 % intervals; 0 leaves them out.
        reference_steps: steps of the run without methods that the paired metrics compare with.
        step_scores: draw once more, and give the clean estimate after every step the model's text score.
        bench: how speed is measured.
        network: memory format, compilation, attention and VAE; the reference run of paired metrics has none of it.
        store: how images are kept: png, a file each.
        trainer: on how many devices.
        wandb: off, offline or online.
        tensorboard: also write what W&B would get below `outputs/tensorboard`.
        mirror: what both are told.
    """

    model: str = "emoji"
    data: str = "emoji"
    weights: str = one_of("trained", ("trained", "random"))
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    steps: int = whole(20, 1)
    guidance_scale: float | None = ranges.guidance()
    height: int | None = ranges.pixels()
    width: int | None = ranges.pixels()
    strength: float | None = ranges.strength()
    frames: int | None = ranges.frames()
    methods: list[Any] = field(default_factory=list)
    stages: dict[str, StageConfig] = field(default_factory=dict)
    count: int | None = whole(None, 1)
    seeds: list[int] = field(default_factory=list, metadata={"check": ranges.given_seeds})
    batch_size: int = whole(16, 1, 100_000)
    dtype: str | None = ranges.dtype(None)
    device: str = text("auto", ranges.check_device)
    metrics: list[Any] | None = None
    bootstrap: int = whole(0, 0, 100_000, "0 for none, or 1000")
    reference_steps: int = whole(50, 1)
    step_scores: bool = False
    bench: BenchConfig = field(default_factory=BenchConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    store: str = one_of("png", ("png",))
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    wandb: str = one_of("off", ("off", "offline", "online"), "wandb mode")
    tensorboard: bool = False
    mirror: MirrorConfig = field(default_factory=MirrorConfig)

    def as_dict(self) -> dict[str, Any]:
        """The config as plain values."""
        return dataclasses.asdict(self)


def digest(values: Any, length: int = 12) -> str:
    """A hash of plain values that does not depend on the order of keys."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
