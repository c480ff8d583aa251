"""Label words of several tokens, several words a label and calibration, against plain forward passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain import Words, plain_log_likelihood, plain_logits, prompts, refused

from gfo import Classification, LocalEvaluator, SoftPrompt
from gfo.tasks.parts.label_words import LabelWords, words_by_label

TEMPLATE = "Review: {text}\n{soft}Sentiment:"
ROWS = [
    {"text": f"the food was {word}", "label": label}
    for word, label in (("good", "good"), ("bad", "bad"), ("terrible", "bad"), ("a joy", "good"))
]
LONG = {"bad": [" not a joy", " terrible"], "good": " very great"}
Z = np.random.default_rng(0).standard_normal((3, 8))


def evaluated(model, labels, template=TEMPLATE, **options):
    """The task bound, the evaluator, and the prompts of the candidates Z."""
    task = Classification(ROWS, template=template, labels=labels, **options)
    space = SoftPrompt(model, 2, 8)
    evaluator = LocalEvaluator(model, task, space)
    return evaluator.task, evaluator, prompts(space, Z)


def plain_scores(model, batch, prompt, words, *, mean):
    """Scores [B, C] by whole sequences: the logarithm of the words' mean probability."""
    rows = []
    for before, after in zip(batch.before, batch.after, strict=True):
        row = []
        for some in words.values():
            likelihoods = []
            for word in some:
                ids = model.encode(word)
                found = plain_log_likelihood(model, before, prompt, after, ids)
                likelihoods.append(found / len(ids) if mean else found)
            row.append(np.log(np.mean(np.exp(likelihoods))))
        rows.append(row)
    return torch.tensor(np.array(rows), dtype=torch.float32)


@pytest.mark.parametrize("normalize", ["sum", "mean"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_whole_words_against_full_forward_passes(tiny, family, normalize):
    model = tiny(family)
    task, evaluator, found = evaluated(model, LONG, normalize=normalize)
    batch = task.all_rows("train")
    assert batch.vocabulary is None
    scores = task.scores(evaluator.answers(Z, batch), batch)
    words = words_by_label(LONG)
    for k, prompt in enumerate(found):
        plain = plain_scores(model, batch, prompt, words, mean=normalize == "mean")
        torch.testing.assert_close(scores[k], plain, rtol=1e-4, atol=1e-4)
        other = plain_scores(model, batch, prompt, words, mean=normalize != "mean")
        assert (scores[k] - other).abs().max() > 0.1
    expected = [torch.nn.functional.cross_entropy(s, torch.tensor(batch.target)) for s in scores]
    np.testing.assert_allclose(evaluator(Z, 0).loss, expected, rtol=1e-5)


def test_one_token_a_word_reads_logits(tiny):
    """And gives the losses that the words' likelihoods give."""
    model = tiny("llama")
    labels = {"bad": " terrible", "good": " great"}
    task, evaluator, found = evaluated(model, labels)
    batch = task.all_rows("train")
    assert batch.vocabulary == tuple(model.encode(word)[0] for word in labels.values())
    assert batch.endings == ()
    answers = evaluator.answers(Z, batch)
    for k, prompt in enumerate(found):
        plain = plain_scores(model, batch, prompt, words_by_label(labels), mean=False)
        torch.testing.assert_close(answers[k].log_softmax(-1), plain.log_softmax(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("loss", ["ce", "hinge"])
@pytest.mark.parametrize("labels", [{"bad": " terrible", "good": " great"}, LONG])
def test_confidence_is_the_right_words_own_likelihood(tiny, labels, loss):
    model = tiny("llama")
    task, evaluator, found = evaluated(model, labels, loss=loss, confidence=0.3)
    batch = task.all_rows("train")
    assert batch.vocabulary is None  # logits of the labels alone would not say it
    losses, own = evaluator(Z, 0).loss, []
    without = evaluated(model, labels, loss=loss)[1](Z, 0).loss
    for prompt in found:
        plain = plain_scores(model, batch, prompt, words_by_label(labels), mean=False)
        own.append(-float(plain[torch.arange(len(batch)), torch.tensor(batch.target)].mean()))
    np.testing.assert_allclose(losses, without + 0.3 * np.array(own), rtol=1e-5)
    assert (losses - without > 0.1).all()


def test_confidence_that_cannot_be_had(tiny):
    bad = [
        ({"confidence": -1.0}, "confidence = -1.0: give a number of at least 0"),
        ({"confidence": float("nan")}, "give a number"),
        ({"confidence": 0.1, "loss": "accuracy"}, "takes no second term"),
        ({"confidence": 0.1, "calibration": "contextual"}, "leave out calibration"),
        ({"confidence": 0.1, "normalize": "mean"}, "leave out calibration"),
    ]
    for options, message in bad:
        refused(lambda o=options: Classification(ROWS, template=TEMPLATE, labels=LONG, **o), message)
    labels, masked = {"bad": " terrible", "good": " great"}, "{text}{soft} It was{mask}."
    refused(
        lambda: evaluated(tiny("bert"), labels, masked, confidence=0.1), "this model reads the whole text"
    )


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
def test_several_words_a_label_have_their_mean_probability(tiny, family):
    model = tiny(family)
    masked = model.reads == "mask"
    template = "{text}{soft} It was{mask}." if masked else TEMPLATE
    labels = {"bad": [" terrible", " bad"], "good": [" great"]}
    task, evaluator, _ = evaluated(model, labels, template)
    batch = task.all_rows("train")
    answers = evaluator.answers(Z, batch)  # logits of the three words
    p = answers.double().softmax(-1)
    expected = torch.stack([(p[..., 0] + p[..., 1]) / 2, p[..., 2]], -1)
    expected = expected / expected.sum(-1, keepdim=True)
    torch.testing.assert_close(
        task.scores(answers, batch).double().softmax(-1), expected, rtol=1e-5, atol=1e-6
    )
    one, *_ = evaluated(model, {"bad": " terrible", "good": " great"}, template)
    assert (one.scores(answers[..., [0, 2]], batch).double().softmax(-1) - expected).abs().max() > 0.01


@pytest.mark.parametrize("labels", [{"bad": " terrible", "good": " great"}, LONG])
def test_contextual_calibration_by_hand(tiny, labels):
    """softmax of what diag(p_cf)^-1 p gives, renormalized, p and p_cf from plain forward passes."""
    model = tiny("llama")
    task, evaluator, found = evaluated(model, labels, calibration="contextual")
    plain_task, plain_evaluator, _ = evaluated(model, labels)
    batch, uncalibrated = task.all_rows("train"), plain_task.all_rows("train")
    assert len(batch) == len(ROWS) + 3
    assert len(batch.target) == len(ROWS)
    assert task.batch("train", 0).after == batch.after
    probability = task.scores(evaluator.answers(Z, batch), batch).softmax(-1)
    words = words_by_label(labels)
    for k, prompt in enumerate(found):
        p = plain_scores(model, uncalibrated, prompt, words, mean=False).softmax(-1)
        free = []
        for text in ("N/A", "", "[MASK]"):
            before = model.encode(f"Review: {text}\n", start=True)
            after = model.encode("Sentiment:")
            one = type(batch)(("",), (before,), (after,), None, batch.target)
            free.append(plain_scores(model, one, prompt, words, mean=False).softmax(-1)[0])
        ratio = p / torch.stack(free).mean(0)
        expected = ratio / ratio.sum(-1, keepdim=True)
        torch.testing.assert_close(probability[k], expected, rtol=1e-4, atol=1e-5)
        assert (expected - p).abs().max() > 0.01
        said = (ratio.softmax(-1)).argmax(-1)  # the paper's equation
        assert torch.equal(said, probability[k].argmax(-1))
    calibrated, plain = evaluator.score(Z, "train").metrics, plain_evaluator.score(Z, "train").metrics
    assert (np.abs(calibrated["loss"] - plain["loss"]) > 0.001).all()


def test_calibration_of_a_masked_language_model(tiny):
    """Two content-free rows: the mask is the answer's place alone."""
    task, evaluator, _ = evaluated(
        tiny("bert"),
        {"bad": " terrible", "good": " great"},
        "{text}{soft} It was{mask}.",
        calibration="contextual",
    )
    batch = task.all_rows("train")
    assert len(batch) == len(ROWS) + 2
    assert np.isfinite(evaluator(Z, 0).loss).all()


def test_masked_words_against_a_plain_forward_pass(tiny):
    model = tiny("roberta")
    labels = {"bad": [" terrible", " bad"], "good": [" great", " good"]}
    task, evaluator, found = evaluated(model, labels, "{text}{soft} It was{mask}.")
    batch = task.all_rows("train")
    answers = evaluator.answers(Z, batch)
    ids = [model.encode(word)[0] for some in labels.values() for word in some]
    for b, (before, after) in enumerate(zip(batch.before, batch.after, strict=True)):
        logits = plain_logits(model, before, found[1], after)
        at = len(before) + 2 + after.index(model.read_token)
        torch.testing.assert_close(answers[1, b], logits[at, ids], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("loss", ["hinge", "accuracy", "macro_f1", "accuracy+ce"])
def test_every_loss_comes_out_of_the_evaluator(tiny, loss):
    _, evaluator, _ = evaluated(tiny("llama"), LONG, loss=loss)
    metrics = evaluator.score(Z, "train").metrics
    np.testing.assert_allclose(metrics["loss"], evaluator(Z, 0).loss, rtol=1e-6)
    assert set(metrics) == {"loss", "ce", "accuracy", "macro_f1"}
    if loss in ("accuracy", "macro_f1"):
        np.testing.assert_allclose(metrics["loss"], 1 - metrics[loss])


def test_the_losses_are_differentiable_through_words_and_calibration():
    task = Classification(ROWS, template=TEMPLATE, labels=LONG, calibration="contextual").bind(Words())
    batch = task.all_rows("train")
    answers = torch.randn(2, len(ROWS) + 3, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(task.loss(answers, batch).sum(), answers)
    assert (gradient.abs() > 0).all()
    assert gradient.isfinite().all()


def test_words_by_label():
    assert words_by_label({1: " a", "b": [" c", " d"]}) == {"1": (" a",), "b": (" c", " d")}


@pytest.mark.parametrize("words", [[], [" a", ""], [" a", 3]])
def test_labels_with_bad_words(words):
    refused(lambda: words_by_label({"x": " y", "z": words}), "labels", "'z'", "give it")


def test_words_that_cannot_be_told_apart():
    refused(
        lambda: LabelWords(words_by_label({"a": [" x y", " z"], "b": " x  y"}), Words()),
        "' x y' for 'a'",
        "' x  y' for 'b'",
        "same tokens",
    )
    refused(
        lambda: LabelWords(words_by_label({"a": " x", "b": " x y"}), Words()),
        "' x' for 'a'",
        "' x y' for 'b'",
        "never the less likely",
        'normalize = "mean"',
    )
    assert LabelWords(words_by_label({"a": " x", "b": " x y"}), Words(), "mean").endings == ((1,), (1, 2))
    assert LabelWords(words_by_label({"a": [" x", " x y"], "b": " y"}), Words()).endings


def test_a_word_of_several_tokens_for_a_mask():
    refused(
        lambda: LabelWords(words_by_label({"a": " x", "b": [" y", " not so"]}), Words("mask")),
        "' not so' for 'b'",
        "2 tokens",
        "one token",
    )
    words = LabelWords(words_by_label({"a": " x", "b": [" y", " so"]}), Words("mask"))
    assert words.vocabulary == (1, 2, 3)


def test_unknown_names():
    for option, value, near in (("normalize", "summ", "sum"), ("calibration", "contxtual", "contextual")):
        refused(
            lambda option=option, value=value: Classification(
                ROWS, template=TEMPLATE, labels=LONG, **{option: value}
            ),
            f"unknown {option} '{value}'",
            f"did you mean '{near}'",
        )
