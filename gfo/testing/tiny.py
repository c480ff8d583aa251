"""Tiny random models, made in memory in a second: for tests, and to run notebooks without weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from gfo.models.loading import freeze
from gfo.tasks.parts.datasets import load

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel

SPECIAL = ("<pad>", "<s>", "</s>")
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "vocab_size": 1024,
}
IMAGE = "<image>"
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
}
LABELS = (
    "positive negative neutral good bad great terrible yes no true false right wrong joy sadness anger fear "
    "love surprise world World sports Sports business Business technology Technology science Science A B C D"
)
LEARNT = 48  # sentences that the tokenizer is learnt from
TIMES = 50  # that the label words are repeated, so that each becomes a token


def tiny_model(*, seed: int = 0) -> FrozenModel:
    """A Llama of 3 layers and width 32 with random weights, and a tokenizer for any text.

    It knows nothing, but does all that a model does, in milliseconds. The tokenizer is a byte-level BPE of
    1024 tokens, learnt from sentences that come with gfo; it keeps common label words (" positive",
    " World") whole.

    Args:
        seed: of the weights; the same one gives the same model.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer_of_any_text()
    module = LlamaForCausalLM(LlamaConfig(**SHAPE, **token_ids()))
    draw_weights(module, seed)
    return freeze(module, tokenizer, "tiny-llama")


def tiny_image_model(*, seed: int = 0) -> FrozenModel:
    """A LLaVA of the same size, with a tower of 2 layers that makes 16 tokens of an image of 28 x 28 pixels.

    Images of other sizes are scaled and cut to that. `model.images.processor` is its processor.

    Args:
        seed: of the weights; the same one gives the same model.
    """
    from transformers import (
        CLIPImageProcessorPil,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = _tokenizer_of_any_text()
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    text = {"model_type": "llama", **SHAPE, **token_ids(), "vocab_size": len(tokenizer)}
    tower = {"model_type": "clip_vision_model", **TOWER}
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    config = LlavaConfig(
        text_config=text, vision_config=tower, vision_feature_layer=-1, image_token_index=image
    )
    module, side = LlavaForConditionalGeneration(config), TOWER["image_size"]
    draw_weights(module, seed)
    pixels = CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, do_convert_rgb=True
    )
    processor = LlavaProcessor(
        image_processor=pixels,
        tokenizer=tokenizer,
        patch_size=TOWER["patch_size"],
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return freeze(module, processor, "tiny-llava")


def _tokenizer_of_any_text() -> Any:
    """A byte-level BPE of 1024 tokens that keeps label words whole."""
    rows = load("gfo:sentiment/train.jsonl", limit=LEARNT)
    texts = [f"Review: {row['text']}\nSentiment: {row['label']}" for row in rows]
    return train_tokenizer([*texts, *[f" {LABELS}"] * TIMES], SHAPE["vocab_size"], every_byte=True)


def token_ids() -> dict[str, int]:
    """The ids of the special tokens of `train_tokenizer`, as a config has them."""
    return {f"{name}_token_id": i for i, name in enumerate(("pad", "bos", "eos"))}


def train_tokenizer(texts: Iterable[str], size: int, *, every_byte: bool) -> Any:
    """A transformers tokenizer: byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909) learnt from texts.

    Args:
        texts: what it learns from; the same ones give the same tokenizer.
        size: of the vocabulary, <pad>, <s> and </s> included.
        every_byte: whether any text can be told in tokens, for 256 of them; without, characters that are
            not in the texts are left out.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if every_byte else [],
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def draw_weights(module: Any, seed: int) -> None:
    """Random weights, in place: hidden states, attention and logits vary widely.

    Matrices are drawn from N(0, 0.25^2); N(0, 0.1^2) is added to gains and biases.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(module.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(0.25 * noise)
            else:
                parameter.add_(0.1 * noise)
