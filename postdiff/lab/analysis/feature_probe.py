"""How the features of a denoiser change over a run: the analysis that encoder propagation rests on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

import torch
from torch import Tensor, nn

from postdiff.engine.errors import UsageError
from postdiff.engine.state import State
from postdiff.lab.analysis.feature_blocks import Block, blocks_of, main_output, watch
from postdiff.methods.base import Method

__all__ = ["MEASURES", "FeatureProbe", "FeatureSnapshots"]

MEASURES = ("change", "power", "norm")
Rows = dict[str, dict[str, dict[int, Tensor]]]


class FeatureProbe(Method):
    """Changes nothing; measures the output F_t of every block at every step t. Several calls add up.

    For each sample, with mean over guidance branches (and frames, of a video):

    - "change": |F_t - F_(t-1)|^2 / (C h w), the mean squared difference to the step before (Fig. 3a); NaN at the first
      step and where the size of the latents changes;
    - "power": |F_t|^2 / (C h w), what to divide it by for a change in units of the feature itself;
    - "norm": Frobenius norm of the (h, w) map of means over channels (Fig. 3b, 3c).

    No more than the last output of each block is kept.

    Args:
        split: number of blocks in a transformer's encoder; 18 of 28 if null.

    Attributes:
        blocks: those of the network, in order of execution; known after a call.
        shapes: {label: (C, h, w)} of a block's output.

    Reference:
        Li et al., "Faster Diffusion", NeurIPS 2024, arXiv:2312.09608, Sec. 3.2 and Fig. 3.
    """

    innermost: ClassVar[bool] = True

    def __init__(self, split: int | None = None) -> None:
        super().__init__()
        self.split = split
        self.blocks: list[Block] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        # Shared with the driver's copies of this method; one entry a call.
        self._calls: list[Rows] = []

    def attach(self, network: nn.Module, state: State) -> Iterator[AbstractContextManager[None]]:
        self.blocks[:] = blocks_of(network, "FeatureProbe", self.split)
        call: Rows = {block.label: defaultdict(dict) for block in self.blocks}
        self._calls.append(call)
        before: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for block in self.blocks:

            def see(step: int, tensors: list[Tensor], label: str = block.label) -> None:
                [feature] = tensors
                self.shapes[label] = tuple(feature.shape[-3:])
                rows, past = call[label], before[label]
                now = dict(zip(state.branches, feature, strict=True))
                changes = [
                    _mean_square(each - past[name])
                    for name, each in now.items()
                    if name in past and past[name].shape == each.shape
                ]
                missing = feature.new_full((feature.shape[1],), torch.nan)
                rows["change"][step] = torch.stack(changes).mean(0).cpu() if changes else missing.cpu()
                rows["power"][step] = torch.stack([_mean_square(each) for each in now.values()]).mean(0).cpu()
                norms = feature.mean(-3).flatten(-2).norm(dim=-1)  # branches, samples, frames
                rows["norm"][step] = norms.mean((0, 2)).cpu()
                past.clear()
                past.update(now)

            yield watch(block.module, state, main_output, see)

    def values(self, measure: str) -> dict[str, Tensor]:
        """{label of a block: (samples, steps)} of one of `MEASURES`, samples in the order of their calls.

        Raises:
            UsageError: nothing was measured, or a call was broken off or had another number of steps.
        """
        found: dict[str, list[Tensor]] = defaultdict(list)
        for call in self._calls:
            for label, rows in call.items():
                by_step = rows[measure]
                found[label].append(
                    torch.stack([by_step[step] for step in sorted(by_step)], dim=1) if by_step else torch.empty(0, 0)
                )
        lengths = {tensor.shape[1] for tensors in found.values() for tensor in tensors}
        if len(lengths) != 1 or 0 in lengths:
            raise UsageError(
                "FeatureProbe needs whole calls with one number of steps; use a fresh probe for each setting"
            )
        return {label: torch.cat(tensors) for label, tensors in found.items()}

    def relative(self) -> dict[str, Tensor]:
        """{label: (samples, steps)} change in units of the feature's mean square at that step."""
        power = self.values("power")
        return {label: change / power[label] for label, change in self.values("change").items()}


class FeatureSnapshots(Method):
    """Changes nothing; keeps the conditional features of the first samples of the first call, at a few steps.

    Args:
        steps: which ones; the memory is theirs alone.
        samples: how many.
        split: number of blocks in a transformer's encoder.

    Attributes:
        kept: {label of a block: {step: (samples, C, h, w)}}; of a video its first frame.
    """

    innermost: ClassVar[bool] = True

    def __init__(self, steps: Sequence[int], samples: int = 1, split: int | None = None) -> None:
        super().__init__()
        self.steps, self.samples, self.split = list(steps), samples, split
        self.kept: dict[str, dict[int, Tensor]] = {}

    def attach(self, network: nn.Module, state: State) -> Iterator[AbstractContextManager[None]]:
        for block in blocks_of(network, "FeatureSnapshots", self.split):
            kept = self.kept.setdefault(block.label, {})

            def see(step: int, tensors: list[Tensor], kept: dict[int, Tensor] = kept) -> None:
                if step in self.steps and step not in kept:
                    branch = state.branches.index("cond") if "cond" in state.branches else 0
                    kept[step] = tensors[0][branch, : self.samples, 0].cpu()

            yield watch(block.module, state, main_output, see)

    def colours(self, label: str) -> Tensor:
        """The three leading principal components of one block's features as red, green and blue.

        The components are those of all pixels, steps and samples together, so that equal colours mean equal features
        (up to what the components leave out). Each is stretched from its 1st to its 99th percentile.

        Returns:
            (samples, steps, h, w, 3), uint8; a component that the features lack is 0.

        Raises:
            UsageError: a step was never reached, or the size changed between steps.
        """
        by_step = self.kept.get(label, {})
        if missing := [step for step in self.steps if step not in by_step]:
            raise UsageError(f"no features of step {missing[0]} of block {label}: the run is not so long")
        maps = torch.stack([by_step[step] for step in self.steps], dim=1)
        pixels = maps.movedim(2, -1).flatten(0, 3).double()
        pixels = pixels - pixels.mean(0)
        # Of C x C, since there are far more pixels than channels.
        _, vectors = torch.linalg.eigh(pixels.T @ pixels)
        chosen = vectors.flip(1)[:, :3]
        # A component's sign is arbitrary; the largest entry is made positive, so that an image can be made again.
        signs = chosen.gather(0, chosen.abs().argmax(0, keepdim=True)).sign()
        scores = pixels @ (chosen * signs)
        low, high = (torch.quantile(scores, q, dim=0) for q in (0.01, 0.99))
        spread = (high - low).clamp(min=1e-12)
        levels = ((scores - low) / spread).clamp(0, 1).mul(255).round().to(torch.uint8)
        levels = torch.nn.functional.pad(levels, (0, 3 - levels.shape[1]))
        samples, steps, _, height, width = maps.shape
        return levels.reshape(samples, steps, height, width, 3)


def _mean_square(rows: Tensor) -> Tensor:
    """(samples, ...) to (samples,)."""
    return rows.square().flatten(1).mean(1)
