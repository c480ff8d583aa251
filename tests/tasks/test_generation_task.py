"""The task side of generation: texts from tokens, losses, failing functions, unusable input."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import sacrebleu

from gfo import Generation, GfoError, GfoWarning
from gfo.core.protocols import BoundTask, Task, Tokenizer

TEMPLATE = "Review: {text}\n{soft}Say:"
ROWS = [
    {"text": "the food", "target": "it was good"},
    {"text": "the movie", "target": "a great joy"},
    {"text": "the service", "target": "a terrible waste of time"},
]
GOOD = ["it was good", "a great joy", "terrible"]


@pytest.fixture
def model(tiny):
    return tiny("llama")


def bound(model, rows=ROWS, **options):
    return Generation(rows, **{"template": TEMPLATE} | options).bind(model)


def answers(model, *candidates):
    return [None if texts is None else [model.encode(text) for text in texts] for texts in candidates]


def test_protocols(model):
    assert isinstance(model, Tokenizer)
    assert isinstance(Generation(ROWS, template=TEMPLATE), Task)
    assert isinstance(bound(model), BoundTask)


def test_a_batch(model):
    task = bound(model, max_tokens=7, temperature=0.5, seed=3)
    batch = task.all_rows("train")
    assert batch.vocabulary is None
    assert batch.endings == ()
    assert list(batch.target) == ROWS
    assert batch.before[1] == model.encode("Review: the movie\n")
    assert set(batch.after) == {model.encode("Say:")}
    decoding = batch.decoding
    assert (decoding.max_tokens, decoding.temperature, decoding.seed) == (7, 0.5, 3)


def test_a_row_drawn_at_random_keeps_its_target(model):
    task = bound(model, batch_size=2)
    seen = set()
    for step in range(8):
        batch = task.batch("train", step)
        for row, before in zip(batch.target, batch.before, strict=True):
            assert before == model.encode(f"Review: {row['text']}\n")
            seen.add(row["text"])
        assert not batch.recurs
    assert len(seen) == 3


def test_losses_by_hand(model):
    task = bound(model, metric="token_f1")
    batch = task.all_rows("train")
    loss = task.loss(answers(model, GOOD, ["", "", ""]), batch)
    f1 = 2 * 1 * (1 / 4) / (1 + 1 / 4)  # "terrible", "terrible waste of time"
    assert loss == pytest.approx([1 - (1 + 1 + f1) / 3, 1])
    scores = task.score(answers(model, GOOD, ["", "", ""]), batch)
    assert set(scores) == {"loss", "token_f1", "answer_tokens"}
    assert scores["loss"] == pytest.approx(loss)
    assert scores["token_f1"] == pytest.approx(1 - loss)
    tokens = [len(model.encode(text)) for text in GOOD]
    assert scores["answer_tokens"] == pytest.approx([sum(tokens) / 3, 0])


def test_bleu_of_the_batch_is_not_the_mean_of_rows(model):
    task = bound(model, metric="bleu")
    outputs = ["it was good", "a great joy", "a waste of time"]
    loss = task.loss(answers(model, outputs), task.all_rows("train"))
    targets = [row["target"] for row in ROWS]
    assert loss == pytest.approx([1 - sacrebleu.corpus_bleu(outputs, [targets]).score / 100])
    rows = [sacrebleu.sentence_bleu(o, [t]).score / 100 for o, t in zip(outputs, targets, strict=True)]
    assert abs(loss[0] - (1 - np.mean(rows))) > 0.05


def test_several_references_a_row(model):
    rows = [{**row, "targets": [row["target"], "who knows"]} for row in ROWS]
    outputs = answers(model, ["who knows"] * 3, GOOD)
    one, several = (bound(model, rows, target=field) for field in ("target", "targets"))
    assert several.loss(outputs, several.all_rows("train")) == pytest.approx([0, 1 / 3])
    assert one.loss(outputs, one.all_rows("train")) == pytest.approx([1, 1 / 3])
    mixed = bound(model, [*rows[:1], *ROWS[1:]], target=["targets", "target"])
    assert mixed.loss(outputs, mixed.all_rows("train")) == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize("metric", ["exact_match", "bleu", "regex", lambda outputs, rows: [0.5] * len(rows)])
def test_a_failed_candidate_is_nan_and_the_others_are_not(model, metric):
    task = bound(model, metric=metric, pattern=r"\w+" if metric == "regex" else None)
    batch = task.all_rows("train")
    good = answers(model, GOOD)[0]
    found = [None, good, [good[0], None, good[2]]]
    scores = task.score(found, batch)
    assert set(scores) > {"loss", "answer_tokens"}
    for values in (task.loss(found, batch), *scores.values()):
        assert np.isnan(values).tolist() == [True, False, True]


def by_length(outputs, rows):
    return [len(text) for text in outputs]


def test_a_function_of_the_user(model):
    seen = []

    def function(outputs, rows):
        seen.append((outputs, rows))
        return by_length(outputs, rows)

    task = bound(model, metric=function)
    scores = task.score(answers(model, GOOD, ["a", "b", "c"]), task.all_rows("train"))
    assert scores["score"] == pytest.approx([sum(map(len, GOOD)) / 3, 1])
    assert scores["loss"] == pytest.approx(1 - scores["score"])
    assert seen == [(GOOD, ROWS), (["a", "b", "c"], ROWS)]


def raises(outputs, rows):
    raise KeyError("no such thing")


FAILURES = {
    "KeyError: 'no such thing'": raises,
    "shape (2,) for 3 outputs": lambda outputs, rows: [1, 2],
    "shape () for 3 outputs": lambda outputs, rows: 1.0,
    "nan for row 2": lambda outputs, rows: [1, math.nan, 2],
    "inf for row 3": lambda outputs, rows: [1, 2, math.inf],
    "could not convert string to float": lambda outputs, rows: ["good", 1, 2],
    "shape () for 3": lambda outputs, rows: None,
    "TypeError": lambda outputs, rows: {},
}


@pytest.mark.parametrize("words", FAILURES)
def test_a_function_that_fails_is_reported_once(model, words):
    def function(outputs, rows):
        return FAILURES[words](outputs, rows) if outputs[0] == "bad" else by_length(outputs, rows)

    task = bound(model, metric=function)
    batch = task.all_rows("train")
    outputs = answers(model, ["a", "b", "c"], ["bad", "b", "c"], ["bad", "b", "c"], GOOD)
    with pytest.warns(GfoWarning, match=r"candidate 2 of 4, whose loss is nan") as told:
        loss = task.loss(outputs, batch)
    assert len(told) == 1
    assert words in str(told[0].message)
    assert np.isnan(loss).tolist() == [False, True, True, False]
    again = task.loss(outputs, batch)  # silent: pytest makes an error of every warning
    assert np.array_equal(again, loss, equal_nan=True)


def test_ctrl_c_in_a_function_passes(model):
    def function(outputs, rows):
        raise KeyboardInterrupt

    task = bound(model, metric=function)
    with pytest.raises(KeyboardInterrupt):
        task.loss(answers(model, GOOD), task.all_rows("train"))


def test_an_error_of_gfo_is_not_taken_for_the_users(model, monkeypatch):
    task = bound(model)
    monkeypatch.setattr(task, "answer_texts", lambda rows: ["one text for three rows"])
    with pytest.raises(ValueError, match="zip"):
        task.loss(answers(model, GOOD), task.all_rows("train"))


@pytest.mark.parametrize(
    ("stop", "text", "expected"),
    [
        (("!",), " good !and more", "good"),
        (("!",), "good, and more ", "good, and more"),
        (("and", "!"), "good!and more", "good"),
        (("!", "and"), "good and! more", "good"),
        ("and", "good and more", "good"),
        ((), "good!and more", "good!and more"),
        (("!",), "!good", ""),
    ],
)
def test_texts_are_cut_at_the_first_stop(model, stop, text, expected):
    assert bound(model, stop=stop).answer_texts([model.encode(text)]) == [expected]


def test_special_tokens_are_no_text(model):
    end = model.tokenizer.eos_token_id
    assert bound(model).answer_texts([(*model.encode("good"), end, end)]) == ["good"]
    assert bound(model).answer_texts([model.encode("good") * 2]) != ["good"]  # control


def test_tokens_that_stop(model):
    """All that hold a stop text behind nothing but blanks, and the model's ends."""
    texts = [model.tokenizer.decode([token]) for token in range(model.vocabulary_size)]
    marks = {token for token, text in enumerate(texts) if "!" in text}
    assert marks
    assert bound(model, stop="!").decoding.stop == marks | {2}
    assert bound(model, stop=()).decoding.stop == {2}
    inside = {token for token, text in enumerate(texts) if "oo" in text}  # "oo", "ood", "good", ...
    ahead = {token for token in inside if texts[token].partition("oo")[0].strip()}
    assert ahead
    assert ahead != inside
    with pytest.warns(GfoWarning, match=r"train: 1 of 3 targets \(33%\) are not scored as right by 'exact_"):
        assert bound(model, stop="oo").decoding.stop == (inside - ahead) | {2}


@pytest.mark.parametrize(
    ("metric", "target", "words"),
    [
        ("rouge1", "ดี", r"1 of 2 targets \(50%\).*letters a to z"),
        ("rougeL", "好的", "letters a to z"),
        ("bleu", "yes", r"the targets themselves reach 0\.000.*runs of four words"),
        ("token_f1", "", "1 of 2 targets"),
        ("exact_match", "two\nlines", "1 of 2 targets .*such as 'two'"),
    ],
)
def test_targets_that_no_output_reaches(model, metric, target, words):
    long = "the movie is a great joy from the first minute"
    rows = [{"text": "a", "target": target}, {"text": "b", "target": target if metric == "bleu" else long}]
    with pytest.warns(GfoWarning, match=words):
        bound(model, rows, metric=metric)
    bound(model, [{"text": "a", "target": long}], metric=metric)  # control: silent


def test_ends_of_the_generation_config(tiny):
    model = tiny("llama", seed=1)
    assert model.end_tokens == {2}
    other = tiny("llama", seed=2)
    other.module.generation_config.eos_token_id = [5, 7]
    try:
        assert other.end_tokens == {2, 5, 7}
    finally:
        other.module.generation_config.eos_token_id = 2


def test_a_pattern_that_never_matches(model):
    rows = [{"text": row["text"], "target": word} for row, word in zip(ROWS, "abc", strict=True)]
    task = bound(model, rows, metric="regex", pattern=r"is (\w)")
    batch = task.all_rows("train")
    assert task.loss(answers(model, GOOD, ["it is a", "is b", "c"]), batch) == pytest.approx([1, 1 / 3])
    with pytest.warns(GfoWarning, match=re.escape(r"pattern = 'is (\\w)' matches 0 of 6 answers (0.0 %)")):
        assert task.loss(answers(model, GOOD, GOOD), batch).tolist() == [1, 1]
    assert task.loss(answers(model, GOOD, GOOD), batch).tolist() == [1, 1]  # silent


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric": "blue"}, "unknown metric 'blue': did you mean 'bleu'"),
        ({"target": "targets"}, "train row 1: unknown target 'targets': did you mean 'target'"),
        ({"target": ["a", "b"]}, "train row 1: unknown target 'a or b': .*known are target, text"),
        ({"target": []}, "train row 1: unknown target"),
        ({"template": "{txt}{soft}"}, "unknown field 'txt'"),
        ({"max_tokens": 0}, "max_tokens = 0 must be at least 1"),
        ({"temperature": -1.0}, "temperature = -1.0 must be 0 or more"),
        ({"temperature": math.nan}, "temperature = nan; give a number"),
        ({"temperature": math.inf}, "temperature = inf must be"),
        ({"stop": ["\n", ""]}, "'' stands everywhere"),
        ({"metric": "regex"}, "pattern = None: give one with metric = 'regex'"),
        ({"pattern": r"\d"}, r"pattern = '\\\\d': give one with metric = 'regex', and only there"),
        ({"metric": "regex", "pattern": "("}, r"pattern = '\(' is no regular expression: missing \)"),
        ({"limits": {"tran": 3}}, "unknown split in limits 'tran': did you mean 'train'"),
        ({"skip": {"train": 3}}, "skip = 3 leaves none of 3 rows"),
        ({"batch_size": 4}, "batch_size = 4 must be 1 to 3"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(GfoError, match=words) as error:
        Generation(ROWS, **{"template": TEMPLATE} | options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("target", [None, [], True, {"a": 1}, [None]])
def test_a_target_that_is_no_text(target):
    with pytest.raises(GfoError, match=r"train row 2: target 'target' is .*; give a text or a list of texts"):
        Generation([ROWS[0], {"text": "a", "target": target}], template=TEMPLATE)


def test_a_model_that_does_not_continue_texts(tiny):
    with pytest.raises(GfoError, match=r"Generation needs a model that continues texts, but .* the mask"):
        Generation(ROWS, template="{text}{soft}").bind(tiny("bert"))
