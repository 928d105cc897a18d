"""Slow, separate ways to the same images: hooks that overwrite an output, and loops written out."""

from collections import defaultdict
from contextlib import ExitStack

import pytest
import torch

from postdiff import accelerate
from postdiff.engine.intercept import intercept
from postdiff.methods import FORA, BlockCache, GuidanceInterval, TaylorSeer, TeaCache
from postdiff.methods.block_cache.method import scheduled
from tests.support.tiny import STEPS, build


def network_of(pipe):
    return getattr(pipe, "transformer", None) or pipe.unet


def overwritten(case, wanted, output_at):
    """The bare pipeline, with outputs of modules replaced: everything is computed, and then thrown away.

    Args:
        wanted: tells by name and module whether it is meant.
        output_at: (name, step, computed outputs of this module by step so far) -> what it gives out.
    """
    network, step = network_of(case.pipe), [-1]
    outputs = defaultdict(dict)

    def count(module, args):
        step[0] += 1

    def replace(name):
        def hook(module, args, output):
            outputs[name][step[0]] = output
            return output_at(name, step[0], outputs[name])

        return hook

    with ExitStack() as stack:
        stack.callback(network.register_forward_pre_hook(count).remove)
        chosen = [name for name, module in network.named_modules() if wanted(name, module)]
        assert chosen
        for name in chosen:
            stack.callback(network.get_submodule(name).register_forward_hook(replace(name)).remove)
        return case.call(case.pipe)


def leaf(name, module):
    return name.rpartition(".")[2] in ("attn", "attn1", "attn2", "ff", "ff_context")


@pytest.mark.parametrize("family", ["dit", "hunyuan", "sana", "sd"])
@pytest.mark.parametrize("interval", [2, 3])
def test_fora(family, interval):
    case = build(family)
    expected = overwritten(case, leaf, lambda name, step, seen: seen[step - step % interval])
    assert torch.equal(case.call(accelerate(case.pipe, [FORA(interval=interval)])), expected)


@pytest.mark.parametrize(("interval", "warmup"), [(3, 2), (4, 1), (3, 4)])
def test_taylor_seer_of_first_order(interval, warmup):
    case = build("dit")
    full = sorted({*range(warmup), *range(warmup - 1, STEPS, interval)})

    def forecast(name, step, seen):
        last, *before = [computed for computed in reversed(full) if computed <= step]
        if last == step or not before:
            return seen[last]
        slope = (seen[last] - seen[before[0]]) / (last - before[0])
        return seen[last] + slope * (step - last)

    # Outputs are overwritten where they were forecast, so what comes after is computed from forecasts, as it should.
    expected = overwritten(case, leaf, forecast)
    found = case.call(accelerate(case.pipe, [TaylorSeer(interval=interval, warmup=warmup)]))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_block_cache(tmp_path):
    case = build("sd")
    names = [n for n, m in network_of(case.pipe).named_modules() if type(m).__name__ == "Transformer2DModel"]
    changes = {
        name: (0.05 + 0.3 * torch.rand(STEPS, generator=torch.Generator().manual_seed(i))).tolist()
        for i, name in enumerate(names)
    }
    file = tmp_path / "changes.json"
    file.write_text(__import__("json").dumps({"changes": changes}))
    plans = {name: scheduled(changes[name], 0.5) for name in names}
    assert len({tuple(plan) for plan in plans.values()}) > 2, "the blocks should differ"
    expected = overwritten(
        case,
        lambda name, module: name in names,
        lambda name, step, seen: seen[max(s for s in plans[name] if s <= step)],
    )
    found = case.call(accelerate(case.pipe, [BlockCache(threshold=0.5, changes=str(file))]))
    assert torch.equal(found, expected)


def test_a_schedule_stays_below_its_threshold():
    changes = [0.0, 0.2, 0.2, 0.2, 0.5, 0.1, 0.9, 0.1]
    assert scheduled(changes, 0.45) == [0, 3, 4, 6]
    assert scheduled(changes, 0.0) == list(range(8)) and scheduled(changes, 9.0) == [0]


def test_guidance_interval():
    case, low, high = build("sd_ddim"), 0.8, 3.0
    scheduler, unet = case.pipe.scheduler, case.pipe.unet
    arguments = case.arguments([0, 1])
    scale = arguments["guidance_scale"]
    text, empty = arguments["prompt_embeds"], arguments["negative_prompt_embeds"]
    found = case.call(accelerate(case.pipe, [GuidanceInterval(low=low, high=high)]))
    scheduler.set_timesteps(STEPS)
    x = torch.cat([torch.randn(1, 4, 16, 16, generator=g) for g in case.arguments([0, 1])["generator"]])
    guided = 0
    with torch.no_grad():
        for t in scheduler.timesteps:
            a = scheduler.alphas_cumprod[t]
            c = unet(x, t, encoder_hidden_states=text).sample
            if low < ((1 - a) / a).sqrt() <= high:
                guided += 1
                u = unet(x, t, encoder_hidden_states=empty).sample
                c = u + scale * (c - u)
            x = scheduler.step(c, t, x).prev_sample
    assert 0 < guided < STEPS
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("threshold", "polynomial"), [(0.3, [1.0, 0.0]), (0.6, [2.0, -0.5, 0.3])])
def test_tea_cache(threshold, polynomial):
    """DiT written out: the modulated input comes from the first block's own norm, the residual is of all blocks."""
    case = build("dit")
    network = case.pipe.transformer
    blocks = network.transformer_blocks
    memory = {"step": -1, "sum": 0.0}

    class Skipped(Exception):
        pass

    def around_first(forward, hidden_states, *args, **kwargs):
        time, labels = kwargs["timestep"], kwargs["class_labels"]
        memory["step"] += 1
        m = blocks[0].norm1(hidden_states, time, labels, hidden_dtype=hidden_states.dtype)[0]
        past, memory["m"] = memory.get("m"), m
        memory["input"] = hidden_states
        edge = memory["step"] in (0, STEPS - 1)
        if not edge:
            x = ((m - past).abs().mean() / past.abs().mean()).item()
            memory["sum"] += sum(c * x**p for p, c in enumerate(reversed(polynomial)))
        memory["skip"] = not edge and memory["sum"] < threshold
        if not memory["skip"]:
            memory["sum"] = 0.0
        memory.setdefault("skips", []).append(memory["skip"])
        return forward(hidden_states, *args, **kwargs)

    def around_last(forward, hidden_states, *args, **kwargs):
        output = forward(hidden_states, *args, **kwargs)
        if memory["skip"]:
            return memory["input"] + memory["residual"]
        memory["residual"] = output - memory["input"]
        return output

    with (
        intercept(blocks[0], "forward", around_first),
        intercept(blocks[len(blocks) - 1], "forward", around_last),
    ):
        expected = case.call(case.pipe, [0], guidance_scale=1.0)
    assert 0 < sum(memory["skips"]) < STEPS
    fast = accelerate(case.pipe, [TeaCache(threshold=threshold, polynomial=polynomial)])
    found = case.call(fast, [0], guidance_scale=1.0)
    assert fast.counts["tea_cache rows replayed"] == sum(memory["skips"])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
