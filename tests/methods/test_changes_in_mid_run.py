"""What a callback changes between two steps, parallel decoding sees as sequential decoding does."""

import pytest
import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection
from peft import LoraConfig

from postdiff import accelerate
from postdiff.engine.family import Family
from postdiff.engine.spans import predict_span
from postdiff.engine.state import State
from postdiff.methods import CFGCutoff, EncoderPropagation
from tests.support.cases import embed
from tests.support.tiny import CROSS, build

pytestmark = pytest.mark.slow

NEW = embed([7, 8], 6, CROSS, salt=9)


def with_ip_adapter(one):
    net, processors = one.pipe.unet, {}
    torch.manual_seed(4)
    for name, processor in net.attn_processors.items():
        if name.endswith("attn2.processor"):
            width = net.get_submodule(name.removesuffix(".processor")).to_q.in_features
            processor = IPAdapterAttnProcessor2_0(width, CROSS, num_tokens=(2,))
        processors[name] = processor
    net.set_attn_processor(processors)
    net.encoder_hid_proj = MultiIPAdapterImageProjection([ImageProjection(8, CROSS, 2)])
    net.config["encoder_hid_dim_type"] = "ip_image_proj"
    plain = one.arguments

    def arguments(ids):
        images = torch.cat([torch.zeros(len(ids), 1, 8), embed(ids, 1, 8, salt=5)])
        return {**plain(ids), "ip_adapter_image_embeds": [images]}

    one.arguments = arguments


def with_lora(one):
    one.pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"]), "one")
    torch.manual_seed(5)
    for name, weight in one.pipe.unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)


def scaled_lora(one):
    with_lora(one)
    plain = one.arguments
    one.arguments = lambda ids: {**plain(ids), "cross_attention_kwargs": {"scale": 1.0}}


def text(given, change):
    given["prompt_embeds"] = change(given["prompt_embeds"])


def guidance_off(pipe, given):
    pipe._guidance_scale = 0.0
    text(given, lambda both: both.chunk(2)[1])


# {what: (how the pipeline is made ready for it, what the callback does)}
CHANGES = {
    "prompt": (None, lambda pipe, given: text(given, lambda both: torch.cat([both[:2], NEW]))),
    "prompt in place": (None, lambda pipe, given: given["prompt_embeds"][2:].mul_(0.5)),
    "guidance off": (None, guidance_off),
    "guidance": (None, lambda pipe, given: setattr(pipe, "_guidance_scale", 2.0)),
    "latents": (None, lambda pipe, given: given.update(latents=given["latents"] * 0.9)),
    "IP-Adapter": (with_ip_adapter, lambda pipe, given: pipe.set_ip_adapter_scale(0.1)),
    "LoRA": (with_lora, lambda pipe, given: pipe.unet.set_adapters(["one"], [0.1])),
    "LoRA off": (with_lora, lambda pipe, given: pipe.unet.disable_adapters()),
    "LoRA scale": (scaled_lora, lambda pipe, given: pipe._cross_attention_kwargs.update(scale=0.1)),
    "FreeU": (None, lambda pipe, given: pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)),
    "weights": (None, lambda pipe, given: pipe.unet.conv_out.weight.mul_(0.5)),
    "LoRA fused": (with_lora, lambda pipe, given: pipe.unet.fuse_lora(0.1)),
    "weight anew": (
        None,
        lambda pipe, given: setattr(pipe.unet.conv_out, "bias", torch.nn.Parameter(pipe.unet.conv_out.bias + 1)),
    ),
    "hook": (
        None,
        lambda pipe, given: pipe.unet.up_blocks[0].register_forward_hook(lambda module, args, output: output * -2),
    ),
}


def changed(one, methods, step, change, every=False):
    """The image if `change` comes right before `step` (or before it and all later ones)."""

    def callback(pipe, i, t, given):
        if i + 1 == step or (every and i + 1 > step):
            change(pipe, given)
        return given

    names = ["latents", "prompt_embeds"]
    fast = accelerate(one.pipe, methods)
    found = one.call(fast, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names)
    return found, fast.counts["network calls"]


def ready(kind):
    one = build("sd", small=True)
    if CHANGES[kind][0] is not None:
        CHANGES[kind][0](one)
    return one


@pytest.mark.parametrize("step", [5, 6, 7])
@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_between_keys(kind, step):
    """Steps 4 to 7 are decoded together; what was decoded for later steps is thrown away if it no longer holds."""
    one, change = ready(kind), CHANGES[kind][1]
    unchanged = one.call(accelerate(one.pipe, [EncoderPropagation(4)]))
    found, calls = changed(one, [EncoderPropagation(4)], step, change)
    expected, _ = changed(ready(kind), [EncoderPropagation(4, "sequential")], step, change)
    scale = float(expected.abs().max())
    assert float((found - expected).abs().max()) <= 1e-5 * scale
    assert float((found - unchanged).abs().max()) > 2e-5 * scale, "the change changes nothing"
    assert calls == (2 if kind in ("guidance", "latents") else 3)


@pytest.mark.parametrize("max_parallel", [0, 2])
@pytest.mark.parametrize("kind", ["prompt in place", "IP-Adapter", "LoRA scale"])
def test_a_change_at_every_step(kind, max_parallel):
    results = []
    for made in (EncoderPropagation([0], max_parallel=max_parallel), EncoderPropagation([0], "sequential")):
        scales = iter([0.9, 0.7, 0.5, 0.3] * 9)
        again = {
            "prompt in place": lambda pipe, given, scales=scales: given["prompt_embeds"].mul_(next(scales)),
            "IP-Adapter": lambda pipe, given, scales=scales: pipe.set_ip_adapter_scale(next(scales)),
            "LoRA scale": lambda pipe, given, scales=scales: pipe._cross_attention_kwargs.update(scale=next(scales)),
        }[kind]
        results.append(changed(ready(kind), [made], 3, again, every=True))
    (found, calls), (expected, _) = results
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert calls == (1 if max_parallel == 0 else 2) + 5


def test_one_text_goes_on(smallest):
    """Where a method cuts the arguments anew at every step they are still the same ones."""
    one, _ = smallest("sd")
    fast = accelerate(one.pipe, [CFGCutoff(gate=2), EncoderPropagation([0])])
    one.call(fast)
    assert fast.counts["network calls"] == 2


@pytest.mark.parametrize("window", [(0.0, 0.6), (0.6, 1.0), (0.3, 0.7)], ids=str)
@pytest.mark.parametrize("name", ["controlnet", "controlnets", "controlnet_guess", "sdxl_controlnet"])
def test_windows_of_a_controlnet(small, name, window):
    """It runs at key steps, and where its window begins or ends."""
    one, _ = small(name)
    several = name == "controlnets"
    given = {
        f"control_guidance_{end}": [at] * 2 if several else at for end, at in zip(("start", "end"), window, strict=True)
    }
    found = {}
    for decoding in ("sequential", "parallel"):
        fast = accelerate(one.pipe, [EncoderPropagation([0], decoding)])
        found[decoding] = one.call(fast, **given)
        inner = [end for end in window if 0 < end < 1]
        assert fast.counts["controlnet calls"] == 1 + len(inner)
    assert (found["parallel"] - found["sequential"]).abs().max() <= 1e-5 * found["sequential"].abs().max()
    # Outside of its window a ControlNet adds nothing, whatever the keys.
    silent = one.call(
        accelerate(one.pipe, [EncoderPropagation([0])]), controlnet_conditioning_scale=[0.0] * 2 if several else 0.0
    )
    assert not torch.equal(found["parallel"], silent)


def test_times_follow_the_sample():
    """Schedulers may keep their times on the CPU, whatever the network runs on."""
    state = State(family=Family("unet"), scheduler=None, timesteps=torch.tensor([30, 20, 10]), steps=3)
    state.branches, state.first_rows = ("cond",), torch.zeros(2, 4, 8, 8)
    message = {}

    def forward(sample, kwargs):
        message.update(kwargs)
        return sample

    sample = torch.empty(2, 4, 8, 8, device="meta")
    predict_span(forward, sample, {"timestep": torch.tensor(30)}, state, 3)
    assert message["timestep"].device == sample.device and message["timestep"].shape == (6,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_times_may_be_reported_in_half_precision(dtype):
    """A pipeline that hands its network rounded times still hands it its scheduler's."""
    state = State(family=Family("unet"), scheduler=None, timesteps=torch.tensor([4937, 3613, 1301]), steps=3)
    state.branches, state.first_rows = ("cond",), torch.zeros(1, 4, 8, 8)
    message = []
    rounded = state.timesteps.to(dtype)

    def forward(sample, kwargs):
        message.append(kwargs["timestep"])
        return sample

    predict_span(forward, torch.zeros(1, 4, 8, 8), {"timestep": rounded[0].clone()}, state, 3)
    assert torch.equal(message[0], rounded)
