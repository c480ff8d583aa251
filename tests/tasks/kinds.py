"""Tokenizers of the kinds that models have, small and made in memory."""

from __future__ import annotations

import json

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from gfo.models.loading import freeze
from gfo.testing.tiny import draw_weights

WORDS = "Review : Sentiment the movie is a great joy positive negative terrible good bad food was user system"
MARKS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"]
PREPENDS = {
    "prepend": lambda: normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
    "first": lambda: pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
    "always": lambda: pre_tokenizers.Metaspace(prepend_scheme="always", split=False),
}


def byte_level(chat_template=None, *, start=False, special=SPECIAL):
    """GPT-2's kind."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        [WORDS] * 3,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return _wrapped(bpe, chat_template, start=start)


def sentence_piece(kind, chat_template=None, *, start=True):
    """Llama 2's and Mistral's kind: blanks are "▁", one of them in front of a text; the rest are bytes."""
    pieces = [f"▁{word}" for word in WORDS.split()] + [*WORDS.split()]
    letters = sorted({*"".join(pieces), *"abcdefghijklmnopqrstuvwxyz<>/|_,.!"} | {"▁"})
    vocabulary, merges = [*SPECIAL, *(f"<0x{i:02X}>" for i in range(256)), *letters], []
    for piece in pieces:  # each word from the left, letter by letter
        for n in range(2, len(piece) + 1):
            if piece[:n] not in vocabulary:
                vocabulary.append(piece[:n])
                merges.append((piece[: n - 1], piece[n - 1]))
    bpe = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(vocabulary)},
            merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    part = PREPENDS[kind]()
    setattr(bpe, "normalizer" if kind == "prepend" else "pre_tokenizer", part)
    bpe.add_special_tokens(SPECIAL)
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _wrapped(Tokenizer.from_str(json.dumps(json.loads(bpe.to_str()))), chat_template, start=start)


def whole_words():
    """One whose vocabulary has `</s>` as a word, so that it cannot be read as text."""
    words = Tokenizer(
        models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "good": 3, "bad": 4, "It": 5}, "<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(["<unk>", "<s>", "</s>"])
    return _wrapped(words, None, start=False)


def frozen(tokenizer, size=None):
    """A tiny model with random weights for it; `size` pads the vocabulary."""
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        vocab_size=size or len(tokenizer),
        bos_token_id=1,
        eos_token_id=2,
    )
    module = transformers.AutoModelForCausalLM.from_config(config)
    draw_weights(module, 0)
    return freeze(module.to(torch.float32), tokenizer, "tiny")


def _wrapped(tokenizer, chat_template, *, start):
    if start:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    found = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **MARKS)
    found.chat_template = chat_template
    return found
