"""Options of a whole network, `network:` of a row: held for the length of a call, so that rows share one pipeline.

bfloat16 and float16 are not among them: that is `dtype`. `offload` is not held either: a pipeline is offloaded from the
moment it is loaded, since it may not fit on the GPU for even a moment. So rows of another kind load a pipeline of their
own, and nothing need be undone.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from postdiff.engine.errors import UsageError, shown
from postdiff.engine.family import family_of
from postdiff.engine.intercept import intercept
from postdiff.lab.config.schema import NetworkConfig, RunConfig
from postdiff.lab.pipelines import attention_backends, compiled_blocks

__all__ = ["NetworkOptions", "check", "described", "place"]

# What the options of decoding are called on a VAE: slices of a batch, tiles of an image.
VAE_FLAGS = {"vae_slicing": "use_slicing", "vae_tiling": "use_tiling"}
# {weight: (its values as they are, the same with channels last)}. The second copy is kept, so that rows in turns pay
# for it once; it takes the memory of the convolutions' weights.
_converted = WeakTensorKeyDictionary()


class NetworkOptions:
    """What a row asks of one pipeline's networks beside its methods.

    Args:
        pipe: the pipeline; between calls it is as it was.
        options: of the row.

    Raises:
        UsageError: the pipeline has nothing that an option could act on.
    """

    def __init__(self, pipe: Any, options: NetworkConfig) -> None:
        self.pipe, self.options = pipe, options
        family = family_of(pipe)
        self.networks = family.networks(pipe)  # two where they take turns
        controlnet = getattr(pipe, family.controlnet, None) if family.controlnet else None
        self.denoisers = [*self.networks, *([controlnet] if isinstance(controlnet, nn.Module) else [])]
        self.vaes = [vae for vae in [getattr(pipe, "vae", None)] if isinstance(vae, nn.Module)]
        for network in self.networks:
            if options.attention is not None:
                attention_backends.check(network, options.attention)
            if options.compile:
                compiled_blocks.blocks(network)
        for option, flag in VAE_FLAGS.items():
            if getattr(options, option) and not self.vaes:
                raise UsageError(f"network.{option}=true: {type(pipe).__name__} has no VAE; leave it out")
            if getattr(options, option) and not hasattr(pipe.vae, flag):
                raise UsageError(f"network.{option}=true: {type(pipe.vae).__name__} cannot do that; leave it out")

    @contextmanager
    def around(self, driver: Any = None) -> Iterator[None]:
        """Hold the options for one call.

        Args:
            driver: what is called; compiled blocks give way to what its methods act on.

        Raises:
            UsageError: a backend that device, type or shapes cannot have, a block that cannot be compiled, or an
                option that had nothing to do in this call.
        """
        options = self.options
        with ExitStack() as stack:
            if options.channels_last:
                stack.enter_context(_channels_last([*self.denoisers, *self.vaes]))
            if options.vae_slicing or options.vae_tiling:
                stack.enter_context(self._decoding_in_pieces())
            if options.compile:
                # Compiled code has its attention kernel built in, so it is not shared between backends.
                for network in self.networks:
                    stack.enter_context(compiled_blocks.held(network, driver, options.attention))
            if options.attention is not None:
                for network in self.denoisers:
                    stack.enter_context(attention_backends.held(network, options.attention))
            yield

    @contextmanager
    def _decoding_in_pieces(self) -> Iterator[None]:
        """Let the VAE decode in slices or tiles; a call whose images were too small for tiles ends in an error."""
        vae, tiled = self.pipe.vae, []

        def around(decode: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            tiled.append(True)
            return decode(*args, **kwargs)

        with ExitStack() as stack:
            for option, flag in VAE_FLAGS.items():
                if getattr(self.options, option):
                    stack.callback(setattr, vae, flag, getattr(vae, flag))
                    setattr(vae, flag, True)
            watched = self.options.vae_tiling and hasattr(vae, "tiled_decode")
            if watched:
                stack.enter_context(intercept(vae, "tiled_decode", around))
            yield
            if watched and not tiled:
                least = getattr(vae, "tile_sample_min_size", None)
                size = f"of {least} pixels " if isinstance(least, int) else ""
                raise UsageError(
                    f"network.vae_tiling=true did nothing: an image of this size is a single tile {size}to "
                    f"{type(vae).__name__}; generate larger or leave it out"
                )


@contextmanager
def _channels_last(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Let convolutions see channels-last weights, which makes them work and give out in that format.

    What is the same as `network.to(memory_format=torch.channels_last)` inside the block is undone after it.

    Raises:
        UsageError: none of the networks has a two-dimensional convolution.
    """
    weights = [weight for network in networks for weight in network.parameters() if weight.dim() == 4]
    if not weights:
        names = ", ".join(type(network).__name__ for network in networks)
        raise UsageError(f"network.channels_last=true is for two-dimensional convolutions, and {names} have none")
    for weight in weights:
        if weight not in _converted or not _same(weight.data, _converted[weight][0]):
            _converted[weight] = (weight.data, weight.data.to(memory_format=torch.channels_last))
    pairs = [(weight, *_converted[weight]) for weight in weights]
    try:
        for weight, _, converted in pairs:
            weight.data = converted
        yield
    finally:
        for weight, plain, converted in pairs:
            if _same(weight.data, converted):
                weight.data = plain
            elif not _same(weight.data, plain):  # a pipeline may cast its VAE to and fro during a call
                weight.data = weight.data.contiguous()


def _same(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.dtype == other.dtype and one.stride() == other.stride()


def check(config: RunConfig) -> None:
    """Refuse what can be seen without a pipeline to have no effect or no chance.

    Args:
        config: of a row, its device and offloading resolved.

    Raises:
        UsageError: with what to set in its place.
    """
    options, bench = config.network, config.bench
    on_gpu = config.device.startswith("cuda")
    if (mode := options.offload) is not None:
        if not on_gpu:
            raise UsageError(
                f"network.offload={mode} keeps weights in the computer's memory until a GPU needs them, and this row "
                f"runs on '{config.device}'; leave it out"
            )
        if options.channels_last:
            raise UsageError(
                f"network.channels_last=true would be lost when network.offload={mode} moves weights; use one of them"
            )
        if options.compile and mode != "model":
            raise UsageError(
                f"network.offload={mode} moves the weights of single layers, inside what network.compile=true "
                "compiles; use offload=model"
            )
        if importlib.util.find_spec("accelerate") is None:
            raise UsageError(
                f"network.offload={mode} needs the package accelerate, which is not installed; pip install accelerate"
            )
    if options.attention in attention_backends.CUDA_ONLY and not on_gpu:
        raise UsageError(
            f"network.attention={options.attention} is a kernel for NVIDIA GPUs, and this row runs on "
            f"'{config.device}'; use math, flash or eager"
        )
    if options.vae_slicing:
        for name, size in {"batch_size": config.batch_size, "bench.batch_size": bench.batch_size}.items():
            if size == 1 and (bench.repeats or name == "batch_size"):
                raise UsageError(
                    f"network.vae_slicing=true decodes a batch image by image, and {name}=1; use {name}=2 or more"
                    + ("" if name == "batch_size" else ", or bench.repeats=0")
                )
    if options.compile and bench.repeats and not bench.warmup:
        raise UsageError("network.compile=true compiles in the first call, and bench.warmup=0 would time that; use 1")


def described(options: NetworkConfig, *, times: bool = False) -> dict[str, Any]:
    """What they add to an identity, for they change pixels by rounding; nothing by default: older ids stay true.

    Args:
        options: of a row.
        times: whether it is the identity of times, to which `offload` belongs as well; it changes no bit of an image.
    """
    usual = vars(NetworkConfig())
    changed = {name: value for name, value in vars(options).items() if value != usual[name]}
    if not times:
        changed.pop("offload", None)
    return {"network": changed} if changed else {}


def place(pipe: Any, mode: str, device: str) -> None:
    """Let diffusers offload the networks of a pipeline that is on the CPU.

    Args:
        pipe: as it was loaded.
        mode: whole networks ("model"), single layers ("sequential"), or single layers of which the next one is fetched
            while one computes ("group").
        device: which computes.

    Raises:
        UsageError: diffusers cannot do that with this pipeline.
    """
    on = torch.device(device)
    if on.type == "cuda" and on.index is None:  # where several processes have a GPU each, "cuda" means one's own
        on = torch.device("cuda", torch.cuda.current_device())
    try:
        if mode == "model":
            pipe.enable_model_cpu_offload(device=on)
        elif mode == "sequential":
            pipe.enable_sequential_cpu_offload(device=on)
        else:
            pipe.enable_group_offload(on, torch.device("cpu"), offload_type="leaf_level", use_stream=on.type != "cpu")
    except (ValueError, RuntimeError, TypeError, NotImplementedError) as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise UsageError(
            f"network.offload={mode} cannot serve {type(pipe).__name__}: {shown(str(error), 140)}; use another kind"
        ) from error
