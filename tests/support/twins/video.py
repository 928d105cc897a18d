"""Video pipelines: one network or two that take turns, tokens with frames, sound."""

from __future__ import annotations

from typing import Any

import diffusers as d
import torch
from torch import Tensor

from tests.support.cases import embed
from tests.support.twins.parts import WIDTH, Part, Twin, common, flow, image, pooled, qwen_vae, text, wan_vae


def _wan_net(channels: int = 4, seed: int = 0, **extra: Any) -> Any:
    torch.manual_seed(seed)
    return d.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=channels, out_channels=4, text_dim=WIDTH, freq_dim=16,
        ffn_dim=32, num_layers=3, rope_max_seq_len=32, **extra,
    ).eval()  # fmt: skip


def _unipc() -> Any:
    return d.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def wan() -> Twin:
    pipe = d.WanPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=_wan_net(), scheduler=_unipc())
    return Twin(pipe, lambda ids: common(ids, height=128, width=96, num_frames=5, **text(ids)))


def wan22() -> Twin:
    """Two networks: the first above a noise level, the second below it, each with its guidance scale."""
    pipe = d.WanPipeline(
        tokenizer=None, text_encoder=None, vae=None, transformer=_wan_net(), transformer_2=_wan_net(seed=1),
        scheduler=_unipc(), boundary_ratio=0.8,
    )  # fmt: skip
    return Twin(pipe, lambda ids: common(ids, height=128, width=96, num_frames=5, guidance_scale_2=3.0, **text(ids)))


def wan22_ti2v() -> Twin:
    """Wan 2.2 5B: a timestep for every token."""
    pipe = d.WanPipeline(
        tokenizer=None, text_encoder=None, vae=None, transformer=_wan_net(), scheduler=_unipc(), expand_timesteps=True
    )
    return Twin(pipe, lambda ids: common(ids, height=128, width=96, num_frames=5, **text(ids)))


def wan_i2v() -> Twin:
    """Mask (4) and first frame (4) in channels beside the latents (4)."""
    pipe = d.WanImageToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=wan_vae(), image_processor=None, image_encoder=None,
        transformer=_wan_net(12), scheduler=_unipc(),
    )  # fmt: skip
    return Twin(
        pipe, lambda ids: common(ids, image=image(ids[:1], 128, 96), height=128, width=96, num_frames=5, **text(ids))
    )


def wan22_i2v() -> Twin:
    pipe = d.WanImageToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=wan_vae(), image_processor=None, image_encoder=None,
        transformer=_wan_net(12), transformer_2=_wan_net(12, seed=1), scheduler=_unipc(), boundary_ratio=0.8,
    )  # fmt: skip
    return Twin(
        pipe, lambda ids: common(ids, image=image(ids[:1], 128, 96), height=128, width=96, num_frames=5, **text(ids))
    )


def wan22_ti2v_image() -> Twin:
    """The first frame stands in the network's input, at time 0, and not among the latents."""
    pipe = d.WanImageToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=wan_vae(), image_processor=None, image_encoder=None,
        transformer=_wan_net(), scheduler=_unipc(), expand_timesteps=True,
    )  # fmt: skip
    return Twin(
        pipe,
        lambda ids: common(ids, image=image(ids[:1], 128, 96), height=128, width=96, num_frames=5, **text(ids)),
    )


def _vace_net(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return d.WanVACETransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, text_dim=WIDTH, freq_dim=16,
        ffn_dim=32, num_layers=3, rope_max_seq_len=32, vace_layers=[0, 2], vace_in_channels=4 * 2 + 64,
    ).eval()  # fmt: skip


def wan_vace(**more: Any) -> Twin:
    parts = {
        "tokenizer": None,
        "text_encoder": None,
        "vae": wan_vae(),
        "scheduler": _unipc(),
        "transformer": _vace_net(),
    }
    generator = torch.Generator
    return Twin(
        d.WanVACEPipeline(**parts, **more),
        lambda ids: common(ids, height=128, width=96, num_frames=5, generator=generator().manual_seed(7), **text(ids)),
        (0,),
    )


def wan22_vace() -> Twin:
    return wan_vace(transformer_2=_vace_net(1), boundary_ratio=0.8)


def ltx() -> Twin:
    torch.manual_seed(0)
    net = d.LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24,
        num_layers=2, caption_channels=WIDTH,
    ).eval()  # fmt: skip
    pipe = d.LTXPipeline(scheduler=flow(), vae=None, text_encoder=None, tokenizer=None, transformer=net)

    def arguments(ids: list[int]) -> dict[str, Any]:
        mask = torch.ones(len(ids), 6)
        return common(
            ids, height=256, width=192, num_frames=9, prompt_attention_mask=mask, negative_prompt_attention_mask=mask,
            **text(ids),
        )  # fmt: skip

    return Twin(pipe, arguments)


def ltx_i2v() -> Twin:
    """The first frame is given: its tokens have timestep 0, and the solver is handed the others alone."""
    torch.manual_seed(0)
    net = d.LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24,
        num_layers=2, caption_channels=WIDTH,
    ).eval()  # fmt: skip
    coder = d.AutoencoderKLLTXVideo(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8), layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, False, False), decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5, upsample_residual=(False,) * 4, upsample_factor=(1,) * 4, patch_size=1,
        patch_size_t=1, encoder_causal=True, decoder_causal=False, timestep_conditioning=False,
    ).eval()  # fmt: skip
    pipe = d.LTXImageToVideoPipeline(scheduler=flow(), vae=coder, text_encoder=None, tokenizer=None, transformer=net)

    def arguments(ids: list[int]) -> dict[str, Any]:
        mask = torch.ones(len(ids), 6)
        return common(
            ids, image=image(ids[:1], 64, 64), height=64, width=64, num_frames=9, prompt_attention_mask=mask,
            negative_prompt_attention_mask=mask, **text(ids),
        )  # fmt: skip

    return Twin(pipe, arguments, (0,))


def ltx2() -> Twin:
    """Video and sound in one network call; two solvers."""
    torch.manual_seed(0)
    net = d.LTX2VideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24,
        audio_in_channels=4, audio_out_channels=4, audio_num_attention_heads=2, audio_attention_head_dim=6,
        audio_cross_attention_dim=12, num_layers=2, caption_channels=WIDTH, rope_double_precision=False,
        use_prompt_embeddings=True,
    ).eval()  # fmt: skip

    class Connectors(Part):
        def forward(self, prompt: Tensor, mask: Tensor, **_: Any) -> Any:
            return prompt, prompt, mask

    class Coder(Part):
        def __init__(self, **config: Any) -> None:
            super().__init__()
            self.spatial_compression_ratio, self.temporal_compression_ratio = 32, 8
            self.mel_compression_ratio = 4
            self.config = type("C", (), config)()
            for name in ("latents_mean", "latents_std"):
                setattr(self, name, torch.full((4,), float(name.endswith("std"))))

    pipe = d.LTX2Pipeline(
        scheduler=flow(), vae=Coder(latent_channels=4, scaling_factor=1.0),
        audio_vae=Coder(sample_rate=16000, mel_hop_length=160, mel_bins=8, latent_channels=2), text_encoder=None,
        tokenizer=None, connectors=Connectors(), transformer=net, vocoder=None,
    )  # fmt: skip

    def arguments(ids: list[int]) -> dict[str, Any]:
        mask = torch.ones(len(ids), 6)
        return common(
            ids, height=256, width=192, num_frames=9, stg_scale=0.0, modality_scale=1.0, audio_stg_scale=0.0,
            audio_modality_scale=1.0, audio_guidance_scale=5.0, guidance_rescale=0.0, audio_guidance_rescale=0.0,
            prompt_attention_mask=mask, negative_prompt_attention_mask=mask, **text(ids),
        )  # fmt: skip

    return Twin(pipe, arguments)


def hunyuan_video() -> Twin:
    torch.manual_seed(0)
    net = d.HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, text_embed_dim=WIDTH, pooled_projection_dim=24, rope_axes_dim=(4, 4, 8),
    ).eval()  # fmt: skip
    pipe = d.HunyuanVideoPipeline(
        text_encoder=None, tokenizer=None, transformer=net, vae=None, scheduler=flow(False), text_encoder_2=None,
        tokenizer_2=None,
    )  # fmt: skip
    pipe.vae_scale_factor_temporal, pipe.vae_scale_factor_spatial = 4, 8

    def arguments(ids: list[int]) -> dict[str, Any]:
        mask = torch.ones(len(ids), 6)
        return common(
            ids, height=128, width=96, num_frames=5, true_cfg_scale=3.0, prompt_attention_mask=mask,
            negative_prompt_attention_mask=mask, **text(ids), **pooled(ids),
        )  # fmt: skip

    return Twin(pipe, arguments)


def hunyuan_video15() -> Twin:
    torch.manual_seed(0)
    net = d.HunyuanVideo15Transformer3DModel(
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2, num_refiner_layers=1,
        text_embed_dim=WIDTH, text_embed_2_dim=WIDTH, image_embed_dim=12, rope_axes_dim=(4, 4, 8), task_type="t2v",
        target_size=16,
    ).eval()  # fmt: skip
    coder = qwen_vae()
    coder.register_to_config(latent_channels=4)
    coder.temporal_compression_ratio, coder.spatial_compression_ratio = 4, 16
    pipe = d.HunyuanVideo15Pipeline(
        text_encoder=None, tokenizer=None, transformer=net, vae=coder, scheduler=flow(False), text_encoder_2=None,
        tokenizer_2=None, guider=d.ClassifierFreeGuidance(guidance_scale=5.0),
    )  # fmt: skip
    pipe.num_channels_latents = 4
    pipe.vision_num_semantic_tokens, pipe.vision_states_dim = 3, 12
    pipe.vae_scale_factor_temporal, pipe.vae_scale_factor_spatial = 4, 16

    def arguments(ids: list[int]) -> dict[str, Any]:
        n, mask = len(ids), torch.ones(len(ids), 6)
        given = common(
            ids, height=256, width=192, num_frames=5, prompt_embeds_mask=mask, negative_prompt_embeds_mask=mask,
            prompt_embeds_2=embed(ids, 4, WIDTH, salt=3), prompt_embeds_mask_2=torch.ones(n, 4),
            negative_prompt_embeds_2=embed([99] * n, 4, WIDTH, salt=3), negative_prompt_embeds_mask_2=torch.ones(n, 4),
            **text(ids),
        )  # fmt: skip
        given.pop("guidance_scale")
        return given

    return Twin(pipe, arguments)
