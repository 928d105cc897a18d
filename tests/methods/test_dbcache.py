"""DBCache against the package of its authors, and where its options are told."""

import pytest
import torch

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.methods import DBCache, FirstBlockCache
from tests.support.tiny import STEPS, build
from tests.support.work import watched

OPTIONS = ("front", "back", "threshold", "warmup", "most", "in_a_row", "order")


def authors(options):
    """(sample, cached steps) of FLUX under the package."""
    cache_dit = pytest.importorskip("cache_dit")
    case = build("flux")
    pipe = case.pipe
    # It changes the pipeline's class, which is to be nobody else's.
    pipe.__class__ = type("FluxPipeline", (type(pipe),), {})
    names = ("Fn_compute_blocks", "Bn_compute_blocks", "residual_diff_threshold", "max_warmup_steps")
    names += ("max_cached_steps", "max_continuous_cached_steps")
    config = cache_dit.DBCacheConfig(**dict(zip(names, options[:-1], strict=True)), enable_separate_cfg=False)
    series = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=options[-1]) if options[-1] else None
    cache_dit.enable_cache(pipe, cache_config=config, calibrator_config=series)
    found = case.call(pipe, [0])
    [summary] = cache_dit.summary(pipe, logging=False)
    return found, summary.cached_steps


def run(method):
    """(sample, driver, steps at which the second block did not run) of FLUX."""
    case = build("flux")
    fast = accelerate(case.pipe, [method])
    with watched(case.pipe, case.pipe.transformer) as work:
        found = case.call(fast, [0])
    return found, fast, [step for step in range(STEPS) if step not in work.rows["transformer_blocks.1.attn.to_q"]]


@pytest.mark.parametrize(
    ("options", "several"),
    [
        ((1, 0, 0.3, 2, -1, -1, 0), False),
        ((1, 0, 0.5, 4, -1, 2, 1), True),
        ((1, 1, 0.4, 5, -1, 1, 2), True),
        ((1, 1, 0.4, 4, 2, -1, 0), True),
        ((1, 2, 1.5, 3, 3, -1, 0), True),
    ],
)
def test_equals_the_authors_package(options, several):
    """Its series begins at the fourth step whatever the warm-up, so the warm-up is as long as the series needs."""
    expected, steps = authors(options)
    found, _, left_out = run(DBCache(**dict(zip(OPTIONS, options, strict=True))))
    assert left_out == steps and len(steps) > several
    assert torch.equal(found, expected)


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_one_block_in_front_is_first_block_cache(threshold):
    case = build("flux_cfg")
    expected = case.call(accelerate(case.pipe, [FirstBlockCache(threshold=threshold)]), [0, 1, 2])
    fast = accelerate(case.pipe, [DBCache(front=1, threshold=threshold, warmup=0)])
    assert torch.equal(case.call(fast, [0, 1, 2]), expected) and fast.counts["dbcache rows replayed"]


def test_a_high_threshold_replays_all_after_the_warm_up():
    """What the middle added at the last step of the warm-up is added for ever, by hooks."""
    found, fast, left_out = run(DBCache(front=1, back=1, threshold=1.0, warmup=3))
    assert left_out == [3, 4, 5, 6, 7] and fast.counts["dbcache rows computed"] == 3
    case, step, seen = build("flux"), [0], {}
    blocks = [*case.pipe.transformer.transformer_blocks, *case.pipe.transformer.single_transformer_blocks]

    def enter(module, args, kwargs):
        seen["x"] = (kwargs["encoder_hidden_states"], kwargs["hidden_states"])

    def leave(module, args, output):
        step[0] += 1
        if step[0] <= 3:
            seen["r"] = [y - x for y, x in zip(output, seen["x"], strict=True)]
            return output
        return tuple(x + r for x, r in zip(seen["x"], seen["r"], strict=True))

    blocks[1].register_forward_pre_hook(enter, with_kwargs=True)
    blocks[2].register_forward_hook(leave)
    torch.testing.assert_close(found, case.call(case.pipe, [0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": float("nan")}, "threshold=nan must be 0 or more"),
        ({"threshold": -0.1}, "threshold=-0.1 must be 0 or more"),
        ({"front": 0}, "front=0 must be 1 or more"),
        ({"back": -1}, "back=-1 must be 0 or more"),
        ({"most": -2}, "most=-2 must be 0 or more, or -1 for any number"),
        ({"in_a_row": -2}, "in_a_row=-2 must be 0 or more, or -1"),
        ({"order": 11}, "order=11 must be from 0 to 10"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UsageError, match=message) as error:
        DBCache(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{"front": 4}, {"front": 2, "back": 2}, {}])
def test_blocks_beyond_the_chain(options):
    with pytest.raises(UsageError, match="leave none of the 4 blocks of Flux.* give fewer, 3 together at most"):
        accelerate(build("flux").pipe, [DBCache(**options)])
