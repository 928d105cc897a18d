"""Options of a whole network, `network:` of a row: held for the length of a call, so that rows share one pipeline.

bfloat16 and float16 are not among them: that is `dtype`. `offload` is not held either: see `offloading`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from postdiff.engine.errors import UsageError
from postdiff.engine.family import family_of
from postdiff.lab.config.schema import NetworkConfig, RunConfig
from postdiff.lab.network import attention_backends, compiled_blocks, offloading, vae_options
from postdiff.lab.network.memory_format import channels_last

__all__ = ["NetworkOptions", "check", "described", "described_for_times"]

UNSEEN = ("offload",)  # changes no bit of a picture


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
        self.network: nn.Module = getattr(pipe, family.network)
        controlnet = getattr(pipe, family.controlnet, None) if family.controlnet else None
        self.denoisers = [self.network, *([controlnet] if isinstance(controlnet, nn.Module) else [])]
        if options.attention is not None:
            attention_backends.check(self.network, options.attention)
        if options.compile:
            compiled_blocks.blocks(self.network)
        if options.vae_slicing or options.vae_tiling:
            vae_options.check(pipe, options)

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
                stack.enter_context(channels_last([*self.denoisers, *vae_options.vaes(self.pipe)]))
            if options.vae_slicing or options.vae_tiling:
                stack.enter_context(vae_options.held(self.pipe, options))
            if options.compile:
                # Compiled code has its attention kernel built in, so it is not shared between backends.
                stack.enter_context(compiled_blocks.held(self.network, driver, options.attention))
            if options.attention is not None:
                for network in self.denoisers:
                    stack.enter_context(attention_backends.held(network, options.attention))
            yield


def check(config: RunConfig) -> None:
    """Refuse what can be seen without a pipeline to have no effect or no chance.

    Args:
        config: of a row, its device resolved.

    Raises:
        UsageError: with what to set in its place.
    """
    options, bench = config.network, config.bench
    offloading.check(config)
    if options.attention in attention_backends.CUDA_ONLY and not config.device.startswith("cuda"):
        raise UsageError(
            f"network.attention={options.attention} is a kernel for NVIDIA GPUs, and this row runs on "
            f"'{config.device}'; use math, flash or eager"
        )
    if options.vae_slicing:
        for name, size in {"batch_size": config.batch_size, "bench.batch_size": bench.batch_size}.items():
            if size == 1 and (bench.repeats or name == "batch_size"):
                raise UsageError(
                    f"network.vae_slicing=true decodes a batch picture by picture, and {name}=1; use {name}=2 or more"
                    + ("" if name == "batch_size" else ", or bench.repeats=0")
                )
    if options.compile and bench.repeats and not bench.warmup:
        raise UsageError("network.compile=true compiles in the first call, and bench.warmup=0 would time that; use 1")


def described(options: NetworkConfig) -> dict[str, Any]:
    """What they add to an identity, for they change pixels by rounding; nothing by default: older ids stay true."""
    return _network({name: value for name, value in _changed(options).items() if name not in UNSEEN})


def described_for_times(options: NetworkConfig) -> dict[str, Any]:
    """The same for the identity of times, to which all of them belong."""
    return _network(_changed(options))


def _changed(options: NetworkConfig) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if value != getattr(NetworkConfig(), name)}


def _network(changed: dict[str, Any]) -> dict[str, Any]:
    return {"network": changed} if changed else {}
