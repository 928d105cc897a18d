"""Encoder propagation against loops over the network's own parts, and around a ControlNet, callbacks and failures."""

import copy
import functools

import pytest
import torch

from postdiff import accelerate
from postdiff.cost.macs import count_macs
from postdiff.engine.errors import UsageError
from postdiff.methods import EncoderPropagation
from postdiff.methods.base import Method
from tests.support.snapshot import scheduler_keys, snapshot
from tests.support.tiny import STEPS, sd

NOISE = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
KEYS = [0, 1, 4, 6]
UNETS = [
    "sd", "img2img", "inpaint9", "controlnet", "controlnet_guess", "controlnets", "sdxl", "sdxl_img2img",
    "sdxl_controlnet", "lcm", "deepfloyd_if", "if_stage_2", "upscale_x4", "text_to_video", "animatediff",
]  # fmt: skip
PLAIN_TRANSFORMERS = ["dit", "pixart_alpha", "pixart_alpha_sized", "pixart_sigma"]
SOLVERS = ["ddim", "dpm++", "euler", "unipc", "heun", "pndm", "euler_ancestral", "ddpm"]


def encoded(unet, x, emb, text):
    """conv_in, down blocks and middle: (bottleneck, skip connections)."""
    h = unet.conv_in(x)
    skips = [h]
    for block in unet.down_blocks:
        more = {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}
        h, outputs = block(h, emb, **more)
        skips += outputs
    return unet.mid_block(h, emb, encoder_hidden_states=text), skips


def decoded(unet, h, skips, emb, text):
    """Up blocks and what follows them: the prediction."""
    skips = list(skips)
    for block in unet.up_blocks:
        mine = tuple(skips.pop() for _ in block.resnets)[::-1]
        more = {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}
        h = block(h, temb=emb, res_hidden_states_tuple=mine, **more)
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(h)))


@torch.no_grad()
def unet_loop(one, keys):
    """DDIM with guidance 5 by hand; between keys the decoder reads what the last key step left behind."""
    unet, scheduler, x = one.pipe.unet, copy.deepcopy(one.pipe.scheduler), NOISE
    arguments = one.arguments([0, 1])
    text = torch.cat([arguments["negative_prompt_embeds"], arguments["prompt_embeds"]])
    scheduler.set_timesteps(STEPS)
    for i, t in enumerate(scheduler.timesteps):
        emb = unet.time_embedding(unet.time_proj(t.expand(4)))
        if i in keys:
            middle, skips = encoded(unet, torch.cat([x, x]), emb, text)
        u, c = decoded(unet, middle, skips, emb, text).chunk(2)
        x = scheduler.step(u + 5.0 * (c - u), t, x).prev_sample
    return x


@pytest.mark.parametrize("keys", [KEYS, [0], [0, 7], 3], ids=str)
@pytest.mark.parametrize("decoding", ["sequential", "parallel"])
def test_equals_a_loop_over_the_unets_parts(decoding, keys):
    one = sd("ddim")
    one.pipe.set_progress_bar_config(disable=True)
    ours = one.call(accelerate(one.pipe, [EncoderPropagation(keys, decoding)]), latents=NOISE)
    expected = unet_loop(one, range(0, STEPS, keys) if isinstance(keys, int) else keys)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


def dit_predictions(net, inputs, keys, split):
    """For every network call of a plain run its prediction, if blocks up to `split` had stopped at the last key."""
    for i, (x, t, labels) in enumerate(inputs):
        if i in keys:
            kept = net.pos_embed(x)
            for block in net.transformer_blocks[:split]:
                kept = block(kept, timestep=t, class_labels=labels)
        h = kept
        for block in net.transformer_blocks[split:]:
            h = block(h, timestep=t, class_labels=labels)
        shift, scale = net.proj_out_1(
            torch.nn.functional.silu(net.transformer_blocks[0].norm1.emb(t, labels, hidden_dtype=h.dtype))
        ).chunk(2, dim=1)
        h = net.proj_out_2(net.norm_out(h) * (1 + scale[:, None]) + shift[:, None])
        side, patch = x.shape[-1] // net.config.patch_size, net.config.patch_size
        yield h.reshape(len(h), side, side, patch, patch, -1).permute(0, 5, 1, 3, 2, 4).flatten(2, 3).flatten(3, 4)


@pytest.mark.parametrize("split", [1, 2, None])
@pytest.mark.parametrize("decoding", ["sequential", "parallel"])
def test_equals_a_loop_over_dits_blocks(case, decoding, split):
    """At every step the labels and the time are its own, the features those of the last key step."""
    one = case("dit")
    seen, made = [], []

    class Watch(Method):
        """Outside the method under test, where each step is seen by itself."""

        def denoise(self, forward, sample, kwargs, state):
            seen.append((sample, kwargs["timestep"], kwargs["class_labels"]))
            made.append(forward(sample, kwargs))
            return made[-1]

    one.call(accelerate(one.pipe, [Watch(), EncoderPropagation(KEYS, decoding, split=split)]))
    with torch.no_grad():
        # 18 of 28 blocks are two of three.
        for expected, ours in zip(dit_predictions(one.pipe.transformer, seen, KEYS, split or 2), made, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [*UNETS, *PLAIN_TRANSFORMERS, *(f"sd_{solver}" for solver in SOLVERS)])
def test_every_step_a_key_is_the_baseline(small, name):
    """Sequential; the same in parallel is the identity setting of `configs/methods/encoder_propagation.yaml`."""
    one, expected = small(name)
    assert torch.equal(one.call(accelerate(one.pipe, [EncoderPropagation(1, "sequential")])), expected)


@pytest.mark.parametrize("name", ["controlnet_guess", "controlnets", "sdxl_img2img", "sdxl_controlnet"])
def test_every_step_a_key_in_parallel_where_no_preset_is_tested(small, name):
    one, expected = small(name)
    assert torch.equal(one.call(accelerate(one.pipe, [EncoderPropagation(1)])), expected)


@functools.cache
def _macs_of_every_step(name, small):
    one, _ = small(name)
    driver = accelerate(one.pipe, [EncoderPropagation(1)])
    return count_macs(one.pipe, lambda: one.call(driver))["denoiser"]["dense"]


@pytest.mark.parametrize("name", ["controlnet", "controlnet_guess", "controlnets", "sdxl_controlnet"])
@pytest.mark.parametrize("decoding", ["sequential", "parallel"])
def test_a_controlnet_runs_at_key_steps_only(small, name, decoding):
    one, _ = small(name)
    driver = accelerate(one.pipe, [EncoderPropagation(KEYS, decoding)])
    macs = count_macs(one.pipe, lambda: one.call(driver))["denoiser"]
    assert driver.counts["controlnet calls"] == len(KEYS)
    # A single image: in guess mode the ControlNet is sent one row then, and the network two.
    assert one.call(driver, [0]).shape[0] == 1 and driver.counts["controlnet calls"] == len(KEYS)
    assert macs["dense"] < _macs_of_every_step(name, small)


def test_a_controlnets_residuals_come_from_the_last_key_step(small):
    """Kept residuals are those of a run whose ControlNet is asked at every step but answers with old ones."""
    one = small("controlnet")[0]
    kept, step, forward = {}, {"now": -1}, one.pipe.controlnet.forward

    @functools.wraps(forward)
    def old(*args, **kwargs):
        step["now"] += 1
        if step["now"] in KEYS:
            kept["residuals"] = forward(*args, **kwargs)
        return kept["residuals"]

    ours = one.call(accelerate(one.pipe, [EncoderPropagation(KEYS, "sequential")]))
    one.pipe.controlnet.forward = old
    try:
        # Without the hook of its own the method leaves the ControlNet to `old`.
        method = EncoderPropagation(KEYS, "sequential")
        method.condition = lambda forward, kwargs, state: forward(kwargs)
        expected = one.call(accelerate(one.pipe, [method]))
    finally:
        del one.pipe.controlnet.forward
    assert step["now"] == STEPS - 1
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("decoding", ["sequential", "parallel"])
def test_callbacks_and_the_progress_bar_see_every_step(case, monkeypatch, decoding):
    one, message, updates = case("sd"), [], []

    class Bar:
        def __init__(self, total):
            updates.append(total)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def update(self):
            updates.append(1)

    monkeypatch.setattr(type(one.pipe), "progress_bar", lambda self, total=None: Bar(total))

    def note(pipe, i, t, tensors):
        message.append((i, int(t), tensors["latents"].clone()))
        return tensors

    last = one.call(accelerate(one.pipe, [EncoderPropagation(KEYS, decoding)]), callback_on_step_end=note)
    assert [i for i, _, _ in message] == list(range(STEPS))
    assert [t for _, t, _ in message] == one.pipe.scheduler.timesteps.tolist()
    assert torch.equal(message[-1][2], last)
    assert len({float(latents.sum()) for _, _, latents in message}) == STEPS, "a step did not move the latents"
    assert updates == [STEPS, *[1] * STEPS]


@pytest.mark.parametrize(("name", "calls"), [("sd_pndm", 9), ("sd_heun", 15)])
def test_steps_are_solver_calls(small, name, calls):
    """PNDM makes 9 and Heun 15 of 8 steps, and keys count those."""
    one = small(name)[0]
    driver = accelerate(one.pipe, [EncoderPropagation([0, calls - 1])])
    one.call(driver)
    assert driver.counts["network calls"] == 2
    with pytest.raises(UsageError, match=f"key step {calls} is past the end of this run of {calls} steps"):
        one.call(accelerate(one.pipe, [EncoderPropagation([0, calls])]))
    with pytest.raises(UsageError, match="key set 'sd_20' is for 20 steps, this run has (21|39)"):
        one.call(accelerate(one.pipe, [EncoderPropagation("sd_20")]), num_inference_steps=20)


def test_a_named_set_runs_with_its_number_of_steps(small):
    one = small("sd_dpm++")[0]
    driver = accelerate(one.pipe, [EncoderPropagation("sd_20")])
    one.call(driver, num_inference_steps=20)
    assert driver.counts["network calls"] == 7
    assert driver.counts["encoder_propagation decoded at once"] == 5


@pytest.mark.parametrize("decoding", ["sequential", "parallel"])
@pytest.mark.parametrize("name", ["sd_dpm++", "controlnet", "dit", "text_to_video"])
def test_restored_after_an_exception_between_keys(small, name, decoding):
    """It is raised inside the decoder of a call that serves steps between keys."""
    one, expected = small(name)
    driver = accelerate(one.pipe, [EncoderPropagation(4, decoding)])
    before = snapshot(one.pipe)
    network = driver.network
    finest = network.up_blocks[-1] if hasattr(network, "up_blocks") else network.transformer_blocks[-1]
    calls = iter(range(100))

    def fail_at_second(*_):
        if next(calls) == 1:
            raise RuntimeError("boom")

    handle = finest.register_forward_pre_hook(fail_at_second)
    try:
        with pytest.raises(RuntimeError, match="boom"):
            one.call(driver)
    finally:
        handle.remove()
    assert snapshot(one.pipe) == before
    assert not scheduler_keys(one.pipe.scheduler)[1]
    assert torch.equal(one.call(one.pipe), expected)
    assert torch.equal(one.call(driver), one.call(accelerate(one.pipe, [EncoderPropagation(4, decoding)])))
