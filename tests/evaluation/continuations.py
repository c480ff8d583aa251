"""A task of endings for tests of log-likelihoods, and the same the slow way.

The slow way: one candidate, one row and one ending at a time, the whole sequence through the stock forward
pass with its full head, log_softmax, and the sum at the ending's tokens.
"""

from __future__ import annotations

import numpy as np
import torch
from changes import changed_module, hook_prompts, layer_names, past

from gfo import LocalEvaluator
from gfo.core.protocols import Batch


class Continuations:
    """A task bound to a model: rows of (before, after, endings) as token ids."""

    splits = ("train",)

    def __init__(self, rows, soft, *, key="rows", recurs=True):
        before, after, endings = zip(*rows, strict=True)
        target = np.zeros(len(rows), dtype=np.int64)
        self._batch = Batch((key,), before, after, None, target, soft, recurs, endings=endings)

    def bind(self, tokenizer):
        return self

    def batch(self, split, step):
        return self._batch

    def all_rows(self, split):
        return self._batch

    def loss(self, answers, batch):
        """Minus the mean log-likelihood of all endings there are, [K]."""
        there = torch.tensor([[j < len(row) for j in range(answers.shape[2])] for row in batch.endings])
        return -torch.stack([found[there].mean() for found in answers])

    def score(self, answers, batch):
        return {"loss": self.loss(answers, batch).double().numpy()}


def tokenized(model, template, rows):
    """Rows (text, endings) as (before, after, endings) in token ids; {mask} is the model's."""
    found = []
    for text, endings, *rest in rows:
        filled = template.replace("{text}", text)
        filled = filled.replace("{masks}", (model.mask or "") * (rest[0] if rest else 0))
        before, soft, after = filled.partition("{soft}")
        left, right = model.encode(before, start=True, end=not soft), model.encode(after, end=bool(soft))
        if model.causal:
            left = left or (1,)
        found.append((left, right, tuple(endings)))
    return found


def evaluator_of(model, space, rows, soft, **options):
    return LocalEvaluator(model, Continuations(rows, soft), space, **options)


def found_by(model, space, rows, soft, z, **options):
    evaluator = evaluator_of(model, space, rows, soft, **options)
    return evaluator.answers(z, evaluator.task.all_rows("train"))


@torch.no_grad()
def slow(model, space, rows, soft, z):
    """float32 [K, B, m]."""
    out = torch.full((len(z), len(rows), max(len(row[2]) for row in rows)), -torch.inf)
    for k in range(len(z)):
        delta = space.decode(torch.from_numpy(z[k : k + 1]))
        module = changed_module(model, delta)
        for b, (left, right, endings) in enumerate(rows):
            for layer in layer_names(model):
                module.get_submodule(layer)._forward_pre_hooks.clear()
            hook_prompts(module, layer_names(model), delta, len(left))
            for e, ending in enumerate(endings):
                prompt = delta.prompt[0] if soft and delta.prompt is not None else None
                out[k, b, e] = _one(model, module, delta, (left, prompt, right), ending)
    return out


def _one(model, module, delta, row, ending):
    left, prompt, right = row
    pieces = [model.embed(torch.tensor(left, dtype=torch.long))]
    pieces += [] if prompt is None else [prompt]
    pieces.append(model.embed(torch.tensor(right, dtype=torch.long)))
    length = sum(map(len, pieces))
    if model.causal:
        pieces.append(model.embed(torch.tensor(ending)))
        embeds = torch.cat(pieces)[None]
        cache, offset = past(model, delta)
        logits = module(
            inputs_embeds=embeds,
            position_ids=torch.arange(embeds.shape[1])[None] + offset,
            past_key_values=cache,
            use_cache=cache is not None,
        ).logits[0]
        places = [length - 1 + i for i in range(len(ending))]
    elif model.mask:
        logits = module(inputs_embeds=torch.cat(pieces)[None]).logits[0]
        ids = [*left, *[0] * (length - len(left) - len(right)), *right]
        places = [i for i, token in enumerate(ids) if token == model.read_token]
    else:
        start = [0] if model.config.model_type == "t5" else [2]
        ids = torch.tensor([start + list(ending)])
        logits = module(inputs_embeds=torch.cat(pieces)[None], decoder_input_ids=ids).logits[0]
        places = list(range(len(ending)))
    found = logits[places].log_softmax(-1)
    return found[range(len(ending)), list(ending)].sum()


def difference(a, b):
    """The largest of those that are finite in both; the others must be the same."""
    assert a.shape == b.shape
    assert a.dtype == b.dtype == torch.float32
    assert torch.equal(a.isfinite(), b.isfinite())
    return float((a - b)[a.isfinite()].abs().max())


def check_all_ways(model, space, rows, soft, z, expected, tolerance, chunks=(16, 50)):
    """Every way gives the expected log-likelihoods, and not those of another candidate, row or ending."""
    ways = {
        "at once": found_by(model, space, rows, soft, z),
        "one by one": torch.cat([found_by(model, space, rows, soft, z[k : k + 1]) for k in range(len(z))]),
        "no reuse": found_by(model, space, rows, soft, z, reuse=False),
        "no reuse, in chunks": found_by(model, space, rows, soft, z, reuse=False, chunk_tokens=chunks[-1]),
        **{f"chunks of {n}": found_by(model, space, rows, soft, z, chunk_tokens=n) for n in chunks},
    }
    scale = max(1.0, float(expected[expected.isfinite()].abs().max()))
    for name, found in ways.items():
        assert difference(found, expected) < tolerance * scale, name
        assert difference(found, expected.roll(1, 0)) > 1e-3, name  # control: another candidate
    return ways["at once"]
