"""Parallel decoding is sequential decoding in fewer calls: same images, bounded memory, other methods beside it."""

import pytest
import torch

from postdiff import accelerate
from postdiff.cost.macs import count_macs
from postdiff.methods import (
    TGATE,
    CFGCutoff,
    CrossAttentionCache,
    EncoderPropagation,
    MixedResolution,
    NoiseInjection,
    ToMe,
)
from tests.methods.test_encoder_propagation import KEYS, PLAIN_TRANSFORMERS, SOLVERS, UNETS
from tests.support.snapshot import scheduler_keys, snapshot

pytestmark = pytest.mark.slow

COUNTER = "encoder_propagation decoded at once"


def both(one, keys, beside=(), ids=None, max_parallel=0, **changes):
    """(sequential result, parallel result, the parallel driver)."""
    sequential = accelerate(one.pipe, [*beside, EncoderPropagation(keys, "sequential")])
    parallel = accelerate(one.pipe, [*beside, EncoderPropagation(keys, "parallel", max_parallel)])
    return one.call(sequential, ids, **changes), one.call(parallel, ids, **changes), parallel


def assert_close(first, second, tolerance=1e-5):
    assert torch.isfinite(first).all()
    assert (first - second).abs().max() <= tolerance * second.abs().max()


@pytest.mark.parametrize("solver", [*SOLVERS, "dpm++_karras", "dpm++_sde", "ddim_v", "euler_v", "lcm"])
def test_for_every_solver(small, solver):
    """Predictions between keys do not depend on the latents, so not on the solver either."""
    expected, ours, driver = both(small(f"sd_{solver}")[0], KEYS)
    assert_close(ours, expected)
    assert driver.counts["network calls"] == len(KEYS)


@pytest.mark.parametrize("name", [*UNETS, *PLAIN_TRANSFORMERS])
def test_for_every_family(small, name):
    # DeepFloyd-IF thresholds by quantiles, which magnifies float error.
    expected, ours, driver = both(small(name)[0], 3)
    assert_close(ours, expected, 1e-4 if name in ("deepfloyd_if", "if_stage_2") else 1e-5)
    assert not torch.equal(ours, small(name)[1])
    assert driver.counts[COUNTER] > 1


@pytest.mark.parametrize("ids", [[4], [0, 1, 2]], ids=len)
@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize("name", ["sd_dpm++", "controlnet", "dit", "if_stage_2", "text_to_video"])
def test_for_other_batches_and_without_guidance(small, name, guidance_scale, ids):
    tolerance = 1e-4 if name == "if_stage_2" else 1e-5
    expected, ours, _ = both(small(name)[0], KEYS, ids=ids, guidance_scale=guidance_scale)
    assert_close(ours, expected, tolerance)


@pytest.mark.parametrize("keys", ["sd_20", [0, 1, 2, 3, 5, 10, 15], 20, 7])
def test_for_named_and_listed_keys_and_strides(small, keys):
    expected, ours, driver = both(small("sd_unipc")[0], keys, num_inference_steps=20)
    assert_close(ours, expected)
    assert driver.counts["network calls"] == (7 if not isinstance(keys, int) else -(-20 // keys))


def largest_input(one, methods, **changes):
    """Most rows and most bytes that an up block was given at once."""
    most = {"rows": 0, "bytes": 0}

    def note(module, args, kwargs):
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        given += kwargs["res_hidden_states_tuple"]
        most["rows"] = max(most["rows"], len(kwargs["hidden_states"]))
        most["bytes"] = max(most["bytes"], sum(value.numel() * value.element_size() for value in given))

    handles = [block.register_forward_pre_hook(note, with_kwargs=True) for block in one.pipe.unet.up_blocks]
    try:
        one.call(accelerate(one.pipe, methods), **changes)
    finally:
        for handle in handles:
            handle.remove()
    return most


@pytest.mark.parametrize("max_parallel", [1, 2, 3, 5])
def test_the_bound_holds_and_changes_nothing(small, max_parallel):
    """20 steps, the longest run of which is 5; a row costs the same in every call, so memory is bounded too."""
    one = small("sd_dpm++")[0]
    expected, ours, driver = both(one, "sd_20", max_parallel=max_parallel, num_inference_steps=20)
    assert_close(ours, expected)
    assert driver.counts[COUNTER] == max_parallel
    runs = [1, 1, 1, 2, 5, 5, 5]
    assert driver.counts["network calls"] == sum(-(-run // max_parallel) for run in runs)
    single = largest_input(one, [EncoderPropagation("sd_20", "sequential")], num_inference_steps=20)
    bounded = largest_input(one, [EncoderPropagation("sd_20", max_parallel=max_parallel)], num_inference_steps=20)
    assert single["rows"] == 4
    assert bounded["rows"] == 4 * max_parallel
    assert bounded["bytes"] <= max_parallel * single["bytes"]


@pytest.mark.parametrize("keys", [KEYS, 8], ids=str)
@pytest.mark.parametrize("name", ["sd_dpm++", "sdxl", "controlnet", "dit", "pixart_alpha", "text_to_video"])
def test_macs_are_those_of_sequential_decoding(small, name, keys):
    one = small(name)[0]
    made = [accelerate(one.pipe, [EncoderPropagation(keys, decoding)]) for decoding in ("sequential", "parallel")]
    sequential, parallel = (count_macs(one.pipe, lambda driver=driver: one.call(driver))["denoiser"] for driver in made)
    assert sequential["dense"] == pytest.approx(parallel["dense"], rel=1e-3)  # embeddings of time, once a call


BESIDE = {
    "mixed resolution": lambda: [MixedResolution(switch=5)],
    "low from key to key": lambda: [MixedResolution(switch=4)],
    "guidance cut": lambda: [CFGCutoff(gate=5)],
    "T-GATE": lambda: [TGATE(gate=5, self_attention_interval=3, fidelity_interval=2)],
    "T-GATE, version 1": lambda: [TGATE(gate=3, self_attention_interval=1)],
    "last guided fill": lambda: [CrossAttentionCache(gate=5)],
    "first unguided fill": lambda: [CrossAttentionCache(gate=5, fill_step="first_unguided")],
    "without cut": lambda: [CrossAttentionCache(gate=5, cutoff=False)],
    "all of PostDiff's": lambda: [MixedResolution(switch=3), CrossAttentionCache(gate=6)],
    "prior noise": lambda: [NoiseInjection(0.1)],
    "prior noise, seen": lambda: [NoiseInjection(0.1, when="after")],
    # Without draws, of which there would be one a call and so fewer.
    "token merging": lambda: [ToMe(0.5, rand=False)],
}


@pytest.mark.parametrize("family", ["pixart_alpha", "dit"])
def test_a_method_around_the_same_blocks_sees_the_rows_that_run(small, family):
    """Tokens are merged around the blocks that a transformer's encoder is made of."""
    expected, ours, _ = both(small(family)[0], 3, [ToMe(0.5, rand=False)])
    assert_close(ours, expected)


@pytest.mark.parametrize("keys", [[0], 3], ids=str)
@pytest.mark.parametrize("beside", BESIDE)
def test_other_methods_change_inside_what_would_be_one_run(small, beside, keys):
    expected, ours, driver = both(small("sd_dpm++")[0], keys, BESIDE[beside]())
    assert_close(ours, expected)
    assert driver.counts[COUNTER] > 1


@pytest.mark.parametrize("name", ["sdxl", "controlnet", "animatediff", "text_to_video"])
@pytest.mark.parametrize("beside", ["mixed resolution", "guidance cut", "first unguided fill", "all of PostDiff's"])
def test_the_same_on_other_families(small, name, beside):
    expected, ours, driver = both(small(name)[0], [0], BESIDE[beside]())
    assert_close(ours, expected)
    assert driver.counts[COUNTER] > 1


def test_a_run_ends_where_size_or_branches_change(small):
    """8 steps on one key; the size changes at 3 and guidance ends at 6: three calls of 3, 3 and 2 steps."""
    one = small("sd_dpm++")[0]
    driver = accelerate(one.pipe, [MixedResolution(switch=3), CFGCutoff(gate=6), EncoderPropagation([0])])
    one.call(driver)
    assert driver.counts["network calls"] == 3
    assert driver.counts["network rows"] == 4 * 3 + 4 * 3 + 2 * 2
    assert driver.counts["encoder_propagation misses"] == 2 * 5, "conv_in, three down blocks and the middle, per size"


@pytest.mark.parametrize("name", ["sd_dpm++", "sdxl", "controlnet"])
@pytest.mark.parametrize("keys", [4, [0, 5]], ids=str)
def test_a_tall_stack(small, name, keys):
    one, expected = small(name)
    before = snapshot(one.pipe)

    def stack():
        return [
            EncoderPropagation(keys),
            NoiseInjection(0.01),
            MixedResolution(switch=3),
            CFGCutoff(gate=6),
            ToMe(0.5),
        ]

    driver = accelerate(one.pipe, stack())
    first = one.call(driver)
    assert torch.isfinite(first).all()
    assert not torch.equal(first, expected)
    assert torch.equal(one.call(driver), first)
    assert torch.equal(one.call(accelerate(one.pipe, stack())), first)
    assert snapshot(one.pipe) == before
    assert not scheduler_keys(one.pipe.scheduler)[1]
    assert torch.equal(one.call(one.pipe), expected)
