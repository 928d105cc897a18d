"""Rows for pipelines that are not in the table: guiders, ControlNets of transformers, batches that are not first."""

from dataclasses import replace

import pytest
import torch
from diffusers import (
    AdaptiveProjectedMixGuidance,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
    SD3ControlNetModel,
    StableDiffusion3ControlNetPipeline,
)
from torch import nn

from postdiff import accelerate
from postdiff.engine.branches import on_batched
from postdiff.engine.errors import UsageError
from postdiff.engine.family import FAMILIES, Family
from postdiff.engine.intercept import intercept
from postdiff.methods import FORA, CFGCutoff, DeepCache, MixedResolution
from tests.support import modern, tiny
from tests.support.cases import Case, common, embed, encoded_text, pooled_text
from tests.support.parts import CROSS

FEW = {"num_inference_steps": 4}


def _vae(blocks=4):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4,) * blocks, down_block_types=["DownEncoderBlock2D"] * blocks, norm_num_groups=1,
        up_block_types=["UpDecoderBlock2D"] * blocks, latent_channels=4, layers_per_block=1, use_quant_conv=False,
        use_post_quant_conv=False, shift_factor=0.0, mid_block_add_attention=False,
    ).eval()  # fmt: skip


def _without_zeros(*parts):
    """Projections that start from zero would make a network deaf to what they project."""
    generator = torch.Generator().manual_seed(11)
    for part in parts:
        for values in part.parameters():
            if values.ndim > 1 and not values.any():
                values.data.copy_(0.1 * torch.randn(values.shape, generator=generator))


@pytest.fixture(scope="module")
def hunyuan_image():
    """Guidance is asked of a component, a guider, and comes in separate calls."""
    torch.manual_seed(0)
    net = HunyuanImageTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, text_embed_dim=CROSS, text_embed_2_dim=CROSS, rope_axes_dim=(8, 8),
    ).eval()  # fmt: skip
    vae = _vae()
    vae.register_to_config(spatial_compression_ratio=8)
    pipe = HunyuanImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae, text_encoder=None, tokenizer=None,
        text_encoder_2=None, tokenizer_2=None, transformer=net, guider=AdaptiveProjectedMixGuidance(enabled=True),
    )  # fmt: skip
    _without_zeros(net)

    def arguments(ids):
        n = len(ids)
        given = common(
            ids, height=128, width=96,
            prompt_embeds_mask=torch.ones(n, 6), negative_prompt_embeds_mask=torch.ones(n, 6),
            prompt_embeds_2=embed(ids, 4, CROSS, salt=3), negative_prompt_embeds_2=embed([99] * n, 4, CROSS, salt=3),
            prompt_embeds_mask_2=torch.ones(n, 4), negative_prompt_embeds_mask_2=torch.ones(n, 4), **encoded_text(ids),
        )  # fmt: skip
        given.pop("guidance_scale")
        return {**given, **FEW}

    return Case(pipe, arguments), Family(network="transformer", cfg=("cond", "uncond"), calls="separate")


@pytest.fixture(scope="module")
def hidream():
    """One argument has its batch second: (layers, rows, tokens, channels)."""
    torch.manual_seed(0)
    net = HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, caption_channels=[CROSS, CROSS], text_emb_dim=24, num_routed_experts=2,
        num_activated_experts=1, axes_dims_rope=(8, 4, 4), max_resolution=(16, 16), llama_layers=[0, 1],
        force_inference_output=True,
    ).eval()  # fmt: skip
    names = [f"{part}{number}" for number in ("", "_2", "_3", "_4") for part in ("text_encoder", "tokenizer")]
    pipe = HiDreamImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=_vae(), transformer=net, **dict.fromkeys(names)
    )
    pipe.default_sample_size = 16
    _without_zeros(net)

    def arguments(ids):
        n = len(ids)
        return common(
            ids, height=128, width=96, prompt_embeds_t5=embed(ids, 6, CROSS, salt=1),
            negative_prompt_embeds_t5=embed([99] * n, 6, CROSS, salt=2),
            prompt_embeds_llama3=embed(ids, 2, 6, CROSS, salt=3).transpose(0, 1),
            negative_prompt_embeds_llama3=embed([99] * n, 2, 6, CROSS, salt=3).transpose(0, 1), **pooled_text(ids),
        ) | FEW  # fmt: skip

    rows_at = (("encoder_hidden_states_llama3", 1),)
    return Case(pipe, arguments), Family(network="transformer", rows_at=rows_at)


@pytest.fixture(scope="module")
def sd3_controlnet():
    """Its ControlNet's first argument is called hidden_states."""
    one = tiny.build("sd3")
    torch.manual_seed(1)
    control = SD3ControlNetModel(
        sample_size=16, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=CROSS, caption_projection_dim=32, pooled_projection_dim=24, out_channels=4,
        pos_embed_max_size=16,
    ).eval()  # fmt: skip
    for block in control.controlnet_blocks:
        nn.init.normal_(block.weight, std=0.1)
    nn.init.normal_(control.pos_embed_input.proj.weight, std=0.1)
    parts = {
        name: part for name, part in one.pipe.components.items() if name not in ("image_encoder", "feature_extractor")
    }
    pipe = StableDiffusion3ControlNetPipeline(**parts, controlnet=control)

    def arguments(ids):
        image = embed(ids, 3, 32, 32, salt=7).clamp(0, 1)
        return {**one.arguments(ids), "control_image": image, **FEW}

    return Case(pipe, arguments), Family(network="transformer", controlnet="controlnet")


@pytest.mark.parametrize("name", ["hunyuan_image", "hidream", "sd3_controlnet"])
def test_a_row_of_data_serves_them(request, name):
    case, family = request.getfixturevalue(name)
    case.pipe.set_progress_bar_config(disable=True)

    def drawn(run, ids=None):
        torch.manual_seed(0)  # a control image is encoded without the run's generators
        return case.call(run, ids)

    expected = drawn(case.pipe)
    for stack in ([], [FORA(interval=1)], [CFGCutoff(gate=1.0)]):
        assert torch.equal(drawn(accelerate(case.pipe, stack, family)), expected)
    cut = accelerate(case.pipe, [CFGCutoff(gate=2)], family)
    assert not torch.equal(drawn(cut), expected)
    rows = 2 * 2 + 2 * 2 * 2 if family.calls == "batched" else 2 * 2 * 2 + 2 * 2
    assert cut.counts["network rows"] == rows
    if family.controlnet is None:
        alone = torch.cat([drawn(cut, [i]) for i in (0, 1)])
        torch.testing.assert_close(drawn(cut), alone, rtol=1e-4, atol=1e-5)


def test_one_branch_is_cut_out_of_every_argument(hidream):
    """With guidance of next to nothing a run without the unconditional branch is the same run."""
    case, family = hidream
    never = case.call(accelerate(case.pipe, [CFGCutoff(gate=0)], family))
    torch.testing.assert_close(never, case.call(case.pipe, guidance_scale=1 + 1e-6), rtol=1e-3, atol=1e-4)


def test_rows_are_changed_where_the_row_says():
    first, second = torch.arange(12.0).view(4, 3), torch.arange(24.0).view(2, 4, 3)
    family = Family(network="transformer", rows_at=(("layers", 1),), unbatched=("table",))
    given = {"text": first, "layers": second, "table": first, "other": second, "flag": True}
    found = on_batched(lambda value: value[:2], given, 4, family)
    assert torch.equal(found["text"], first[:2]) and torch.equal(found["layers"], second[:, :2])
    assert found["table"] is first and found["other"] is second and found["flag"] is True


@pytest.mark.parametrize("method", [[], [DeepCache(interval=2)]])
def test_further_outputs_of_a_network_reach_the_pipeline(method):
    one = tiny.build("sd", smallest=True)
    expected = one.call(accelerate(one.pipe, method))
    seen = []

    def second(forward, *args, **kwargs):
        return (*forward(*args, **kwargs), "sound")

    pipe = one.pipe
    with intercept(pipe.unet, "forward", second):
        fast = accelerate(pipe, method)
        # Outside of the driver's own wrapper, where the pipeline stands.
        handle = pipe.unet.register_forward_hook(lambda module, args, output: seen.append(output))
        try:
            assert torch.equal(one.call(fast), expected)
        finally:
            handle.remove()
    assert {output[1:] for output in seen} == {("sound",)}


@pytest.mark.parametrize(("family", "message"), [("solver", True), ("negated", False), ("other", True)])
def test_predictions_that_a_pipeline_changes_before_its_solver(family, message):
    """With one branch, x0 of the conditional branch is that of the guided prediction."""
    one = tiny.build("sd", smallest=True)
    row = replace(FAMILIES["StableDiffusionPipeline"], prediction=family)
    draw = [accelerate(one.pipe, [MixedResolution(beta=0.5, switch=3, x0=x0)], row) for x0 in ("guided", "conditional")]
    handle = one.pipe.unet.register_forward_hook(lambda module, args, output: (-output[0],))  # as Z-Image does
    try:
        guided = one.call(draw[0], guidance_scale=1.0)
        if message:
            with pytest.raises(UsageError, match="changes what its network predicts .*; use x0='guided'"):
                one.call(draw[1], guidance_scale=1.0)
        else:
            assert torch.equal(one.call(draw[1], guidance_scale=1.0), guided)
    finally:
        handle.remove()


def test_layouts_that_are_not_known_are_refused_in_words():
    flux = modern.flux()
    flux.pipe.set_progress_bar_config(disable=True)

    def longer(module, args, kwargs):  # a second image's tokens behind the own ones
        return args, {**kwargs, "hidden_states": torch.cat([kwargs["hidden_states"]] * 2, 1)}

    handle = flux.pipe.transformer.register_forward_pre_hook(longer, with_kwargs=True)
    try:
        with pytest.raises(UsageError, match="packs its latents, or images with them, in a way"):
            flux.call(accelerate(flux.pipe, [MixedResolution(beta=0.5, switch=2)]))
    finally:
        handle.remove()

    one = tiny.build("sd", smallest=True)
    handle = one.pipe.unet.register_forward_pre_hook(lambda module, args: (list(args[0]), *args[1:]))
    try:
        with pytest.raises(UsageError, match="hands its network a list of images"):
            one.call(accelerate(one.pipe, [DeepCache(interval=2)]))
    finally:
        handle.remove()
