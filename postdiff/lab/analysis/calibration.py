"""What caches with a fixed schedule must know beforehand, measured while images are generated in full."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from torch import Tensor, nn

from postdiff.engine.blocks import main_stream, stacked_blocks, stream_names, streams_of
from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import intercept
from postdiff.engine.ownership import taken_apart
from postdiff.engine.selectors import spatial_transformers
from postdiff.engine.state import State
from postdiff.lab.analysis.feature_blocks import main_output
from postdiff.methods.base import Method

__all__ = ["BlockChanges", "MagnitudeRatios"]

# Sums over calls of one value at each step, and how many calls there were.
Sums = dict[int, tuple[float, int]]


class BlockChanges(Method):
    """Changes nothing; measures |C_t - C_(t-1)| / |C_t|, L1 norms, of every spatial transformer's output C at step t.

    Several calls add up to a mean. The first step has 0.

    Reference:
        Wimbauer et al., "Cache Me if You Can", CVPR 2024, arXiv:2312.03209, Eq. 3.
    """

    innermost: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self._sums: dict[str, Sums] = {}  # shared with the driver's copies of this method

    def attach(self, network: nn.Module, state: State) -> Iterator[AbstractContextManager[None]]:
        past: dict[str, Tensor] = {}
        for name, module in spatial_transformers(network, "BlockChanges").items():
            sums = self._sums.setdefault(name, {})

            def look(
                forward: Callable[..., Any], *args: Any, name: str = name, sums: Sums = sums, **kwargs: Any
            ) -> Any:
                output = forward(*args, **kwargs)
                [now] = (tensor.detach().float() for tensor in main_output(output))
                before = past.get(name)
                change = 0.0
                if before is not None and before.shape == now.shape:
                    change = float((now - before).abs().sum() / now.abs().sum())
                _add(sums, state.index, change)
                past[name] = now.clone()
                return output

            yield intercept(module, "forward", look)

    def values(self) -> dict[str, list[float]]:
        """{name of a spatial transformer: its mean change at every step}."""
        return {name: _means(sums, "BlockChanges") for name, sums in self._sums.items()}


class MagnitudeRatios(Method):
    """Changes nothing; measures |r_t| / |r_(t-1)|, mean over tokens, of what all transformer blocks add, r, at step t.

    Several calls, and the guidance branches, add up to a mean. The first step has 1.

    Reference:
        Ma et al., "MagCache", NeurIPS 2025, arXiv:2506.09045.
    """

    innermost: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self._sums: Sums = {}

    def attach(self, network: nn.Module, state: State) -> Iterator[AbstractContextManager[None]]:
        blocks = list(stacked_blocks(network, "MagnitudeRatios").values())
        names, last = (list(inspect.signature(block.forward).parameters) for block in (blocks[0], blocks[-1]))
        first_main, last_main = main_stream(blocks[0]), main_stream(blocks[-1])
        begin: list[Tensor] = []
        past: dict[tuple[str, ...], Tensor] = {}

        def enter(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            begin[:] = [(dict(zip(names, args, strict=False)) | kwargs)[first_main]]
            return forward(*args, **kwargs)

        def leave(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            tensors, _ = taken_apart(output)
            given = streams_of(last_main, dict(zip(last, args, strict=False)) | kwargs)
            streams = stream_names(last_main, tensors, given)
            if streams is None or (found := tensors[streams.index(last_main)]).shape != begin[0].shape:
                raise UsageError(
                    f"MagnitudeRatios: what the blocks of {type(network).__name__} add to the image's tokens alone "
                    "cannot be told; give MagCache its ratios by hand"
                )
            now = (found - begin[0]).float().norm(dim=-1)
            before = past.get(state.branches)
            ratio = 1.0
            if before is not None and before.shape == now.shape:
                ratio = float((now / (before + 1e-8)).mean())
            _add(self._sums, state.index, ratio)
            past[state.branches] = now
            return output

        yield intercept(blocks[0], "forward", enter)
        yield intercept(blocks[-1], "forward", leave)

    def values(self) -> list[float]:
        """The mean ratio at every step."""
        return _means(self._sums, "MagnitudeRatios")


def _add(sums: Sums, step: int, value: float) -> None:
    total, count = sums.get(step, (0.0, 0))
    sums[step] = (total + value, count + 1)


def _means(sums: Sums, observer: str) -> list[float]:
    if sorted(sums) != list(range(len(sums))) or not sums or len({count for _, count in sums.values()}) > 1:
        raise UsageError(f"{observer} needs whole calls with one number of steps; use a fresh one for each setting")
    return [total / count for total, count in (sums[step] for step in sorted(sums))]
