"""What a model that is here writes in answer to texts, such as prompts that it is to put in other words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gfo.core.errors import GfoError
from gfo.core.texts import Plain

PLACE = "\ue000"  # a private character, where the prompt goes


def write_answers(
    model: Any, prompts: Sequence[str], *, max_tokens: int, temperature: float, seed: int
) -> list[str | None]:
    """What a frozen model answers each prompt, by transformers' own `generate`.

    Each is asked in the model's chat format, if it has one. The i-th draws from the seed + i, whatever was
    drawn before.

    Returns:
        The answers; None where prompt and answer do not fit into the context.

    Raises:
        GfoError: for a model that does not continue texts.
    """
    if not model.generates or model.reads != "next":
        raise GfoError(f"rewrite: model '{model.name}' writes no texts; take a decoder or an Endpoint")
    config = _config(model, max_tokens, temperature)
    on_gpu = [model.device] if model.device.type == "cuda" else []
    found: list[str | None] = []
    with model.lock, torch.no_grad(), torch.random.fork_rng(on_gpu):
        for i, prompt in enumerate(prompts):
            torch.manual_seed(seed + i)
            found.append(_answer(model, prompt, config, max_tokens))
    return found


def _config(model: Any, max_tokens: int, temperature: float) -> Any:
    """What `generate` is told: the highest token each time at the temperature 0, else of all drawn one."""
    from transformers import GenerationConfig

    drawn = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {}
    ends = sorted(model.end_tokens)
    pad = ends[0] if ends else 0
    return GenerationConfig(max_new_tokens=max_tokens, eos_token_id=ends or None, pad_token_id=pad, **drawn)


def _answer(model: Any, prompt: str, config: Any, max_tokens: int) -> str | None:
    """The answer to one prompt."""
    pieces: list[str] = [Plain(prompt)]
    chat = bool(getattr(model.tokenizer, "chat_template", None))
    if chat:  # which has its own start
        front, _, back = model.chat([{"role": "user", "content": PLACE}]).partition(PLACE)
        pieces = [front, *pieces, back]
    ids = model.encode_rows([pieces], start=not chat)[0]
    if len(ids) + max_tokens > model.context_length:
        return None
    rows = torch.tensor([ids], device=model.device)
    out = model.module.generate(rows, attention_mask=torch.ones_like(rows), generation_config=config)
    return str(model.decode([tuple(out[0, len(ids) if model.causal else 0 :].tolist())])[0])
