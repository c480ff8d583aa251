"""Teachers against plain forward passes, divergences by hand, where logits are kept, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain import Words, plain_logits, prompts, refused

from gfo import Distillation, LocalEvaluator, SoftPrompt
from gfo.core.protocols import BoundTask, Reader, Task
from gfo.tasks import distillation

TEMPLATE = "{text}\n{soft}Say:"
LONG = "Say in one word what the writer thinks about it: {text}\nSay:"
WORDS = {"bad": [" terrible", " bad"], "good": " great"}
TEXTS = ["the food was good", "the movie is a great joy", "it was bad", "a waste of time, so bad"]
ROWS = [{"text": text, "label": "bad" if "bad" in text else "good"} for text in TEXTS]
Z = np.random.default_rng(0).standard_normal((3, 8))


def evaluator_of(model, task):
    space = SoftPrompt(model, 2, 8)
    return LocalEvaluator(model, task, space), prompts(space, Z)


def divergence(teacher, student, loss, T):
    """T^2 KL or cross-entropy of rows of logits, summed term by term in float64."""
    p, q = ((logits.double() / T).softmax(-1) for logits in (teacher, student))
    terms = p * (p.log() - q.log()) if loss == "kl" else -p * q.log()
    return T**2 * float(terms.sum(-1).mean())


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "bert", "t5"])
def test_reading_against_plain_forward_passes(tiny, family):
    model = tiny(family)
    assert isinstance(model, Reader)
    mask = model.mask or ""
    rows = [model.encode(f"{text} It was{mask} so", start=True, end=True) for text in (*TEXTS, TEXTS[0])]
    found = model.read(rows, None)
    for row, logits in zip(rows, found, strict=True):
        if family == "t5":
            ids = {"input_ids": torch.tensor([row]), "decoder_input_ids": torch.tensor([[0]])}
            plain = model.module(**ids).logits[0, -1].detach()
        else:
            plain = plain_logits(model, row, None, ())[row.index(model.read_token) if mask else -1]
        torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-4)
    assert (found[0] - found[1]).abs().max() > 0.1
    torch.testing.assert_close(model.read(rows, (5, 7)), found[:, [5, 7]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("loss", ["kl", "ce"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_same_model_with_an_instruction(tiny, loss, temperature):
    model = tiny("llama")
    options = {"template": TEMPLATE, "teacher_template": LONG, "loss": loss, "temperature": temperature}
    evaluator, found = evaluator_of(model, Distillation(ROWS, **options))
    batch = evaluator.task.all_rows("train")
    assert batch.vocabulary is None
    teacher = torch.stack(
        [plain_logits(model, model.encode(LONG.format(text=t)), None, ())[-1] for t in TEXTS]
    )
    expected = []
    for prompt in found:
        student = [
            plain_logits(model, before, prompt, after)[-1]
            for before, after in zip(batch.before, batch.after, strict=True)
        ]
        expected.append(divergence(teacher, torch.stack(student), loss, temperature))
    np.testing.assert_allclose(evaluator(Z, 0).loss, expected, rtol=1e-4)
    other, _ = evaluator_of(model, Distillation(ROWS, **{**options, "teacher_template": "{text}\nSay:"}))
    assert (np.abs(other(Z, 0).loss - expected) > 1e-3).all()


def test_another_model_as_teacher(tiny):
    model, teacher = tiny("llama"), tiny("gpt2")
    evaluator, _ = evaluator_of(model, Distillation(ROWS, template=TEMPLATE, teacher=teacher))
    batch = evaluator.task.all_rows("train")
    answers = evaluator.answers(Z, batch)
    rows = [teacher.encode(f"{text}\nSay:") for text in TEXTS]
    taught = torch.stack([plain_logits(teacher, row, None, ())[-1] for row in rows])
    expected = [divergence(taught, student, "kl", 1.0) for student in answers]
    np.testing.assert_allclose(evaluator(Z, 0).loss, expected, rtol=1e-4)


@pytest.mark.parametrize("over", ["vocabulary", "labels"])
def test_scores_with_labels(tiny, over):
    model = tiny("llama")
    task = Distillation(ROWS, template=TEMPLATE, teacher_template=LONG, labels=WORDS, over=over)
    evaluator, _ = evaluator_of(model, task)
    batch = evaluator.task.all_rows("train")
    answers = evaluator.answers(Z, batch)
    assert answers.shape[-1] == (3 if over == "labels" else model.vocabulary_size)
    ids = [model.encode(word)[0] for word in (" terrible", " bad", " great")]
    taught = model.read([model.encode(LONG.format(text=text)) for text in TEXTS], None)

    def of_labels(logits):  # mean probability of the words
        p = logits.double().softmax(-1)
        return torch.stack([(p[..., ids[0]] + p[..., ids[1]]) / 2, p[..., ids[2]]], -1)

    student = answers if over == "vocabulary" else torch.full((3, 4, model.vocabulary_size), -torch.inf)
    if over == "labels":
        student[..., ids] = answers
    target = np.array([row["label"] == "good" for row in ROWS])
    metrics = evaluator.score(Z, "train").metrics
    said, right = (of_labels(logits).argmax(-1).numpy() for logits in (student, taught))
    np.testing.assert_allclose(metrics["accuracy"], (said == target).mean(-1))
    np.testing.assert_allclose(metrics["teacher_accuracy"], [(right == target).mean()] * 3)
    likeliest = [
        logits.argmax(-1) if over == "vocabulary" else of_labels(logits).argmax(-1)
        for logits in (student, taught)
    ]
    np.testing.assert_allclose(metrics["agreement"], (likeliest[0] == likeliest[1]).double().mean(-1))
    np.testing.assert_allclose(metrics["loss"], evaluator(Z, 0).loss)
    if over == "labels":
        expected = [
            divergence(of_labels(taught).log(), of_labels(logits).log(), "kl", 1.0) for logits in student
        ]
        np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-4)


def test_unlabelled_rows():
    """Training rows without labels, dev rows with."""
    unlabelled = [{"text": f"so {text}"} for text in TEXTS]
    task = Distillation(unlabelled, ROWS, template=TEMPLATE, teacher_template=LONG, labels=WORDS)
    assert set(task.targets) == {"dev"}
    assert isinstance(task, Task)
    refused(
        lambda: Distillation(unlabelled, template=TEMPLATE, teacher_template=LONG, labels=WORDS),
        "no row has its label",
        "label_field 'label'",
    )
    refused(
        lambda: Distillation([*ROWS, *unlabelled], template=TEMPLATE, teacher_template=LONG, labels=WORDS),
        "train row 5",
        "label_field",
    )


class Counting:
    """A teacher that counts what it reads."""

    def __init__(self, model):
        self._model, self.rows = model, []

    def __getattr__(self, name):
        return getattr(self._model, name)

    def encode(self, text, **options):
        return self._model.encode(text, **options)

    def decode(self, rows):
        return self._model.decode(rows)

    def read(self, rows, vocabulary):
        self.rows += rows
        return self._model.read(rows, vocabulary)


def test_a_split_is_read_once_and_only_when_asked_for(tiny):
    model = tiny("llama")
    teacher = Counting(model)
    dev = [{"text": f"so {text}"} for text in TEXTS]
    options = {"template": TEMPLATE, "teacher_template": LONG, "teacher": teacher, "batch_size": 2}
    evaluator, _ = evaluator_of(model, Distillation(ROWS, dev, **options))
    assert isinstance(evaluator.task, BoundTask)
    assert teacher.rows == []
    for step in range(3):
        evaluator(Z, step)
    assert len(teacher.rows) == len(ROWS)
    evaluator.score(Z, "dev")
    evaluator.score(Z, "dev")
    assert len(teacher.rows) == 2 * len(ROWS)


def test_large_logits_lie_in_a_file(tiny, monkeypatch):
    model = tiny("llama")
    task = Distillation(ROWS, template=TEMPLATE, teacher_template=LONG)
    evaluator, _ = evaluator_of(model, task)
    expected = evaluator(Z, 0).loss
    assert not isinstance(evaluator.task._known["train"][1], np.memmap)
    monkeypatch.setattr(distillation, "IN_MEMORY", 4 * len(ROWS) * model.vocabulary_size - 1)
    monkeypatch.setattr(distillation, "ROWS_AT_ONCE", 3)
    evaluator, _ = evaluator_of(model, task)
    assert evaluator(Z, 0).loss.tolist() == expected.tolist()
    assert isinstance(evaluator.task._known["train"][1], np.memmap)


def test_minibatches_are_compared_with_their_own_rows(tiny):
    model = tiny("llama")
    options = {"template": TEMPLATE, "teacher_template": LONG}
    drawn, _ = evaluator_of(model, Distillation(ROWS, batch_size=1, **options))
    each = [evaluator_of(model, Distillation([row], **options))[0](Z, 0).loss for row in ROWS]
    for step in range(4):
        ((row,),) = [drawn.task.batch("train", step).target]
        np.testing.assert_allclose(drawn(Z, step).loss, each[row], rtol=1e-4)
    assert np.abs(each[0] - each[1]).max() > 1e-3


def test_masked_language_models(tiny):
    model, teacher = tiny("bert"), tiny("roberta")
    options = {"template": "{text}{soft} It was{mask}.", "teacher_template": "So {text} It was{mask}."}
    evaluator, found = evaluator_of(model, Distillation(ROWS, teacher=teacher, labels=WORDS, **options))
    batch = evaluator.task.all_rows("train")
    mask = model.read_token
    rows = [teacher.encode(f"So {text} It was{teacher.mask}.", start=True, end=True) for text in TEXTS]
    taught = torch.stack([plain_logits(teacher, row, None, ())[row.index(mask)] for row in rows])
    for k, prompt in enumerate(found):
        student = [
            plain_logits(model, before, prompt, after)[len(before) + 2 + after.index(mask)]
            for before, after in zip(batch.before, batch.after, strict=True)
        ]
        expected = divergence(taught, torch.stack(student), "kl", 1.0)
        np.testing.assert_allclose(evaluator(Z, 0).loss[k], expected, rtol=1e-4)


def test_differentiable_and_failed(tiny):
    model = tiny("llama")
    task = Distillation(ROWS, template=TEMPLATE, teacher_template=LONG, labels=WORDS).bind(model)
    batch = task.all_rows("train")
    answers = torch.randn(2, 4, model.vocabulary_size, requires_grad=True)
    (gradient,) = torch.autograd.grad(task.loss(answers, batch).sum(), answers)
    p = model.read([model.encode(LONG.format(text=text)) for text in TEXTS], None).softmax(-1)
    torch.testing.assert_close(gradient[1], (answers[1].detach().softmax(-1) - p) / 4, rtol=1e-3, atol=1e-6)
    bad = answers.detach().clone()
    bad[1, 2, 3] = torch.nan
    for name, values in task.score(bad, batch).items():
        assert np.isnan(values).tolist() == [False, True], name


def test_bad_arguments(tiny):
    model = tiny("llama")

    def bound(tokenizer=model, **options):
        Distillation(ROWS, **{"template": TEMPLATE, "teacher_template": LONG} | options).bind(tokenizer)

    refused(lambda: bound(teacher_template=None), "give a teacher", "teacher_template")
    refused(lambda: bound(teacher_template="{soft}{text}"), "teacher_template", "no {soft}", "leave it out")
    refused(lambda: bound(teacher_template="{txt}"), "train row 1", "did you mean 'text'")
    refused(lambda: bound(loss="kld"), "unknown loss 'kld'", "did you mean 'kl'")
    refused(lambda: bound(over="label"), "unknown over 'label'", "did you mean 'labels'")
    refused(lambda: bound(over="labels"), "over = 'labels'", "give labels")
    for temperature in (0, -1.0, np.inf):
        refused(lambda t=temperature: bound(temperature=t), f"temperature = {temperature}", "above 0")
    refused(lambda: bound(labels={"bad": " not good", "good": " great"}), "labels", "several tokens")
    refused(
        lambda: bound(teacher=tiny("llama", vocab_size=300)),
        "300 tokens",
        "the model's 200",
        "same tokenizer",
    )
    refused(lambda: bound(teacher=tiny("llama", start=True)), "tokens of train row 1", "same tokenizer")
    refused(lambda: bound(teacher=tiny("bert")), "reads the mask", "the model the next")
    refused(lambda: bound(Words()), "a Words cannot read", "gfo.load_model")
    refused(
        lambda: bound(teacher_template="so good " * 60 + "{text}"),
        "train row 1",
        "context has 128",
        "shorten",
    )
    refused(lambda: Distillation([], template=TEMPLATE, teacher_template=LONG), "train has no rows")
