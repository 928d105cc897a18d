"""Reference implementations that rows are timed against: the bare pipeline, and the packages of methods' authors.

A reference implementation does the same work as the row beside it, in the same process. So its images say whether both
really do (`difference`), and the ratio of times is what our driver costs or saves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from postdiff.engine.errors import UsageError
from postdiff.engine.family import family_of
from postdiff.engine.intercept import intercept
from postdiff.lab.plan.plan import Plan
from postdiff.methods import DeepCache, PyramidAttentionBroadcast, ToMe

__all__ = ["ReferenceImplementation", "reference_of"]

Ready = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class ReferenceImplementation:
    """Other code for the same work.

    Attributes:
        name: package and version.
        ready: makes the pipeline ready for one call, and leaves it as it was.
    """

    name: str
    ready: Ready


def reference_of(plan: Plan, pipe: Any) -> ReferenceImplementation | None:
    """The code that a row is timed against, or None where there is none for its methods on this network.

    Rows without methods have the bare pipeline; DeepCache has its authors' helper (which knows U-Nets with two layers a
    block and uniform intervals), ToMe has tomesd, pyramid attention broadcast has diffusers' hooks.

    Raises:
        UsageError: the package is not installed.
    """
    if plan.stages:
        return None
    if not plan.methods:
        return ReferenceImplementation(f"diffusers {version('diffusers')} alone", nullcontext)
    if len(plan.methods) > 1:
        return None
    [method] = plan.methods
    network = getattr(pipe, family_of(pipe).network)
    if isinstance(method, DeepCache):
        return _deepcache(method, pipe, network)
    if isinstance(method, ToMe):
        return ReferenceImplementation(_named("tomesd"), lambda: _tomesd(method, network))
    if isinstance(method, PyramidAttentionBroadcast):
        return ReferenceImplementation(
            f"hooks of diffusers {version('diffusers')}", lambda: _broadcast(method, network)
        )
    return None


def _named(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        raise UsageError(
            f'bench.official=true needs {package}, which is not installed; pip install "postdiff[official]"'
        ) from None


def _deepcache(method: DeepCache, pipe: Any, network: nn.Module) -> ReferenceImplementation | None:
    same = dataclasses.replace(method, branch=0, interval=2, numbering="helper") == DeepCache(branch=0)
    if not same or getattr(network.config, "layers_per_block", None) != 2 or not hasattr(pipe, "unet"):
        return None
    name = _named("DeepCache")
    branch = method.branch + (method.numbering == "paper")

    @contextmanager
    def ready() -> Iterator[None]:
        from DeepCache import DeepCacheSDHelper

        with _attributes_kept(network):
            helper = DeepCacheSDHelper(pipe=pipe)
            helper.set_params(cache_interval=method.interval, cache_branch_id=branch)
            helper.enable()
            yield

    return ReferenceImplementation(name, ready)


@contextmanager
def _tomesd(method: ToMe, network: nn.Module) -> Iterator[None]:
    import tomesd

    patch = getattr(network.config, "patch_size", None) or 1
    options = {
        "ratio": method.ratio,
        "max_downsample": method.max_downsample * patch,  # it counts a patch as downsampling
        "sx": method.sx,
        "sy": method.sy,
        "use_rand": method.rand,
        "merge_attn": method.merge_attention,
        "merge_crossattn": method.merge_cross_attention,
        "merge_mlp": method.merge_mlp,
    }
    # Its generator begins as a copy of the global one.
    with _attributes_kept(network), torch.random.fork_rng():
        tomesd.apply_patch(network, **options)
        torch.manual_seed(method.seed)
        try:
            yield
        finally:
            tomesd.remove_patch(network)


@contextmanager
def _broadcast(method: PyramidAttentionBroadcast, network: nn.Module) -> Iterator[None]:
    from diffusers.hooks import HookRegistry, PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast
    from diffusers.models.cache_utils import CacheMixin

    low, high = method.window
    now = [0.0]

    def around(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        timestep = kwargs.get("timestep", args[1] if len(args) > 1 else 0)
        now[0] = float(torch.as_tensor(timestep).flatten()[0])
        with CacheMixin.cache_context(network, "one"):  # type: ignore[arg-type]  # U-Nets have none of their own
            return forward(*args, **kwargs)

    with _attributes_kept(network), intercept(network, "forward", around):
        config = PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=method.spatial,
            cross_attention_block_skip_range=method.cross,
            spatial_attention_timestep_skip_range=(low, high),
            cross_attention_timestep_skip_range=(low, high),
            spatial_attention_block_identifiers=(r"attn1$",),
            cross_attention_block_identifiers=(r"attn2$",),
            current_timestep_callback=lambda: now[0],  # type: ignore[arg-type,return-value]  # it compares, no more
        )
        apply_pyramid_attention_broadcast(network, config)
        HookRegistry.check_if_exists_or_initialize(network)
        yield


@contextmanager
def _attributes_kept(network: nn.Module) -> Iterator[None]:
    """Whatever is put on modules inside the block, wrappers and registries of hooks, is gone after it."""
    before = [(module, dict(vars(module))) for module in network.modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)
