"""Exports loaded by PEFT or transformers alone, and their own forward pass on whole texts."""

from __future__ import annotations

import json
import warnings

import numpy as np
import torch
import transformers

from gfo import Classification, LocalEvaluator
from gfo.report.export import export
from gfo.report.export.candidate import PROMPT

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # peft's own, at import
    import peft

LABELS = {"bad": " terrible", "good": " great"}
TEXTS = ["a", "a great joy from the first minute to the last", "bad!", "the food was good"]
ROWS = [
    {"text": text, "label": label} for text, label in zip(TEXTS, ["good", "good", "bad", "good"], strict=True)
]
TOLERANCE = 1e-4
FRONT, MIDDLE, PLAIN = (
    "{soft}Review: {text}\nSentiment:",
    "Review: {text}\n{soft}Sentiment:",
    "Review: {text} It was",
)
FAMILIES = ["llama", "gpt2", "qwen2", "roberta", "t5"]


def template_for(model, template):
    return template + (" {mask}" if model.reads == "mask" else "")


def evaluator_of(model, space, template):
    task = Classification(ROWS, template=template_for(model, template), labels=LABELS)
    return LocalEvaluator(model, task, space)


def two_points(space):
    """[2, d]: the point that is exported and, for control, another."""
    rng = np.random.default_rng(3)
    if space.domain.integer.any():
        return np.stack([rng.integers(1, space.domain.high + 1) for _ in range(2)]).astype(float)
    return rng.standard_normal((2, space.domain.d))


def base_of(model, folder):
    """The model saved, loaded by transformers."""
    model.module.save_pretrained(folder)
    return getattr(transformers, type(model.module).__name__).from_pretrained(folder)


@torch.no_grad()
def logits_of(module, model, rows):
    """Plain forward passes of token rows, one at a time, at the label words: [B, V']."""
    words = [model.encode(word)[0] for word in LABELS.values()]
    found = []
    for ids in rows:
        ids = torch.tensor([ids])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if model.reads == "next" and not model.causal:
            inputs["decoder_input_ids"] = torch.tensor([[module.config.decoder_start_token_id]])
        logits = module(**inputs).logits[0]
        at = -1
        if model.reads == "mask":  # behind virtual tokens, if there are any
            at = len(logits) - ids.shape[1] + ids[0].tolist().index(model.read_token)
        found.append(logits[at, words])
    return torch.stack(found)


def rows_of(evaluator):
    """gfo's tokens without the soft prompt."""
    batch = evaluator.task.all_rows("train")
    return [a + b for a, b in zip(batch.before, batch.after, strict=True)]


def texts_rows(folder):
    """Whole texts by the exported template, tokenized by the exported tokenizer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    template = json.loads((folder / PROMPT).read_text())["template"]
    return [tokenizer(template.format(**row))["input_ids"] for row in ROWS]


def check(evaluator, found, z):
    """The exported logits [B, V'] are gfo's at z[0], and not at z[1] or at the start."""
    expected = evaluator.answers(np.vstack([z, np.zeros_like(z[:1])]), evaluator.task.all_rows("train"))
    assert float((found - expected[0]).abs().max()) < TOLERANCE
    assert float((found - expected[1]).abs().max()) > 20 * TOLERANCE  # controls
    assert float((found - expected[2]).abs().max()) > 20 * TOLERANCE


def load_peft(model, folder, base_folder):
    """What a user does: the base model, with the vocabulary resized if there are new tokens, and PEFT."""
    base = base_of(model, base_folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    most = max(config.get("token_indices") or [0]) + 1
    if most > model.vocabulary_size:
        base.resize_token_embeddings(most, mean_resizing=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*[Mm]issing.*")
        return peft.PeftModel.from_pretrained(base, folder).eval()


def exported(evaluator, z, form, folder):
    return export(evaluator, z[0], form, folder)
