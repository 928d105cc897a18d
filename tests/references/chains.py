"""Formulas of caches that act on a chain of transformer blocks: x is what its first is given, y what its last gives."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from postdiff.engine.noise_levels import ratios
from tests.references.parts import relative, series
from tests.references.slow_run import Past, Reference, Setting

__all__ = ["blocks_of", "dbcache", "first_block_cache", "mag_cache", "residual", "sea_cache", "tea_cache"]


def blocks_of(network: nn.Module) -> list[nn.Module]:
    stacks = ("transformer_blocks", "blocks", "single_transformer_blocks")
    return [block for stack in stacks for block in getattr(network, stack, ())]


def streams(block: nn.Module, output: Any) -> tuple[Tensor, Tensor | None]:
    """(image, text) in what a transformer block gives out, or in what a U-Net's stack of them does."""
    if isinstance(output, Tensor) or len(output) == 1:
        return (output if isinstance(output, Tensor) else output[0]), None
    image, text = output if type(block).__name__ == "CogView4TransformerBlock" else output[::-1]
    return image, text


def residual(block: nn.Module, x: dict[int, Any], y: dict[int, Any], k: int, t: int) -> Any:
    """x_t + R_k, R_k = y_k - x_k, in both streams."""
    return extrapolated(block, x, y, [k], t, 0)


def extrapolated(block: nn.Module, x: dict[int, Any], y: dict[int, Any], ks: list[int], t: int, order: int) -> Any:
    """x_t + R, R the series of y_k - x_k over the computed steps, in both streams."""

    def added(stream: int) -> Any:
        if streams(block, y[ks[-1]])[stream] is None:
            return None
        return x[t][stream] + series([streams(block, y[k])[stream] - x[k][stream] for k in ks], ks, t, order)

    image, text = added(0), added(1)
    if isinstance(y[ks[-1]], Tensor):
        return image
    both = (image, text) if streams(block, y[ks[-1]])[0] is y[ks[-1]][0] else (text, image)
    return both if len(y[ks[-1]]) == 2 else both[:1]


def mag_cache(method: Any, run: Setting) -> Reference:
    """x_t + R_k while sum_i |1 - prod_(j<=i) g_j| <= delta, for `most` steps at most, after the retention."""
    blocks = blocks_of(run.network)
    g = method.ratios if isinstance(method.ratios, list) else [method.ratios] * run.steps
    begin = int(method.retention * run.steps + 0.5)

    def value(name: str, t: int, b: str, x: Past, y: Past) -> Any:
        k = -1
        for i in y[b]:
            products = [math.prod(g[k + 1 : j + 1]) for j in range(k + 1, i + 1)]
            error = sum(abs(1 - product) for product in products)
            if k < 0 or i < begin or error > method.threshold or i - k > method.most:
                k = i
        return y[b][t] if k == t else residual(blocks[-1], x[b], y[b], k, t)

    return Reference({"chain": (blocks[0], blocks[-1])}, value)


def first_block_cache(method: Any, run: Setting) -> Reference:
    """h_t = x_t + r_t + R_k while |r_t - r_k| / |r_k| <= delta, r what the first block adds, R what the others add."""
    blocks, r, k = blocks_of(run.network), {}, {}

    def value(name: str, t: int, b: str, x: Past, y: Past) -> Any:
        if name == "first":
            r[b, t] = streams(blocks[0], y[b][t])[0] - x[b][t][0]
            return y[b][t]
        if k.get(b) in y[b] and relative(r[b, t], r[b, k[b]]) <= method.threshold:
            return residual(blocks[-1], x[b], y[b], k[b], t)
        k[b] = t
        return y[b][t]

    return Reference({"first": (blocks[0], blocks[0]), "others": (blocks[1], blocks[-1])}, value)


def tea_cache(method: Any, run: Setting) -> Reference:
    """x_t + R_k while sum_i p(|m_i - m_(i-1)| / |m_(i-1)|) < delta, m what the first attention is given."""
    blocks, m, k, total = blocks_of(run.network), {}, {}, {}
    attention = getattr(blocks[0], "attn1", None) or blocks[0].attn
    polynomial = [1.0, 0.0] if method.polynomial == "identity" else method.polynomial

    def value(name: str, t: int, b: str, x: Past, y: Past) -> Any:
        if name == "attention":
            m[b, t] = x[b][t][0]
            return y[b][t]
        if k.get(b) in y[b]:
            before = max(s for s in y[b] if s < t)
            change = relative(m[b, t], m[b, before])
            total[b] += sum(c * change**power for power, c in enumerate(reversed(polynomial)))
            if total[b] < method.threshold and t + 1 < run.steps:
                return residual(blocks[-1], x[b], y[b], k[b], t)
        k[b], total[b] = t, 0.0
        return y[b][t]

    return Reference({"attention": (attention, attention), "chain": (blocks[0], blocks[-1])}, value)


def dbcache(method: Any, run: Setting) -> Reference:
    """h_t = x_t + r_t + R while |r_t - r_k| / |r_k| < delta, r what the front adds, R what the middle added till k."""
    blocks, r, ks = blocks_of(run.network), {}, {}
    front, middle = blocks[: method.front], blocks[method.front : len(blocks) - method.back]

    def value(name: str, t: int, b: str, x: Past, y: Past) -> Any:
        if name == "front":
            r[b, t] = streams(front[-1], y[b][t])[0] - x[b][t][0]
            return y[b][t]
        done = [k for k in ks.get(b, []) if k in y[b]]
        left_out = [s for s in y[b] if s < t and s not in done]
        in_a_row = [s for s in left_out if s > done[-1]]
        if (
            (done and method.warmup <= t < run.steps - method.last)
            and (method.most < 0 or len(left_out) < method.most)
            and (method.in_a_row < 0 or len(in_a_row) < method.in_a_row)
            and (method.threshold >= 1 or relative(r[b, t], r[b, done[-1]]) < method.threshold)
        ):
            return extrapolated(middle[-1], x[b], y[b], done, t, method.order)
        ks[b] = [*done, t]
        return y[b][t]

    return Reference({"front": (front[0], front[-1]), "middle": (middle[0], middle[-1])}, value)


def filtered(latents: Tensor, ratio: float, power: float) -> Tensor:
    """G * x of one image, G = a S / (a^2 S + b^2) along every axis by itself, over its mean; a + b = 1, S = 1 / f^p."""
    a = min(max(1 / (1 + ratio), 1e-6), 1 - 1e-6)
    b = 1 - a
    if latents.ndim == 3:  # tokens of 2 x 2; all tiny images are 4 by 3
        height, width = round((latents.shape[1] * 4 / 3) ** 0.5), round((latents.shape[1] * 3 / 4) ** 0.5)
        latents = latents.view(1, height, width, -1, 2, 2).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    gain, spectrum = torch.ones(()), torch.fft.fftn(latents, dim=tuple(range(2, latents.ndim)))
    for axis in range(2, latents.ndim):
        s = 1 / (torch.fft.fftfreq(latents.shape[axis]).abs() ** power + 1e-16)
        gain = gain[..., None] * (a * s / (a**2 * s + b**2))
    return torch.fft.ifftn(spectrum * gain / gain.mean(), dim=tuple(range(2, latents.ndim))).real


def sea_cache(method: Any, run: Setting) -> Reference:
    """x_t + R, R the series of y_k - x_k, while sum_i |z_i - z_(i-1)| / |z_(i-1)| < delta, z the filtered latents."""
    blocks, z, ks, total = blocks_of(run.network), {}, {}, {}
    levels = ratios(run.scheduler, run.scheduler.timesteps)
    names = ("x_embedder", "img_in", "patch_embed", "patch_embedding", "pos_embed")
    entry = next(getattr(run.network, name) for name in names if hasattr(run.network, name))

    def value(name: str, t: int, b: str, x: Past, y: Past) -> Any:
        if name == "entry":
            z[b, t] = filtered(x[b][t][0], levels[t], method.power)
            return y[b][t]
        done = [k for k in ks.get(b, []) if k in y[b]]
        if done and method.first <= t < run.steps - method.last:
            before = max(s for s in y[b] if s < t)
            in_a_row = [s for s in y[b] if done[-1] < s < t]
            if method.in_a_row < 0 or len(in_a_row) < method.in_a_row:
                total[b] += relative(z[b, t], z[b, before])
                if total[b] < method.threshold:
                    return extrapolated(blocks[-1], x[b], y[b], done, t, method.order)
        ks[b], total[b] = [*done, t], 0.0
        return y[b][t]

    return Reference({"entry": (entry, entry), "chain": (blocks[0], blocks[-1])}, value)
