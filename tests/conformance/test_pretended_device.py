"""On a device nothing is mixed with the host's tensors, results are the CPU's, and the host seldom waits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from family_models import build, frozen
from pretended import DEVICE, pretending, put, there

import gfo

TEXTS = (
    "a joy",
    "the service was bad and a terrible waste of time",
    "good",
    "a bad day",
)
LABELS = {"bad": " bad", "good": " good"}
ROWS = [
    {"text": text, "label": label, "options": ["was bad", "was good indeed"], "answer": i % 2, "target": "x"}
    for i, (text, label) in enumerate(zip(TEXTS, ["good", "bad"] * 2, strict=True))
]
SOFT, PLAIN, HERE = "{text}{soft} It", "{text} It", "{text}{here} It"
SPACES = {
    "soft": (SOFT, lambda m: gfo.SoftPrompt(m, tokens=2, dim=4)),
    "deep": (SOFT, lambda m: gfo.DeepPrompt(m, tokens=2, dim=4)),
    "prefix": (PLAIN, lambda m: gfo.Prefix(m, tokens=2, dim=4)),
    "lora": (PLAIN, lambda m: gfo.LoRASubspace(m, dim=4, rank=2)),
    "lora here": (HERE, lambda m: gfo.LoRASubspace(m, dim=4, rank=2, begins="{here}")),
    "upper lora": (PLAIN, lambda m: gfo.LoRASubspace(m, dim=4, rank=2, layers="upper")),
    "bias": (PLAIN, lambda m: gfo.BiasSpace(m, dim=4)),
    "norm": (PLAIN, lambda m: gfo.Scaling(m, dim=4, method="norm")),
    "adapter": (PLAIN, lambda m: gfo.Adapter(m, dim=4, rank=2)),
}
TASKS = {
    "classification": lambda t: gfo.Classification(ROWS, template=t, labels=LABELS),
    "multiple choice": lambda t: gfo.MultipleChoice(
        ROWS, template=t, options="options", label_field="answer", delimiter=" "
    ),
    "generation": lambda t: gfo.Generation(
        ROWS, template=t, target="target", metric="exact_match", max_tokens=16
    ),
}
DECODERS = ("llama", "gpt2", "gemma2", "qwen3", "bloom", "mpt", "gpt_neox")
OTHERS = [(family, space) for family in DECODERS[1:] for space in ("soft", "lora")]
ANSWERS = [(space, task) for space in ("soft", "lora", "lora here") for task in list(TASKS)[1:]]
CASES = [
    *(("llama", "causal", space, "classification") for space in SPACES),
    *((family, "causal", space, "classification") for family, space in OTHERS),
    *(("llama", "causal", space, task) for space, task in ANSWERS),
    ("bert", "masked", "soft", "classification"),
    ("t5", "seq2seq", "lora", "classification"),
    ("t5", "seq2seq", "soft", "generation"),
    ("bloom", "causal", "soft", "generation"),
]
K = 3
# Of a step, and of a generated token. transformers looks at each mask of an encoder, and of the attention to
# it (`padding_mask.all()`): a wait for each of the three groups of rows, or two.
WAITS = {"causal": 3, "masked": 2 + 3, "seq2seq": 2 + 2 * 3}
A_TOKEN = {"causal": 0.5, "seq2seq": 1.5}


@pytest.mark.parametrize(("family", "mapping", "space", "task"), CASES)
def test_a_step_is_the_cpus_and_the_host_seldom_waits(monkeypatch, family, mapping, space, task):
    template, make = SPACES[space]
    template += " {mask}" if mapping == "masked" else ""
    model = frozen(build(family, mapping), family, mapping)[0]
    z = np.random.default_rng(0).standard_normal((K, 4))
    here = gfo.LocalEvaluator(model, TASKS[task](template), make(model))
    wanted = here.answers(z, here.task.all_rows("train"))
    with pretending(monkeypatch) as mode:
        twin = model.like(put(model.module))
        assert twin.device == DEVICE
        evaluator = gfo.LocalEvaluator(twin, TASKS[task](template), make(twin))
        batch = evaluator.task.all_rows("train")
        evaluator(z, 0)  # what is computed once
        mode.waits.clear()
        evaluator(z, 1)
        waits = dict(mode.waits)
        found = evaluator.answers(z, batch)
    if task == "generation":
        assert found == wanted
    else:
        torch.testing.assert_close(found.as_subclass(torch.Tensor), wanted, rtol=1e-4, atol=1e-5)
    most = WAITS[mapping] + (A_TOKEN[mapping] * 16 if task == "generation" else 0)
    if twin.states and task != "generation":  # texts of one length go together: a pass for each
        most += len({len(text) for text in batch.before}) - 1
    assert sum(waits.values()) <= most, waits


@pytest.mark.parametrize("beside", [False, True])
def test_structures_are_the_cpus(monkeypatch, beside):
    model = frozen(build("llama"), "llama", "causal")[0]

    def space(model):
        own = gfo.Structure(model, closed=3)
        return (
            gfo.ProductSpace(own, gfo.LoRASubspace(model, dim=4, rank=2, layers="upper")) if beside else own
        )

    d = space(model).domain.d
    z = np.random.default_rng(0).integers(0, 2, (K, d)).astype(float)
    for task in (gfo.Distance(ROWS, window=8), TASKS["classification"](PLAIN), TASKS["generation"](PLAIN)):
        here = gfo.LocalEvaluator(model, task, space(model))
        wanted = here(z, 0)
        with pretending(monkeypatch) as mode:
            twin = model.like(put(model.module))
            evaluator = gfo.LocalEvaluator(twin, task, space(twin))
            evaluator(z, 0)
            mode.waits.clear()
            found = evaluator(z, 1)
            waits = dict(mode.waits)
        np.testing.assert_allclose(found.loss, wanted.loss, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found.values["bytes"], wanted.values["bytes"])
        assert sum(waits.values()) <= (16 if isinstance(task, gfo.Generation) else 8), waits


def test_a_whole_search_runs(monkeypatch):
    model = frozen(build("llama", "causal"), "llama", "causal")[0]
    with pretending(monkeypatch):
        twin = model.like(put(model.module))
        result = gfo.tune(
            twin,
            gfo.Classification(ROWS, ROWS, ROWS, template=SOFT, labels=LABELS),
            gfo.SoftPrompt(twin, tokens=2, dim=4),
            budget=gfo.Budget(evaluations=32),
            progress=False,
        )
        result.score("test")
    assert 0 < result.scores["after"]["test"]["loss"] < 10


def test_the_device_refuses_what_a_gpu_does(monkeypatch):
    """The harness itself: each of these is seen."""
    with pretending(monkeypatch) as mode:
        x = there(torch.arange(6.0))
        for wrong in (lambda: x + torch.arange(6.0), lambda: torch.cat([x, torch.zeros(1)])):
            with pytest.raises(RuntimeError, match="tensors on cuda:0 and cpu"):
                wrong()
        for wrong in (lambda: x.numpy(), lambda: np.asarray(x)):
            with pytest.raises(TypeError, match="can't convert"):
                wrong()
        assert not mode.waits
        for asks in (
            lambda: x.sum().item(),
            lambda: bool(x.any()),
            lambda: x[x > 2],
            lambda: x.cpu(),
            lambda: x.to("cpu"),
            lambda: x.nonzero(),
            lambda: torch.where(x > 1),
        ):
            before = sum(mode.waits.values())
            asks()
            assert sum(mode.waits.values()) == before + 1
        done = sum(mode.waits.values())
        made = torch.zeros(3, device="cuda"), torch.arange(3.0).to(x.device), x[torch.tensor([0, 2])]
        assert {y.device for y in made} == {DEVICE}
        assert (x * 2 + 1.0).device == DEVICE
        assert sum(mode.waits.values()) == done
