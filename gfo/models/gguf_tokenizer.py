"""A byte-level BPE tokenizer as the keys of a GGUF file; others are refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's types of tokens
# The regular expressions that split a text before BPE, by llama.cpp's names for what does it.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"\p{N}| ", r"\p{N}{1,3}| ")
SPLITS = {QWEN2: "qwen2", LLAMA3: "llama-bpe"}


def why_no_tokenizer(tokenizer: Any) -> str | None:
    """Why a tokenizer cannot be written, in words; None where it can."""
    if not hasattr(tokenizer, "backend_tokenizer"):
        return f"its tokenizer ({type(tokenizer).__name__}) is not one of the library tokenizers"
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = parts["model"]["type"]
    if kind != "BPE" or parts["model"].get("byte_fallback"):
        return f"its tokenizer is {kind} and not byte-level BPE"
    if _pre(parts) is None:
        return "its tokenizer splits texts in a way that llama.cpp has no name for"
    return None


def tokenizer_keys(writer: Any, model: FrozenModel) -> None:
    """Add the tokenizer and the chat template."""
    tokenizer = model.tokenizer
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {token["id"]: token for token in parts["added_tokens"]}
    texts = {i: text for text, i in tokenizer.get_vocab().items()}
    ids = range(model.vocabulary_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre(parts))
    writer.add_token_list([texts.get(i, f"[PAD{i}]") for i in ids])
    writer.add_token_types([_type(i, texts, added) for i in ids])
    writer.add_token_merges(list(map(_merge, parts["model"]["merges"])))
    _special_keys(writer, tokenizer)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _merge(pair: str | list[str]) -> str:
    """A merge of two tokens as one text, which older tokenizers have, too."""
    return pair if isinstance(pair, str) else " ".join(pair)


def _special_keys(writer: Any, tokenizer: Any) -> None:
    """Add which tokens are special, and which of them stand around a text."""
    for name in ("bos", "eos", "unk", "pad"):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    first, last = (tokenizer("a")["input_ids"][at] for at in (0, -1))
    writer.add_add_bos_token(first == tokenizer.bos_token_id)
    writer.add_add_eos_token(last == tokenizer.eos_token_id)


def _type(i: int, texts: dict[int, str], added: dict[int, Any]) -> int:
    """llama.cpp's type of a token."""
    if i not in texts:
        return UNUSED
    if i in added:
        return CONTROL if added[i]["special"] else USER_DEFINED
    return NORMAL


def _pre(parts: dict[str, Any]) -> str | None:
    """llama.cpp's name for how the texts are split, or None."""
    splitter = parts["pre_tokenizer"] or {}
    *before, last = splitter.get("pretokenizers", [splitter]) or [{}]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if not last.get("use_regex", True):
        return _split_before(before)
    return _split_last(before) if parts["normalizer"] is None else None


def _split_before(before: list[dict[str, Any]]) -> str | None:
    """The name where the last step does not split, by those before it."""
    kinds = [step.get("type") for step in before]
    return SPLITS.get(before[0]["pattern"].get("Regex")) if kinds == ["Split"] else None


def _split_last(before: list[dict[str, Any]]) -> str | None:
    """The name where the last step splits as that of gpt-2, by those before it."""
    if not before:
        return "gpt-2"
    digits = len(before) == 1 and before[0].get("type") == "Digits" and before[0]["individual_digits"]
    return "smollm" if digits else None
