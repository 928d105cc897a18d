"""T-GATE's published MACs, from the real-size network structures without weights.

A call of 25 steps at real size would take minutes under the counter, and most of its steps are alike. So the
schedule and the prices are measured apart, both through the same method: a tiny network makes all 25 steps and tells
of what kind each is (rows, whether attentions were replayed); the real-size network makes four, one of every kind,
and tells what each kind costs.
"""

from dataclasses import dataclass, field

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from postdiff import accelerate
from postdiff.cost.macs import tally
from postdiff.cost.on_meta import OnMeta, pin_to_cpu
from postdiff.methods import TGATE
from postdiff.methods.base import Method

pytestmark = pytest.mark.slow


@dataclass
class Ledger(Method):
    """Innermost but for `OnMeta`: for every network call its kind and its dense MACs."""

    pipe: object = None
    entries: list = field(default_factory=list)
    known: dict = field(default_factory=dict)

    def denoise(self, forward, sample, kwargs, state):
        before, outputs = state.counts.copy(), []
        found = tally(self.pipe, lambda: outputs.append(forward(sample, kwargs)), self.known)
        replayed = tuple(
            state.counts[f"tgate {which} hits"] > before[f"tgate {which} hits"]
            for which in ("self-attention", "cross-attention")
        )
        # Rows per sample: 2 with guidance, 1 without.
        self.entries.append(((len(sample) // state.samples, *replayed), found.macs()["dense"]))
        return outputs[0]


def sd15():
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, cross_attention_dim=768,
            attention_head_dim=8, in_channels=4, out_channels=4,
        )  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=None, text_encoder=None, tokenizer=None, unet=unet, scheduler=DPMSolverMultistepScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    text = torch.zeros(1, 77, 768)
    return pipe, {"prompt_embeds": text, "negative_prompt_embeds": text, "height": 512, "width": 512}


def sdxl():
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=128, block_out_channels=(320, 640, 1280), layers_per_block=2, cross_attention_dim=2048,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20), use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        )  # fmt: skip
    pipe = StableDiffusionXLPipeline(
        vae=None, text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None, unet=unet,
        scheduler=DPMSolverMultistepScheduler(), add_watermarker=False,
    )  # fmt: skip
    text, pooled = torch.zeros(1, 77, 2048), torch.zeros(1, 1280)
    return pipe, {
        "prompt_embeds": text, "negative_prompt_embeds": text, "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": pooled, "height": 1024, "width": 1024,
    }  # fmt: skip


def pixart():
    with torch.device("meta"):
        transformer = PixArtTransformer2DModel(
            sample_size=128, num_layers=28, patch_size=2, num_attention_heads=16, attention_head_dim=72, in_channels=4,
            out_channels=8, cross_attention_dim=1152, caption_channels=4096, num_embeds_ada_norm=1000,
            norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6,
        )  # fmt: skip
    pipe = PixArtAlphaPipeline(
        tokenizer=None, text_encoder=None, vae=None, transformer=transformer, scheduler=DPMSolverMultistepScheduler()
    )
    text, mask = torch.zeros(1, 120, 4096), torch.ones(1, 120)
    return pipe, {
        "prompt_embeds": text, "negative_prompt_embeds": text, "prompt_attention_mask": mask, "negative_prompt": None,
        "negative_prompt_attention_mask": mask, "height": 1024, "width": 1024, "use_resolution_binning": False,
    }  # fmt: skip


REAL = {"sd": sd15, "sdxl": sdxl, "pixart_alpha": pixart}


def run(pipe, method, arguments, innermost):
    ledger = Ledger(pipe)
    accelerate(pipe, [method, ledger, *innermost])(**arguments)
    return ledger.entries


@pytest.fixture(scope="module")
def prices():
    """`prices(network)`: {kind: MACs of one network call of the real-size structure}."""
    known = {}

    def of(network):
        if network not in known:
            pipe, arguments = REAL[network]()
            pipe.set_progress_bar_config(disable=True)
            # Steps 0 and 2 are full, 1 replays self-attention, 3 is past the gate.
            every_kind = TGATE(gate=3, self_attention_interval=4, warmup=0)
            arguments |= {"num_inference_steps": 4, "output_type": "latent"}
            known[network] = dict(run(pin_to_cpu(pipe), every_kind, arguments, [OnMeta()]))
            assert len(known[network]) == 3
        return known[network]

    return of


@pytest.mark.parametrize(
    ("network", "setting", "published"),
    [
        # Without guidance cut or anything replayed.
        ("sd", (1.0, 1, 1, 0), 16.938),
        ("sdxl", (1.0, 1, 1, 0), 149.438),
        ("pixart_alpha", (1.0, 1, 1, 0), 107.031),
        # Version 1; the documentation says gate 10 beside these values, which only these gates explain.
        ("sd", (5, 1, 1, 0), 9.875),
        ("sdxl", (5, 1, 1, 0), 84.438),
        ("pixart_alpha", (8, 1, 1, 0), 65.318),
        # Version 2: gate, interval before it, interval after it, warm-up.
        ("sdxl", (10, 5, 1, 2), 95.988),
        ("pixart_alpha", (15, 3, 1, 2), 73.971),
    ],
)
def test_published_macs(case, prices, network, setting, published):
    one = case(network)
    arguments = one.arguments([0]) | {"num_inference_steps": 25}
    kinds = [kind for kind, _ in run(one.pipe, TGATE(*setting), arguments, [])]
    assert len(kinds) == 25
    assert sum(prices(network)[kind] for kind in kinds) / 1e12 == pytest.approx(published, rel=1e-3)
