"""The formulas of all caches. y_t is what a piece computes at step t, k the last step at which it is so."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from postdiff.methods.base import Method
from tests.references import at_solver
from tests.references.chains import blocks_of, dbcache, first_block_cache, mag_cache, sea_cache, tea_cache
from tests.references.parts import alone, computed, continued, hold
from tests.references.slow_run import Past, Reference, Setting, tensorwise
from tests.references.whole_network import adaptive_diffusion, easy_cache, spectrum, step_mask

__all__ = ["REFERENCES", "reference_of"]


def attentions(network: nn.Module) -> dict[str, nn.Module]:
    return {n: m for n, m in network.named_modules() if n.split(".")[-1] in ("attn", "attn1", "attn2")}


def looks_at_text(name: str, module: nn.Module) -> bool:
    return bool(getattr(module, "is_cross_attention", name.endswith("attn2")))


def fora(method: Any, run: Setting) -> Reference:
    """F_t = F_k, k = N floor(t / N)."""
    return Reference(alone(attention_and_ff(run.network)), hold(range(0, run.steps, method.interval)))


def attention_and_ff(network: nn.Module) -> dict[str, nn.Module]:
    """CogView4 sends image and text through one feed-forward, one after the other; that one is left alone."""
    names = ("ff", "ff_context", "ffn", "img_mlp", "txt_mlp")
    found = {n: m for n, m in network.named_modules() if n.split(".")[-1] in names}
    return attentions(network) | ({} if "CogView4" in type(network).__name__ else found)


def taylor_seer(method: Any, run: Setting) -> Reference:
    """F_(k+j) = sum_i F_k^(i) j^i / i!, F^(i+1) the divided difference of the last two F^(i)."""
    due = {*range(method.warmup), *range(method.warmup - 1, run.steps, method.interval)}
    return continued(alone(attention_and_ff(run.network)), due, method.order)


def pyramid_attention_broadcast(method: Any, run: Setting) -> Reference:
    """A_t = A_k, k = n floor(t / n) with n of the kind, strictly inside the window of timesteps."""
    found = attentions(run.network)
    low, high = method.window
    outside = [t for t, timestep in enumerate(run.timesteps) if not low < timestep < high]

    def every(name: str) -> int:
        along_time = {"transformer_in", "temp_attentions", "motion_modules"} & set(name.split("."))
        if along_time:
            return int(method.temporal)
        return int(method.cross if looks_at_text(name, found[name]) else method.spatial)

    values = {name: hold([*outside, *range(0, run.steps, every(name))]) for name in found}
    return Reference(alone(found), lambda name, t, b, x, y: values[name](name, t, b, x, y))


def block_cache(method: Any, run: Setting) -> Reference:
    """C_t = C_k while the calibrated changes since k add up to at most delta; one number stands for all of them."""
    found = {n: m for n, m in run.network.named_modules() if type(m).__name__ == "Transformer2DModel"}
    due, total = [0], 0.0
    for t in range(1, run.steps):
        total += method.changes
        if total > method.threshold:
            due, total = [*due, t], 0.0
    return Reference(alone(found), hold(due))


def deepcache(method: Any, run: Setting) -> Reference:
    """Up_m(F_k, Down_m(x_t)): all that lies deeper than the skip branch gives out what it gave at k."""
    down, up = list(run.network.down_blocks), list(run.network.up_blocks)[::-1]
    n = len(down[0].resnets)
    level, layer = divmod(method.branch + (method.numbering == "paper"), n + 1)
    deep: dict[str, nn.Module] = {"middle": run.network.mid_block}
    for i in range(level + 1, len(down)):
        deep |= {f"down {i}": down[i], f"up {i}": up[i]}
    kinds = ("resnets", "attentions", "motion_modules", "temp_convs", "temp_attentions")
    for kind in kinds:
        deep |= {f"down {kind} {j}": m for j, m in enumerate(getattr(down[level], kind, None) or ()) if j >= layer}
        deep |= {f"up {kind} {j}": m for j, m in enumerate(getattr(up[level], kind, None) or ()) if j + layer < n}
    deep |= {f"downsampler {j}": m for j, m in enumerate(getattr(down[level], "downsamplers", None) or ())}
    if layer == 0:  # the whole block, whose outputs are skip connections as well
        deep = {name: m for name, m in deep.items() if not name.startswith(("down resn", "down att", "down temp"))}
        deep = {name: m for name, m in deep.items() if not name.startswith(("down motion", "downsampler"))}
        deep["down"] = down[level]
    if method.schedule == "nonuniform":
        return Reference(alone(deep), hold(crowded(run.steps, method.interval, method.center, method.power)))
    begins = sorted({0, *(int(r * run.steps + 0.5) if isinstance(r, float) else r for r in method.restarts)})
    ends = [*begins[1:], run.steps]
    due = [t for begin, end in zip(begins, ends, strict=True) for t in range(begin, end, method.interval)]
    return Reference(alone(deep), hold(due))


def crowded(steps: int, interval: int, center: float, power: float) -> list[int]:
    """c + trunc(Re z^p), z at even distances from (-c)^(1/p) to (T - c)^(1/p); p falls until there are T/n steps."""
    c, n = int(center * steps + 0.5), math.ceil(steps / interval)
    begin, end = complex(-c) ** (1 / power), complex(steps - c) ** (1 / power)
    offsets = {int((((begin * (n - i) + end * i) / n) ** power).real) for i in range(n + 1)}
    due = [0, *(c + offset for offset in sorted(offsets)[1:-1])]
    return due if len(due) == n else crowded(steps, interval, center, power - 0.02)


def cross_attention_cache(method: Any, run: Setting) -> Reference:
    """CA(x_t, text) for t < g, A_(g-1) after it: the conditional one, the mean, or the guided one."""
    gate = int(method.gate * run.steps + 0.5) if isinstance(method.gate, float) else method.gate
    mixed = {
        "cond": lambda u, c: c,
        "ave": lambda u, c: (u + c) / 2,
        "cfg": lambda u, c: u + run.scale * (c - u),
    }[method.fill]
    found = {n: m for n, m in attentions(run.network).items() if looks_at_text(n, m)}
    late = gate + (method.fill_step == "first_unguided")

    def value(name: str, t: int, b: str, x: Past, y: Past) -> Any:
        k = max([s for s in y[b] if s < late], default=min(y[b]))  # before the gate, or the first of a new size
        if t < late:
            return y[b][t]
        if not method.cutoff:
            return y[b][k]
        return guided_mean(y, k, mixed) if k < gate else text_of(y, method)[k]

    def predictions(t: int, found: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict.fromkeys(found, found[method.text]) if t >= gate and method.cutoff and len(found) > 1 else found

    return Reference(alone(found), value, predictions)


def guided_mean(y: Past, k: int, mixed: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """Of both branches at step k, or what there is."""
    there = [y[b][k] for b in ("uncond", "cond") if k in y[b]]
    return tensorwise(mixed, *there) if len(there) == 2 else there[0]


def text_of(y: Past, method: Any) -> dict[int, Any]:
    """What the branch that goes on after the gate has computed; a run without guidance has one branch."""
    return y.get(method.text) or y["cond"]


def tgate(method: Any, run: Setting) -> Reference:
    """A_t = (A^u_(g-1) + A^c_(g-1)) / 2 for t >= g; S_t = S_k, k = n floor(t / n), computed up to the warm-up too."""
    g = int(method.gate * run.steps + 0.5) if isinstance(method.gate, float) else method.gate
    cross = {n: m for n, m in attentions(run.network).items() if looks_at_text(n, m)}
    own = {n[:-1] + "1": run.network.get_submodule(n[:-1] + "1") for n in cross if n.endswith("attn2")}
    early = [t for t in range(g) if t <= method.warmup or t == g - 1 or t % method.self_attention_interval == 0]
    due = [*early, *(t for t in range(g, run.steps) if t % method.fidelity_interval == 0)]
    if method.self_attention_interval == method.fidelity_interval == 1:
        own = {}

    def mean(y: Past, k: int) -> Any:
        return guided_mean(y, k, lambda u, c: (u + c) / 2)

    def value(name: str, t: int, b: str, x: Past, y: Past) -> Any:
        if name in cross:
            k = max([s for s in y[b] if s < g], default=min(y[b]))
            return y[b][t] if t < g else mean(y, k) if k < g else text_of(y, method)[k]
        k = computed(due, y[b])[-1]
        return mean(y, k) if k == g - 1 < t else y[b][k]

    def predictions(t: int, found: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict.fromkeys(found, found[method.text]) if t >= g and len(found) > 1 else found

    return Reference(alone(cross | own), value, predictions)


def encoder_propagation(method: Any, run: Setting) -> Reference:
    """eps_t = D(E(x_k), t), k the last key step; a ControlNet belongs to the encoder."""
    network, keys = run.network, range(0, run.steps, method.keys)
    if not hasattr(network, "down_blocks"):
        blocks = blocks_of(network)
        split = method.split or max(1, round(len(blocks) * 18 / 28))
        return Reference({"encoder": (blocks[0], blocks[split - 1])}, hold(keys))
    encoder = {"conv_in": network.conv_in, "middle": network.mid_block}
    encoder |= {f"down {i}": block for i, block in enumerate(network.down_blocks)}
    if hasattr(network, "transformer_in"):
        encoder["time"] = network.transformer_in
    if run.controlnet is not None:
        encoder["controlnet"] = run.controlnet
    return Reference(alone(encoder), hold(keys))


REFERENCES: dict[str, Callable[[Any, Setting], Reference]] = {
    "AdaptiveDiffusion": adaptive_diffusion,
    "BlockCache": block_cache,
    "CrossAttentionCache": cross_attention_cache,
    "DBCache": dbcache,
    "DeepCache": deepcache,
    "EasyCache": easy_cache,
    "EncoderPropagation": encoder_propagation,
    "FORA": fora,
    "FirstBlockCache": first_block_cache,
    "MagCache": mag_cache,
    "PyramidAttentionBroadcast": pyramid_attention_broadcast,
    "SeaCache": sea_cache,
    "Spectrum": spectrum,
    "StepMask": step_mask,
    "TGATE": tgate,
    "TaylorSeer": taylor_seer,
    "TeaCache": tea_cache,
    **at_solver.REFERENCES,
}


def reference_of(stack: list[Method], run: Setting) -> Callable[[], Reference] | None:
    """Makes the formula of a stack of one method, fresh for every image; None if nobody wrote it down."""
    write = REFERENCES.get(type(stack[0]).__name__) if len(stack) == 1 else None
    return None if write is None else lambda: write(stack[0], run)
