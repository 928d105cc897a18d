"""Language models with random weights, as small as transformers allows, for pipelines that encode prompts with one."""

from __future__ import annotations

from typing import Any

import torch
import transformers as t
from tokenizers import pre_tokenizers

WIDTH = 32
END, START, TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
# What chat templates do with a conversation, in short.
CHAT = (
    "{% for message in messages %}{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{{ part.text }}{% endfor %}{% endif %}{% endfor %}"
)


def tokenizer() -> t.Qwen2Tokenizer:
    """Bytes as tokens."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), END, START, TURN, *VISION]
    made = t.Qwen2Tokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=[],
        pad_token=END,
        eos_token=END,
        unk_token=END,
        extra_special_tokens=[START, TURN, *VISION],
    )
    made.chat_template = CHAT
    return made


def _shape(layers: int, width: int) -> dict[str, Any]:
    words = tokenizer()
    return {
        "vocab_size": len(words), "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": width // 2, "max_position_embeddings": 1024,
        "pad_token_id": words.pad_token_id, "bos_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id,
    }  # fmt: skip


def qwen3(layers: int = 2, width: int = WIDTH) -> t.Qwen3ForCausalLM:
    torch.manual_seed(2)
    return t.Qwen3ForCausalLM(t.Qwen3Config(**_shape(layers, width))).eval()


def gemma2() -> t.Gemma2Model:
    torch.manual_seed(2)
    return t.Gemma2Model(t.Gemma2Config(**_shape(2, WIDTH))).eval()


def llama() -> t.LlamaModel:
    torch.manual_seed(2)
    return t.LlamaModel(t.LlamaConfig(**_shape(4, WIDTH))).eval()


def umt5() -> t.UMT5EncoderModel:
    """For the letters of `texts.t5_tokenizer`."""
    torch.manual_seed(2)
    shape = {"d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 40}
    return t.UMT5EncoderModel(t.UMT5Config(**shape)).eval()


def mistral3(layers: int = 31, width: int = 8) -> t.Mistral3ForConditionalGeneration:
    """FLUX.2 reads its 10th, 20th and 30th layer."""
    torch.manual_seed(2)
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8,
        "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    config = t.Mistral3Config(
        text_config={"model_type": "mistral", **_shape(layers, width), "sliding_window": None},
        vision_config={"model_type": "pixtral", **vision},
        image_token_index=tokenizer().convert_tokens_to_ids(VISION[2]),
    )
    return t.Mistral3ForConditionalGeneration(config).eval()


def mistral3_processor() -> t.PixtralProcessor:
    return t.PixtralProcessor(
        image_processor=t.PixtralImageProcessor(size={"longest_edge": 32}, patch_size=8),
        tokenizer=tokenizer(), patch_size=8, image_token=VISION[2], chat_template=CHAT,
    )  # fmt: skip


def qwen25_vl() -> t.Qwen2_5_VLForConditionalGeneration:
    torch.manual_seed(2)
    words = tokenizer()
    text = _shape(2, WIDTH)
    ids = dict(
        zip(("vision_start", "vision_end", "image", "video"), words.convert_tokens_to_ids([*VISION]), strict=True)
    )
    config = t.Qwen2_5_VLConfig(
        text_config={**text, "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [2, 2, 4]}},
        vision_config={
            "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH,
            "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "fullatt_block_indexes": [0],
        },
        **{f"{name}_token_id": number for name, number in ids.items()},
    )  # fmt: skip
    return t.Qwen2_5_VLForConditionalGeneration(config).eval()


def qwen25_vl_processor() -> t.Qwen2VLProcessor:
    return t.Qwen2VLProcessor(
        image_processor=t.Qwen2VLImageProcessor(), tokenizer=tokenizer(), video_processor=t.Qwen2VLVideoProcessor(),
        chat_template=CHAT,
    )  # fmt: skip
