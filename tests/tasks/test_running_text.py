"""Rows are text and templates markup, and what an answer says has the tokens of the running text."""

from __future__ import annotations

import warnings

import pytest
import torch
from kinds import byte_level, frozen, sentence_piece, whole_words
from plain import refused

from gfo import Classification, DiscretePrompt, LanguageModeling, MultipleChoice, SoftPrompt, load_model
from gfo.baselines import make
from gfo.models.text import TextTokens
from gfo.tasks.parts.lengths import beginning
from gfo.tasks.parts.templates import Template

LABELS = {"bad": " negative", "good": " positive"}
ROWS = [{"text": "the movie is great", "label": "good"}, {"text": "a terrible movie", "label": "bad"}]
TEMPLATE = "Review: {text}\n{soft}Sentiment:"


@pytest.fixture(scope="module", params=["prepend", "first", "always"])
def prepending(request):
    return frozen(sentence_piece(request.param))


@pytest.fixture(scope="module")
def bytewise():
    return frozen(byte_level(start=True))


def bound(model, rows=ROWS, template=TEMPLATE, labels=LABELS, **options):
    return Classification(rows, template=template, labels=labels, **options).bind(model)


def whole(batch, i=0):
    return batch.before[i] + batch.after[i]


def ids(model, text):
    """Of the whole text, as transformers has them."""
    return tuple(model.tokenizer(text)["input_ids"])


def test_words_have_the_tokens_of_running_text(prepending):
    """And so have the template's parts on both sides of the soft prompt."""
    model = prepending
    batch = bound(model).all_rows("train")
    for word, token in zip(LABELS.values(), batch.vocabulary, strict=True):
        assert (*whole(batch), token) == ids(model, f"Review: the movie is great\nSentiment:{word}")
    alone = model.tokenizer("Sentiment:", add_special_tokens=False)["input_ids"]
    assert batch.after[0] != tuple(alone)  # control


@pytest.mark.parametrize("word", [" positive joy", ": great", " good!"])
def test_options_have_the_tokens_of_running_text(prepending, word):
    rows = [{"text": "the food", "options": [word, " bad"], "label": 0}]
    task = MultipleChoice(rows, template="{text} was", delimiter="").bind(prepending)
    batch = task.all_rows("train")
    for option, ending in zip([word, " bad"], batch.endings[0], strict=True):
        assert whole(batch) + ending == ids(prepending, f"the food was{option}")


def test_documents_and_start_texts_are_running_text(prepending):
    model = prepending
    task = LanguageModeling([{"text": "positive joy"}], template="Sentiment:{soft}{text}").bind(model)
    batch = task.all_rows("train")
    assert batch.before[0] + batch.endings[0][0] == ids(model, "Sentiment:positive joy")
    token = model.tokenizer.convert_tokens_to_ids("▁great")
    assert SoftPrompt(model, 1, 4, init=" great").init_tokens == (token,)
    assert DiscretePrompt(model, 1, [" great", " good"]).candidates[0] == token


def test_a_byte_level_tokenizer_has_no_more_to_mend(bytewise):
    assert not TextTokens(bytewise.tokenizer).prefixes
    batch = bound(bytewise).all_rows("train")
    assert batch.vocabulary == tuple(bytewise.encode(word)[0] for word in LABELS.values())
    assert batch.after[0] == bytewise.encode("Sentiment:")


OLD = [
    ("Review: {text}\n{soft}Sentiment:", "Review: the movie is great\n", "Sentiment:"),
    ("{soft}{text} It was", "", "the movie is great It was"),
    ("News: {text}\n{soft}Topic:", "News: the movie is great\n", "Topic:"),
    ("{text}\n{soft}", "the movie is great\n", ""),
    ("{text} Question: {label} True or false?\n{soft}Answer:", None, "Answer:"),
]


@pytest.mark.parametrize(("template", "front", "back"), OLD)
def test_tokens_of_the_default_model_are_those_of_before(template, front, back):
    """One text in front of the soft prompt and one behind it, tokenized apart and as they are."""
    model = load_model("smollm2-135m")
    tokenizer = model.tokenizer
    front = "the movie is great Question: good True or false?\n" if front is None else front
    ((before, after),) = Template.parse(template).bound(model).encode([ROWS[0]], model)
    assert before == tuple(tokenizer(front)["input_ids"] if front else ())
    assert after == tuple(tokenizer(back)["input_ids"] if back else ())
    batch = bound(model, template=TEMPLATE).all_rows("train")
    assert batch.vocabulary == tuple(tokenizer(word)["input_ids"][0] for word in LABELS.values())


@pytest.mark.parametrize("mark", ["</s>", "<|im_end|>", "a <s> b", "<unk>", "<start_of_turn>user"])
@pytest.mark.parametrize("template", [TEMPLATE, "<s>Review: {text}</s>{soft}\nSentiment:"])
@pytest.mark.parametrize("kind", ["bytes", "prepend", "first"])
def test_data_are_no_markup(kind, mark, template):
    model = frozen(byte_level(start=True) if kind == "bytes" else sentence_piece(kind))
    batch = bound(model, [{"text": f"so {mark} good", "label": "good"}, ROWS[1]], template).all_rows("train")
    control = bound(model, [{"text": "so good", "label": "good"}, ROWS[1]], template).all_rows("train")
    special = set(model.tokenizer.all_special_ids) | set(range(7))

    def marks(found):
        return [token for token in whole(found) if token in special]

    assert marks(batch) == marks(control)
    assert marks(batch).count(1) == 1  # one start token
    said = model.tokenizer.decode(whole(batch), skip_special_tokens=False)
    assert mark in said.partition("so")[2]


def test_data_that_can_be_read_as_a_special_token_alone_are_refused():
    model = frozen(whole_words(), size=32)
    rows = [{"text": "It good", "label": "good"}, {"text": "bad </s> It", "label": "bad"}]
    labels = {"bad": " bad", "good": " good"}
    refused(lambda: bound(model, rows, "{text} It", labels), "train row 2", "'</s>'", "drop it")
    assert len(bound(model, rows[:1], "</s> {text} It", labels).all_rows("train")) == 1  # control


@pytest.mark.parametrize("text", ["so \ud83d good", "\udc00"])
def test_lone_surrogates_are_refused_by_number(bytewise, text):
    rows = [ROWS[0], {"text": text, "label": "bad"}]
    refused(lambda: bound(bytewise, rows), "row 2", "surrogate")
    options = [{"text": "a", "options": ["b", text], "label": 0}]
    refused(lambda: MultipleChoice(options, template="{text}:").bind(bytewise), "row 1", "surrogate")
    bound(bytewise, [ROWS[0], {"text": "so 🧠 good", "label": "bad"}])  # control: silent


@pytest.mark.parametrize("kind", ["bytes", "prepend"])
def test_a_blank_at_the_template_s_end_is_told_once(kind):
    model = frozen(byte_level() if kind == "bytes" else sentence_piece(kind))
    with pytest.warns(UserWarning, match=r"ends in ' '.*' negative'.*leave one of them out") as told:
        bound(model, template="Review: {text}\n{soft}Sentiment: ")
    assert len(told) == 1
    with pytest.warns(
        UserWarning, match="other tokens for the word 'negative'; begin the word with the blank"
    ):
        bound(model, template="{text} Sentiment: ", labels={"bad": "negative", "good": "positive"})
    rows = [{"text": "a", "options": ["good", "bad"], "label": 0}]
    with pytest.warns(UserWarning, match="the option ' good'"):
        MultipleChoice(rows, template="{text} is ").bind(model)
    MultipleChoice(rows, template="{text} is").bind(model)  # control: silent
    bound(model)


@pytest.mark.parametrize(
    "text", ["ok 🧠🧠🧠🧠", "ok 漢字漢字漢字", "ok 👩‍👩‍👧👩‍👩‍👧", "ok e\u0301e\u0301e\u0301"]
)
@pytest.mark.parametrize("kind", ["bytes", "prepend"])
def test_truncation_cuts_between_characters(kind, text):
    model = frozen(byte_level() if kind == "bytes" else sentence_piece(kind))
    most = len(model.encode(text, start=True))
    found = set()
    for limit in range(8, most):
        with pytest.warns(UserWarning, match="have their 'text' cut"):
            task = bound(
                model, [{"text": text, "label": "good"}], "{text}", max_length=limit, truncate="text"
            )
        (tokens,) = task.all_rows("train").before
        found.add(model.decode([tokens])[0].strip())
    assert all("\ufffd" not in said and text.startswith(said) for said in found)
    assert not any(said.endswith(("\u200d", "e")) for said in found)
    assert len(found) > 1


def test_beginnings():
    assert beginning("ok 🧠🧠", "ok 🧠\ufffd") == "ok 🧠"
    assert beginning("a \ufffd b", "a \ufffd") == "a \ufffd"  # it is the text's own
    assert beginning("OK good", "ok") == "ok"  # of a tokenizer without capitals
    assert beginning("good food", "good") == "good"


@pytest.mark.parametrize("size", [450, 777])
def test_random_words_are_tokens(size):
    model = frozen(byte_level(), size)
    there = set(model.tokenizer.get_vocab().values())
    assert len(there) < 450
    words = SoftPrompt(model, 400, 4).init_tokens
    assert set(words) <= there - model.special_tokens
    near = DiscretePrompt(model, 2, number=size, similar_to=" great").candidates
    assert set(near) <= there
    refused(lambda: DiscretePrompt(model, 2, [5, size - 1]), f"id {size - 1} is of no token")
    DiscretePrompt(model, 2, [5, len(there) - 1])  # control
    exact = frozen(byte_level())
    assert exact.unused_tokens == frozenset()
    torch.testing.assert_close(SoftPrompt(exact, 3, 4).p0, SoftPrompt(exact, 3, 4).p0)


def test_splits_of_one_class_and_contradictions_are_told(bytewise):
    rows = [{"text": f"{i} movie", "label": "bad" if i < 6 else "good"} for i in range(12)]
    with pytest.warns(
        UserWarning, match="train's 5 rows and dev's 4 rows are of one class each.*shuffle"
    ) as told:
        bound_with_dev(bytewise, rows, limits={"train": 5, "dev": 4}, skip={"dev": 6})
    assert len(told) == 1
    twice = [*rows, {"text": "1 movie", "label": "good"}, {"text": "7 movie", "label": "bad"}]
    with pytest.warns(UserWarning, match="2 rows .* such as train rows 2 and 13; .* mend the labels") as told:
        bound(bytewise, twice)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bound(bytewise, [*rows, rows[0]])  # controls: the same label again, both classes
        bound_with_dev(bytewise, rows, limits={"train": 8}, skip={"dev": 8}, shuffle=0)


def bound_with_dev(model, rows, **options):
    return Classification(rows, [*rows], template=TEMPLATE, labels=LABELS, **options).bind(model)


@pytest.mark.parametrize("options", [["good", "good food"], ["a great movie", "bad", "a great"]])
def test_options_that_begin_others_are_told(bytewise, options):
    rows = [
        {"text": "It is", "options": options, "label": 0},
        {"text": "So", "options": ["a", "b"], "label": 1},
    ]
    with pytest.warns(UserWarning, match="options: 1 begin another option, as in train row 1, where") as told:
        MultipleChoice(rows, template="{text}").bind(bytewise)
    assert len(told) == 1
    MultipleChoice(rows, template="{text}", normalize="mean").bind(bytewise)  # control: silent
    MultipleChoice(rows[1:], template="{text}").bind(bytewise)


@pytest.mark.parametrize("template", [TEMPLATE, "{text} It: {soft}", "Review: {text}"])
@pytest.mark.parametrize("separator", ["\n\n", " . "])
def test_demonstrations_have_the_tokens_of_running_text(prepending, template, separator):
    """And the row behind them; the first begins the text."""
    task = Classification(ROWS, test=ROWS, template=template, labels=LABELS)
    method = make("in-context", prepending, task, k=2, separator=separator)
    batch = method.judge._with(method.point).task.all_rows("test")
    written = template.replace("{soft}", "")
    shown = [
        written.format(**ROWS[i]) + LABELS[ROWS[i]["label"]] + separator
        for i in method.facts["demonstrations"]
    ]
    for i, row in enumerate(ROWS):
        assert whole(batch, i) == ids(prepending, "".join(shown) + written.format(**row))
    alone = bound(prepending, template=template).all_rows("train")
    same = whole(batch)[-len(whole(alone)) + 1 :] == whole(alone)[1:]
    assert same == separator.endswith(" ")  # a control: the blank is the "▁" of the first word
