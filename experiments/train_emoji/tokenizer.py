"""A CLIPTokenizer whose byte-pair merges are learnt from the captions alone."""

import json

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

LENGTH = 16
START, END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(captions: list[str], vocabulary: int = 2048) -> CLIPTokenizer:
    """Learn merges from `captions`; any other text still splits into bytes.

    The vocabulary has CLIP's order: bytes, bytes at the end of a word, merges, and the two special tokens.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ends = [letter + "</w>" for letter in alphabet]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 2, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(captions, trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    tokens = dict.fromkeys([*alphabet, *ends, *("".join(pair) for pair in merges), START, END])
    vocab = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, pad_token=END, model_max_length=LENGTH)
