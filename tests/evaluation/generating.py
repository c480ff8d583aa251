"""A task that wants generated text, and the same text by transformers' `generate`, one row at a time."""

from __future__ import annotations

import numpy as np
import torch
from changes import PREFIX, changed_module, hook_prompts, layer_names, past

from gfo import LocalEvaluator
from gfo.core.protocols import Batch, Decoding
from gfo.models.encoder_decoder import EncoderDecoder

TEXTS = [
    "a",
    "a great joy from the first minute to the last",
    "bad!",
    "the food was good",
    "I would say that the service was not good, and the food neither: a terrible waste.",
]


class Writing:
    """Continue a template; the loss is the mean length of the answers."""

    splits = ("train",)

    def __init__(self, template, decoding, texts=TEXTS, recurs=True):
        self.template, self.decoding, self.texts, self.recurs = template, decoding, texts, recurs

    def bind(self, model):
        before, soft, after = self.template.partition("{soft}")
        self.rows = [
            (
                model.encode(before.format(text=text), start=True, end=not soft),
                model.encode(after.format(text=text), end=bool(soft)),
            )
            for text in self.texts
        ]
        self.soft = bool(soft)
        return self

    def batch(self, split, step):
        return self.all_rows(split)

    def all_rows(self, split):
        before, after = zip(*self.rows, strict=True)
        key = ("writing", self.template, len(self.rows))
        return Batch(
            key, before, after, None, np.zeros(len(before)), self.soft, self.recurs, decoding=self.decoding
        )

    def loss(self, answers, batch):
        return np.array([np.nan if a is None else np.mean([len(text) for text in a]) for a in answers])

    def score(self, answers, batch):
        return {"loss": self.loss(answers, batch)}


def generated(model, space, task, z, **options):
    """The evaluator's answers."""
    evaluator = LocalEvaluator(model, task, space, **options)
    return evaluator.answers(z, evaluator.task.all_rows("train"))


def without_stop(ids, stop):
    """Tokens in front of the first that stops."""
    end = next((i for i, token in enumerate(ids) if token in stop), len(ids))
    return tuple(ids[:end])


@torch.no_grad()
def one_by_one(model, space, task, z):
    """K lists of B tuples: stock transformers, one candidate and one row at a time, greedy."""
    rows, decoding, answers = task.bind(model).rows, task.decoding, []
    for k in range(len(z)):
        delta = space.decode(torch.from_numpy(z[k : k + 1]))
        module = changed_module(model, delta)
        answers.append([])
        for left, right in rows:
            for layer in layer_names(model):
                module.get_submodule(layer)._forward_pre_hooks.clear()
            hook_prompts(module, layer_names(model), delta, len(left))
            pieces = [model.embed(torch.tensor(left, dtype=torch.long))]
            pieces += [delta.prompt[0]] if delta.prompt is not None else []
            embeds = torch.cat([*pieces, model.embed(torch.tensor(right, dtype=torch.long))])[None]
            write = write_behind_a_prefix if delta.prefix else write_plainly
            answers[-1].append(without_stop(write(model, module, embeds, decoding, delta), decoding.stop))
    return answers


def write_plainly(model, module, embeds, decoding, delta):
    module.generation_config.forced_eos_token_id = None  # BART's default ends every answer by force
    module.generation_config.eos_token_id = sorted(decoding.stop) or None
    ids = module.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
        max_new_tokens=decoding.max_tokens + (len(model.answer_start) - 1 if is_two(model) else 0),
        do_sample=False,
        pad_token_id=0,
    )[0].tolist()
    return ids[len(model.answer_start) :] if is_two(model) else ids


def is_two(model):
    return isinstance(model, EncoderDecoder)


def write_behind_a_prefix(model, module, embeds, decoding, delta):
    """Which `generate` does not take with embeddings: the whole sequence anew for each token."""
    ids = []
    for _ in range(decoding.max_tokens):
        cache, _ = past(model, delta)
        position = torch.arange(embeds.shape[1])[None] + PREFIX
        logits = module(inputs_embeds=embeds, position_ids=position, past_key_values=cache).logits[0, -1]
        ids.append(int(logits.argmax()))
        embeds = torch.cat([embeds, model.embed(torch.tensor(ids[-1:]))[None]], dim=1)
    return ids


def decoding(max_tokens=8, stop=(), **options):
    return Decoding(max_tokens, frozenset(stop), **options)


def stops_in(answers, number=3):
    """Some tokens from amid the answers to the last examples, so that some answers end there."""
    return frozenset(text[i + 2] for i, text in enumerate(answers[0][-number:]))


def cut(answers, stop):
    """The answers as they are with these tokens to stop at."""
    return [[without_stop(text, stop) for text in candidate] for candidate in answers]
