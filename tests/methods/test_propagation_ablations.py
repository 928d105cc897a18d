"""What encoder propagation and its ablations run and leave out between keys."""

import copy

import pytest
import torch

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.methods import EncoderPropagation
from tests.methods.test_encoder_propagation import KEYS, NOISE
from tests.support.tiny import STEPS


def block_calls(one, methods, **changes):
    """{block: calls that really ran}, counted on its first layer."""
    unet = one.pipe.unet
    calls = dict.fromkeys(
        ["down_blocks.0", "down_blocks.2", "mid_block", "up_blocks.0", "up_blocks.1", "up_blocks.2"], 0
    )

    def count(name):
        def hook(*_):
            calls[name] += 1

        return hook

    handles = [unet.get_submodule(f"{name}.resnets.0").register_forward_hook(count(name)) for name in calls]
    try:
        one.call(accelerate(one.pipe, methods), **changes)
    finally:
        for handle in handles:
            handle.remove()
    return calls


@pytest.mark.parametrize(
    ("options", "down", "coarse_up", "finest_up"),
    [
        ({"decoding": "sequential"}, 4, 8, 8),
        ({"decoding": "parallel"}, 4, 4, 4),
        ({"propagate": "decoder"}, 8, 4, 8),
        ({"propagate": "both"}, 4, 4, 8),
        ({"propagate": "nothing"}, 4, 4, 4),
    ],
    ids=str,
)
def test_what_runs_between_keys(small, options, down, coarse_up, finest_up):
    calls = block_calls(small("sd")[0], [EncoderPropagation(KEYS, **options)])
    assert calls == {
        "down_blocks.0": down, "down_blocks.2": down, "mid_block": down,
        "up_blocks.0": coarse_up, "up_blocks.1": coarse_up, "up_blocks.2": finest_up,
    }  # fmt: skip


def test_the_ablations_differ(small):
    """The ablations differ from one another and from the method, and every one of them from the baseline."""
    one, bare = small("sd")
    kinds = ["encoder", "decoder", "both", "nothing"]
    made = [one.call(accelerate(one.pipe, [EncoderPropagation(KEYS, propagate=kind)])) for kind in kinds]
    made.append(bare)
    for i, first in enumerate(made):
        assert all(not torch.equal(first, second) for second in made[i + 1 :])


def test_predicting_nothing_leaves_ddims_latents_to_shrink(case):
    """Without a prediction x0 is x / alpha, and DDIM only rescales; by hand."""
    one = case("sd_ddim")
    ours = one.call(accelerate(one.pipe, [EncoderPropagation([0], propagate="nothing")]), latents=NOISE)
    scheduler = copy.deepcopy(one.pipe.scheduler)
    scheduler.set_timesteps(STEPS)
    last = torch.cat([scheduler.alphas_cumprod[scheduler.timesteps], scheduler.final_alpha_cumprod.reshape(1)])
    first = one.call(accelerate(one.pipe, [EncoderPropagation([0], propagate="nothing")]), latents=2 * NOISE)
    arguments, first_t = one.arguments([0, 1]), scheduler.timesteps[0]
    text = torch.cat([arguments["negative_prompt_embeds"], arguments["prompt_embeds"]])
    for noise, drawn in ((NOISE, ours), (2 * NOISE, first)):
        with torch.no_grad():
            u, c = one.pipe.unet(torch.cat([noise] * 2), first_t, encoder_hidden_states=text).sample.chunk(2)
        x = scheduler.step(u + 5.0 * (c - u), first_t, noise).prev_sample
        torch.testing.assert_close(drawn, x * (last[-1] / last[1]).sqrt(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("propagate", ["decoder", "both"])
def test_ablations_need_skip_connections(case, propagate):
    with pytest.raises(UsageError, match=f"propagate='{propagate}' needs skip connections"):
        accelerate(case("dit").pipe, [EncoderPropagation(4, propagate=propagate)])
