"""Tokenizers that know letters only, and text encoders with random weights, as small as transformers allows."""

from __future__ import annotations

import torch
from tokenizers import pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tests.support.parts import CROSS

LENGTH = 16
START, END = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer() -> CLIPTokenizer:
    """Bytes as tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), START, END]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], pad_token=END, model_max_length=LENGTH)


def clip_text(
    width: int = CROSS, projection: int | None = None, length: int = LENGTH
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """Embeddings (rows, up to `length`, width), and pooled ones (rows, projection) if a projection is asked for."""
    words = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=length,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        **({} if projection is None else {"projection_dim": projection}),
    )
    torch.manual_seed(2)
    return (CLIPTextModel if projection is None else CLIPTextModelWithProjection)(config).eval()


def t5_tokenizer() -> T5Tokenizer:
    """Small letters as tokens."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz .,()-"]
    return T5Tokenizer(vocab=[(piece, 0.0) for piece in pieces], extra_ids=0, model_max_length=LENGTH)


def t5() -> T5EncoderModel:
    """Embeddings (rows, tokens, CROSS)."""
    torch.manual_seed(2)
    shape = {"d_model": CROSS, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return T5EncoderModel(T5Config(vocab_size=len(t5_tokenizer()), **shape)).eval()
