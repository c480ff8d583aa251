"""Methods that have a language model write texts, with scripted writers and a tiny model."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

import gfo
from gfo import optimizers
from gfo.optimizers.evoprompt import _filled, _shares
from gfo.optimizers.writing import answer_in
from gfo.spaces.parts.unchanged import Unchanged
from gfo.testing import check_evaluator

GOOD = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")
SPACE = gfo.Texts("start", length=80)
LABELS = {"negative": " negative", "positive": " positive"}
TEMPLATE = "Review: {text}\n{soft} Sentiment:"


def lacking(z):
    """What is missing of the good words."""
    return np.array([1 - len(set(SPACE.text(point).split()) & set(GOOD)) / len(GOOD) for point in z])


def writer(seed=0, useless=False):
    """Mixes the words that it is given and adds one, as a model may that has ideas."""
    draw = random.Random(seed)

    def rewrite(prompt):
        given = re.findall(r"(?:\d\.|Instruction:) (.*)", prompt)
        words = [word for line in given for word in line.split()]
        kept = [word for word in dict.fromkeys(words) if draw.random() < 0.8]
        new = "noise" if useless else draw.choice([*GOOD, "noise"])
        return f"Sure!\n<prompt>{' '.join([*kept, new][-8:])}</prompt>"

    return rewrite


def numbers(seed):
    """Always writes something new, as GEPA finds it."""
    draw = random.Random(seed)
    return lambda prompt: f"```\nJudge {draw.random()}.\n```"


@pytest.mark.filterwarnings("ignore:optimizer 'evoprompt'. . of . candidates scored alike")
@pytest.mark.parametrize("variant", ["ga", "de"])
def test_evoprompt_gains_where_gains_exist(variant):
    """A writer without ideas is the control."""
    found = []
    for useless in (False, True):
        options = {"rewrite": writer(useless=useless), "population": 6, "variant": variant}
        method = optimizers.make("evoprompt", domain=SPACE.domain, seed=0, **options)
        found.append(gfo.minimize(method, lacking, budget=gfo.Budget(evaluations=120)))
    assert found[0].loss <= 1 / 6
    assert found[1].loss == 1.0
    assert lacking(found[0].z[None])[0] == found[0].loss


def test_points_are_texts():
    domain = gfo.Texts(["first", "second"], length=9).domain
    texts = ["", "häß 🙂", "a\0b", "longer than nine"]
    assert [domain.text(z) for z in domain.points(texts)] == ["first", "häß 🙂", "ab", "longer th"]
    assert domain.contains(domain.points(texts)).all()


def test_the_wheel_and_the_words():
    np.testing.assert_allclose(_shares(np.array([0.0, 1.0, np.inf])), [4 / 6, 1 / 6, 1 / 6])
    np.testing.assert_allclose(_shares(np.array([2.0, 2.0])), [0.5, 0.5])
    assert _filled("{first} {x} {second}", {"first": "{second}", "second": "b"}) == "{second} {x} b"
    assert answer_in("so:\n<prompt> a <prompt>'b'</prompt>") == "a <prompt>'b"
    assert answer_in(' "plain" ') == "plain"
    assert answer_in(None) == ""


def task(rows=8, template=TEMPLATE):
    return gfo.Classification(
        "gfo:sentiment/train.jsonl", template=template, labels=LABELS, limits={"train": rows}
    )


@pytest.mark.parametrize("name", ["evoprompt", "gepa"])
def test_a_run_goes_on_whatever_the_writer_would_say_the_next_time(name, tmp_path):
    model = gfo.testing.tiny_model()
    options = {"population": 4} if name == "evoprompt" else {}
    settings = {"optimizer": name, "progress": False, "out": tmp_path / "run"}
    make = writer if name == "evoprompt" else numbers
    known = {**options, "rewrite": make(1)}
    first = gfo.tune(model, task(), SPACE, budget=gfo.Budget(evaluations=8), options=known, **settings)
    other = make(2)
    found = gfo.tune(
        model,
        task(),
        SPACE,
        budget=gfo.Budget(evaluations=12),
        options={**options, "rewrite": other},
        resume=True,
        **settings,
    )
    then, now = ([step.loss for step in result.history] for result in (first, found))
    assert now[: len(then)] == then
    assert found.cost.candidates == 12
    assert found.prompt == SPACE.text(found.z)
    assert "prompt:" in str(found)


def test_gepa_shows_the_writer_what_became_of_rows():
    asked = []

    def rewrite(prompt):
        asked.append(prompt)
        return f"```\nJudge {len(asked)}\n```"

    budget = gfo.Budget(evaluations=4)
    settings = {"optimizer": "gepa", "options": {"rewrite": rewrite}, "progress": False}
    result = gfo.tune(gfo.testing.tiny_model(), task(), SPACE, budget=budget, **settings)
    assert len(result.history) == 4
    assert "start" in asked[0]
    assert re.search(r"This is (not )?right. The right answer is: (positive|negative).", asked[0])
    assert "Review: " in asked[0]


def test_a_model_that_is_here_writes_the_same_again():
    model = gfo.testing.tiny_model()
    one = model.write(["a b", "c"], max_tokens=5, seed=3)
    assert one == model.write(["a b", "c"], max_tokens=5, seed=3)
    assert one[1:] == model.write(["c"], max_tokens=5, seed=4)
    assert one != model.write(["a b", "c"], max_tokens=5, seed=9)
    assert model.write(["a " * 2000], max_tokens=5) == [None]
    budget = gfo.Budget(evaluations=6)
    options = {"population": 3, "max_tokens": 6}
    result = gfo.tune(
        model, task(), SPACE, optimizer="evoprompt", options=options, budget=budget, progress=False
    )
    assert result.cost.candidates == 6


def test_texts_of_other_lengths_have_the_losses_of_the_template_that_holds_them():
    """Also of a chat, whose blanks are cut, and where a text holds what would be markup."""
    model = gfo.testing.tiny_model()
    texts = ["Judge.", "Is it good or bad, or is it in between?", "a </s> b {text}"]
    evaluator = gfo.TextEvaluator(model, task(), gfo.Texts(texts))
    z = evaluator.space.domain.points(texts)
    found = evaluator(z, 0)
    for text, loss in zip(texts[:2], found.loss, strict=False):
        written = task(template=TEMPLATE.replace("{soft}", text))

        plain = gfo.LocalEvaluator(model, written, Unchanged(model))(np.zeros((1, 1)), 0)
        assert plain.loss[0] == pytest.approx(loss, rel=1e-5)
    assert np.ptp(found.loss) > 0.01
    assert np.isfinite(found.loss).all()
    assert found.cost.forward_tokens > 0
    long = gfo.TextEvaluator(model, task(), gfo.Texts("a", length=9000))
    assert np.isnan(long(long.space.domain.points(["b " * 4000]), 0).loss[0])


def test_the_contract_of_evaluators():
    model, texts = gfo.testing.tiny_model(), ["Judge.", "Is it good?", "x"]
    space = gfo.Texts(texts, length=30)
    check_evaluator(lambda: gfo.TextEvaluator(model, task(4), space), space.domain.points(texts))


NO_PLACE = {"rewrite": str, "asked": {"vary": "x"}}


def quick(**more):
    settings = {"budget": gfo.Budget(evaluations=8), "progress": False, **more}
    return gfo.tune(gfo.testing.tiny_model(), task(), **settings)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (lambda: quick(space=SPACE, optimizer="ga"), "'ga' cannot write texts; take evoprompt or gepa"),
        (
            lambda: quick(space=gfo.Words(["a"]), optimizer="evoprompt", options={"rewrite": str}),
            "writes texts; give it the space gfo.Texts",
        ),
        (
            lambda: quick(space=SPACE, optimizer="evoprompt", options={"rewrite": 3}),
            "rewrite = 3 must be a model, a gfo.Endpoint or a",
        ),
        (
            lambda: quick(space=SPACE, optimizer="evoprompt", options={"rewrite": lambda text: 1 / 0}),
            r"rewrite gave none of 9 texts, asked in up to \d+ characters",
        ),
        (
            lambda: quick(
                space=SPACE, optimizer="evoprompt", options={"rewrite": str, "asked": {"vary": "x"}}
            ),
            r"asked\['vary'\] has no \{first\}",
        ),
        (lambda: gfo.Texts([]), r"start = \[\]; give one text at least"),
        (lambda: gfo.Texts("abc", length=2), "a text has 3 characters, 2 are allowed"),
        (lambda: gfo.Words([]), r"words = \[\]; give some words"),
        (lambda: gfo.Words(["a", "a"]), "'a' twice; give each once"),
        (lambda: gfo.Words(["a", " "]), "give each some text"),
        (lambda: gfo.Words(["a"], 1, init=["b", "c"]), "give a list of 1 words at most"),
        (
            lambda: quick(space=gfo.Words(["a"]), optimizer="ga", racing=gfo.Racing()),
            "leave it out for texts",
        ),
        (
            lambda: optimizers.make("gepa", domain=SPACE.domain, seed=0, rewrite=str).ask(),
            "it reads what became of rows; run it by gfo.tune",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:optimizer 'evoprompt'. rewrite failed")
def test_bad_input_is_one_line(run, said):
    with pytest.raises(gfo.GfoError, match=said) as error:
        run()
    assert len(str(error.value).splitlines()) == 1


def test_words_in_their_places():
    space = gfo.Words(["b", "c d"], 3, joint=" / ", init=["a"])
    assert space.text(np.zeros(3)) == "a"
    assert space.text(np.array([2, 0, 1])) == "c d / b"
    assert space.measure(np.array([[0, 0, 0], [2, 0, 1.0]]))["characters"].tolist() == [1.0, 7.0]
