"""In-context learning and the manual prompt: what stands in the rows, what fits, and plain forward passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from examples import LABELS, PLAIN, ROWS, TEXT_FIRST, make_task, tokens_computed
from torch.nn.functional import cross_entropy

from gfo import (
    BiasSpace,
    Budget,
    Classification,
    Distillation,
    LanguageModeling,
    LocalEvaluator,
    MultipleChoice,
    baselines,
)
from gfo.baselines import make
from gfo.baselines.prompts import Worded
from gfo.core.errors import GfoError
from gfo.spaces.parts.unchanged import Unchanged

SEPARATOR = ". "


def rows_of(method, number, split="test"):
    """Token ids of the rows that a number of demonstrations makes."""
    batch = method.judge._with(np.array([number])).task.all_rows(split)
    return [before + after for before, after in zip(batch.before, batch.after, strict=True)]


def manual_string(method, row, template=PLAIN):
    """What one would write by hand; the tiny tokenizer has no line breaks, and leaves them out."""
    shown = method.facts["demonstrations"]
    parts = [template.format(**ROWS[i]) + LABELS[ROWS[i]["label"]] + SEPARATOR for i in shown]
    return ("".join(parts) + template.format(**row)).replace("\n", "")


def plain_loss(model, sequences):
    words = [model.encode(word)[0] for word in LABELS.values()]
    losses = []
    for row, ids in zip(ROWS, sequences, strict=True):
        with torch.no_grad():
            logits = model.module(input_ids=torch.tensor([ids])).logits[:, -1, words]
        losses.append(cross_entropy(logits, torch.tensor([list(LABELS).index(row["label"])])))
    return float(torch.stack(losses).mean())


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("template", [PLAIN, TEXT_FIRST, "{soft}" + PLAIN])
def test_the_prompt_is_the_string_that_one_would_write(tiny, template, start):
    model = tiny("llama", start=start)
    method = make("in-context", model, make_task(template), k=3, seed=1, separator=SEPARATOR)
    for row, ids in zip(ROWS, rows_of(method, 3), strict=True):
        text = model.tokenizer.decode(ids)
        assert text == ("<s>" if start else "") + manual_string(method, row)
        assert list(ids).count(1) == start  # one start token, in front
    assert rows_of(method, 2)[0] != rows_of(method, 3)[0]


def test_losses_are_those_of_a_plain_forward_pass(tiny):
    model = tiny("llama", start=True)
    method = make("in-context", model, make_task(), k=3)
    scores = method.judge.score(np.array([[0.0], [3.0]]), "test").metrics["loss"]
    expected = [plain_loss(model, rows_of(method, number)) for number in (0, 3)]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert abs(scores[0] - scores[1]) > 1e-2


def test_the_demonstrations_are_computed_once(tiny):
    model = tiny("llama", start=True)
    method = make("in-context", model, make_task(), k=4)
    cost = method.judge.score(method.point[None], "test").cost
    rows = rows_of(method, 4)
    assert cost.tokens_needed == tokens_computed(rows) < 0.5 * sum(map(len, rows))


def test_demonstrations_are_balanced_and_drawn_by_the_seed(tiny):
    model = tiny("llama")
    task = make_task()
    draws = [make("in-context", model, task, k=4, seed=seed).facts["demonstrations"] for seed in range(8)]
    for shown in draws:
        assert len(set(shown)) == 4
        assert sorted(ROWS[i]["label"] for i in shown) == ["bad", "bad", "good", "good"]
    assert make("in-context", model, task, k=4, seed=0).facts["demonstrations"] == draws[0]
    assert len(set(map(tuple, draws))) > 4


def test_the_token_limit(tiny):
    """As many as fit in front of the longest row of all splits; one token more or less decides."""
    model = tiny("llama", start=True)
    method = make("in-context", model, make_task(), k=6)
    assert method.point[0] == 6
    for fewer in (5, 2):
        longest = max(map(len, rows_of(method, fewer)))
        limits = [longest, longest - 1]
        cut = [make("in-context", model, make_task(), k=6, max_tokens=limit) for limit in limits]
        assert [one.point[0] for one in cut] == [fewer, fewer - 1]
        assert max(map(len, rows_of(cut[0], fewer))) == longest
        assert cut[0].facts["demonstrations"] == method.facts["demonstrations"][:fewer]
    least = max(map(len, rows_of(method, 1)))
    assert make("in-context", model, make_task(), k=6, max_tokens=least).point[0] == 1
    with pytest.raises(GfoError, match=rf"does not fit in front of the longest row, of \d+, in {least - 1}"):
        make("in-context", model, make_task(), k=6, max_tokens=least - 1)


def test_the_context_is_the_limit(tiny):
    model = tiny("llama")
    long = [{**row, "text": row["text"] + " and the food was good" * 4} for row in ROWS]
    method = make("in-context", model, make_task(rows=long), k=6)
    used = int(method.point[0])
    assert 1 <= used < 6
    assert max(map(len, rows_of(method, used))) <= model.context_length
    one = make("in-context", model, make_task(rows=long), k=1).facts["demonstration_tokens"]
    room = model.context_length - max(map(len, rows_of(method, 0)))
    assert method.facts["demonstration_tokens"] <= room < method.facts["demonstration_tokens"] + one


@pytest.mark.parametrize("family_name", ["bert", "t5"])
def test_other_kinds_of_models(tiny, family_name):
    """A masked word is filled in; special tokens of start and end stay at the row's."""
    model = tiny(family_name)
    template = "{text} It was {mask}." if model.mask else "{text} It was"
    method = make("in-context", model, make_task(template), k=2, separator=SEPARATOR)
    (row, *_), ids = ROWS, rows_of(method, 2)[0]
    shown = [ROWS[i] for i in method.facts["demonstrations"]]
    filled = {"mask": ""} if model.mask else {}
    parts = []
    for demonstration in shown:
        text, word = template.format(**demonstration, **filled), LABELS[demonstration["label"]]
        parts.append(text[:-1] + word + "." if model.mask else text + word)
    mask = model.mask or ""
    text = SEPARATOR.join([*parts, template.format(**row, mask=mask)])
    assert model.tokenizer.decode(ids) == f"<s>{text}<s>"
    if model.mask:
        assert list(ids).count(model.read_token) == 1
    losses = method.judge.score(np.array([[0.0], [2.0]]), "test").metrics["loss"]
    assert abs(losses[0] - losses[1]) > 1e-3


def test_a_manual_prompt_is_a_plain_forward_pass(tiny):
    model = tiny("llama", start=True)
    losses = []
    for text in ("", "Say what it is."):
        result = baselines.run(
            "manual", model, make_task(), budget=Budget(evaluations=1), options={"text": text}, progress=False
        )
        parts = [(f"Review: {row['text']}\n", text, "Sentiment:") for row in ROWS]
        ids = [model.encode(a, start=True) + model.encode(b) + model.encode(c) for a, b, c in parts]
        losses.append(result.score("test")["loss"])
        assert losses[-1] == pytest.approx(plain_loss(model, ids), abs=1e-5)
        assert result.scores["before"] == result.scores["after"]
        assert result.stopped == "nothing to search"
        assert "train loss" not in str(result)  # nothing was trained
        assert result.scoring.tokens_needed == 2 * tokens_computed(ids)
    assert abs(losses[0] - losses[1]) > 1e-3


@pytest.mark.parametrize("kind", ["distillation", "multiple choice, characters", "masked"])
def test_a_manual_prompt_of_other_tasks(tiny, kind):
    """A batch with another key is scored as its own rows; the words matter."""
    model = tiny("bert" if kind == "masked" else "llama")
    rows = [{"text": row["text"]} for row in ROWS]
    if kind == "distillation":
        rows, dev = rows[:-2], rows[-2:]
        task = Distillation(rows, dev, template="{text}{soft}", teacher_template="Review: {text}")
    elif kind == "masked":
        dev, task = rows, LanguageModeling(rows, rows, template="{soft}{text}", window=12)
    else:
        rows = [{**row, "options": ["good", "a bad one"], "label": i % 2} for i, row in enumerate(rows)]
        dev = rows
        task = MultipleChoice(rows, rows, template="{text}{soft}", normalize="characters")
    words = [make("manual", model, task, text=text).judge for text in ("", "Say what it is.")]
    empty, said = (judge.score(np.zeros((1, 1)), "dev").metrics for judge in words)
    plain = LocalEvaluator(model, task, BiasSpace(model, dim=2)).score(np.zeros((1, 2)), "dev").metrics
    for name, value in empty.items():
        np.testing.assert_allclose(value, plain[name], rtol=1e-5)
    assert abs(empty["loss"] - said["loss"])[0] > 1e-4
    assert [metric.name for metric in words[0].metrics] == [*plain]


def test_a_manual_text_without_a_place(tiny):
    make("manual", tiny("llama"), make_task(PLAIN))
    with pytest.raises(GfoError, match=r"text = 'so: ', but the template has no \{soft\} for it"):
        make("manual", tiny("llama"), make_task(PLAIN), text="so: ")


def test_a_task_without_label_words(tiny):
    class Other:
        def bind(self, tokenizer):
            return make_task().bind(tokenizer)

    with pytest.raises(GfoError, match=r"'in-context' shows label words; give it a gfo\.Classification"):
        make("in-context", tiny("llama"), Other())
    assert isinstance(make_task(), Classification)


@pytest.mark.parametrize("normalize", ["mean", "sum"])
def test_rows_with_words_are_found_again(tiny, normalize):
    """Distillation and MultipleChoice ask where a batch's rows come from, not what it is called."""
    model = tiny("llama")
    rows = [{"text": "good food", "options": ["good", "bad food"], "label": 0}]
    rows += [{"text": "bad food", "options": ["a waste", "great", "bad"], "label": 1}]
    tasks = (
        Distillation(rows, template="{text}{soft} It was", teacher_template="so {text} It was"),
        MultipleChoice(rows, template="{text}{soft} It was", options="options", normalize=normalize),
    )
    for task in tasks:
        bound = Worded(task, soft=model.encode(" very")).bind(model)
        plain = task.bind(model)
        batch, same = bound.batch("train", 0), plain.batch("train", 0)
        assert batch.key != same.key
        assert (batch.split, batch.numbers) == (same.split, same.numbers) == ("train", (0, 1))
        evaluator = LocalEvaluator(model, Worded(task, soft=model.encode(" very")), Unchanged(model))
        with_word = evaluator(np.zeros((1, 1)), 0).loss
        assert np.isfinite(with_word).all()
        without = LocalEvaluator(model, task, Unchanged(model))(np.zeros((1, 1)), 0).loss
        assert not np.allclose(with_word, without)  # control
