"""Merging similar tokens of a grid and putting them apart again: the arithmetic of ToMe, without a network."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["TokenMerging"]


class TokenMerging:
    """One bipartite soft matching, to be used for any tensor over the same tokens.

    The grid is split into cells. One token of each is a destination, all others are sources; every source belongs
    to the destination most like it (cosine similarity), and the most similar sources are merged into theirs.
    Tokens right of or below the last whole cell are sources.

    Args:
        metric: what similarity is measured on, shape (rows, H * W, channels).
        grid: (H, W) in tokens.
        cell: (height, width) of a cell in tokens.
        ratio: share of the H * W tokens to be merged away; at most that of the sources.
        generator: draws each cell's destination, the same one in every row; without it it is the first token.

    Attributes:
        merged: number of tokens merged away, 0 where the grid is smaller than a cell.
    """

    def __init__(
        self,
        metric: Tensor,
        grid: tuple[int, int],
        cell: tuple[int, int],
        ratio: float,
        generator: torch.Generator | None = None,
    ) -> None:
        rows, tokens, _ = metric.shape
        assert tokens == grid[0] * grid[1], f"{tokens} tokens do not make a grid of {grid}"
        sources, destinations = (
            index.to(metric.device, non_blocking=True) for index in _partition(grid, cell, generator)
        )
        self.merged = min(int(tokens * ratio), len(sources)) if len(destinations) else 0
        if not self.merged:
            return
        self._sources, self._destinations = sources, destinations
        unit = metric / metric.norm(dim=-1, keepdim=True)
        similarity, nearest = (unit[:, sources] @ unit[:, destinations].transpose(-1, -2)).max(dim=-1)
        by_similarity = similarity.argsort(dim=-1, descending=True)
        self._gone, self._kept = by_similarity[:, : self.merged], by_similarity[:, self.merged :]
        self._into = nearest.gather(1, self._gone)
        # Where each token is found after merging: kept sources come first, destinations after them.
        kept = self._kept.shape[1]
        self._place = torch.empty(rows, tokens, dtype=torch.long, device=metric.device)
        self._place[:, destinations] = kept + torch.arange(len(destinations), device=metric.device)
        self._place.scatter_(1, sources[self._kept], torch.arange(kept, device=metric.device).expand(rows, -1))
        self._place.scatter_(1, sources[self._gone], kept + self._into)

    def merge(self, tokens: Tensor) -> Tensor:
        """(rows, H * W, C) -> (rows, H * W - merged, C); a destination becomes the mean of itself and its sources."""
        if not self.merged:
            return tokens
        sources, destinations = tokens[:, self._sources], tokens[:, self._destinations]
        kept, gone = _rows_of(sources, self._kept), _rows_of(sources, self._gone)
        return torch.cat([kept, means(destinations, self._into, gone)], dim=1)

    def unmerge(self, tokens: Tensor) -> Tensor:
        """(rows, H * W - merged, C) -> (rows, H * W, C); a merged source receives a copy of its destination."""
        return _rows_of(tokens, self._place) if self.merged else tokens


def _partition(
    grid: tuple[int, int], cell: tuple[int, int], generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Indices of sources and of destinations; made on the CPU, where a seed means one thing on every device."""
    (height, width), (tall, wide) = grid, cell
    cells = (height // tall, width // wide)
    inside = torch.zeros(cells, dtype=torch.long, device="cpu")
    if generator is not None:
        inside = torch.randint(tall * wide, cells, generator=generator, device="cpu")
    down = torch.arange(cells[0], device="cpu")[:, None] * tall + inside // wide
    across = torch.arange(cells[1], device="cpu") * wide + inside % wide
    rank = torch.zeros(height * width, dtype=torch.long, device="cpu")
    rank[(down * width + across).flatten()] = -1
    # Sorted as tomesd sorts it, not stably: tokens are then summed in the same order, which makes the last bit equal.
    order = rank.argsort()
    return order[cells[0] * cells[1] :], order[: cells[0] * cells[1]]


def means(destinations: Tensor, into: Tensor, gone: Tensor) -> Tensor:
    """The mean of each destination and the tokens that go into it.

    On a CPU tokens are summed as tomesd sums them. A GPU would add whichever comes first, so that last bits would
    change from call to call; there they are summed in order.

    Args:
        destinations: (rows, D, C).
        into: (rows, n), the destination of each token.
        gone: (rows, n, C).
    """
    if destinations.is_cuda:
        return means_in_order(destinations, into, gone)
    return destinations.scatter_reduce(1, into[..., None].expand_as(gone), gone, reduce="mean")


def means_in_order(destinations: Tensor, into: Tensor, gone: Tensor) -> Tensor:
    """`means`, the same bits from call to call on every device."""
    row = torch.arange(len(into), device=into.device)[:, None].expand_as(into)
    sums = destinations.index_put((row, into), gone, accumulate=True)  # sorts, where `scatter_add` does not
    members = torch.ones(destinations.shape[:2], device=into.device)  # bfloat16 cannot count beyond 256
    members = members.scatter_add(1, into, members.new_ones(into.shape))
    return (sums / members[..., None]).to(sums.dtype)


def _rows_of(tokens: Tensor, index: Tensor) -> Tensor:
    """Pick tokens by (rows, n) indices: (rows, N, C) -> (rows, n, C)."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))
