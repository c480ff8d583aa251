"""`result.predict` and `result.changes`."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import binom

import gfo
from gfo.core.errors import GfoError
from gfo.run.predictions import Changes

pytestmark = pytest.mark.filterwarnings("ignore::gfo.GfoWarning")  # of rows that stand in two splits
LABELS = {"+": " good", "-": " bad"}
TEMPLATE = "Review: {text}\n{soft}Sentiment:"
ROWS = [{"text": text, "label": label} for text, label in zip("abcdefgh", "+-+-+-+-", strict=True)]
CHOICES = [{"text": each["text"], "options": ["good", "bad thing", "so"], "label": 0} for each in ROWS]
WRITTEN = [{"text": each["text"], "target": "so"} for each in ROWS]


def result(model, task, tmp_path=None):
    space = gfo.SoftPrompt(model, 3, 10, seed=0)
    return gfo.tune(model, task, space, budget=gfo.Budget(evaluations=30), progress=False, out=tmp_path)


def bare(rows, *fields):
    return [{key: row[key] for key in ("text", *fields)} for row in rows]


@pytest.mark.parametrize("more", [{}, {"calibration": "contextual"}, {"loss": "hinge"}])
def test_labels_are_those_that_the_scores_count(tiny, more):
    """Said of the test rows without their labels, as many are right as the metric says."""
    task = gfo.Classification(ROWS[:4], test=ROWS, template=TEMPLATE, labels=LABELS, **more)
    found = result(tiny("llama"), task)
    said = found.predict(bare(ROWS))
    right = np.mean([said[i] == row["label"] for i, row in enumerate(ROWS)])
    assert right == found.score("test")["accuracy"]
    for each in said.found:
        assert sum(each["probabilities"].values()) == pytest.approx(1)
        assert each["probability"] == max(each["probabilities"].values())
    if not more:
        ce = -np.mean([np.log(e["probabilities"][r["label"]]) for e, r in zip(said.found, ROWS, strict=True)])
        assert ce == pytest.approx(found.scores["after"]["test"]["loss"], rel=1e-5)
    other = found.predict([{"text": "no"}])  # control: another text, another probability
    assert other.found[0]["probability"] != said.found[0]["probability"]


@pytest.mark.parametrize("normalize", ["sum", "characters"])
def test_options_may_be_new_ones(tiny, normalize):
    task = gfo.MultipleChoice(CHOICES[:4], test=CHOICES, template=TEMPLATE, normalize=normalize)
    found = result(tiny("llama"), task)
    said = found.predict(bare(CHOICES, "options"))
    right = np.mean([said[i] == "good" for i in range(len(CHOICES))])
    assert right == found.score("test")["accuracy"]
    new = found.predict([{"text": "a", "options": ["yes indeed", "no", "why not", "so"]}])
    assert set(new.found[0]["probabilities"]) == {"yes indeed", "no", "why not", "so"}
    with pytest.raises(GfoError, match=r"rows row 1: .*options"):
        found.predict([{"text": "a"}])


def test_texts_are_those_of_answers(tiny):
    task = gfo.Generation(WRITTEN[:4], test=WRITTEN, template=TEMPLATE, max_tokens=3, metric="token_f1")
    found = result(tiny("llama"), task)
    said = found.predict(bare(WRITTEN))
    assert [said[i] for i in range(len(said))] == found.answers("test")["after"]
    assert "probability" not in said.found[0]


def test_predictions_are_tables_and_files(tiny, tmp_path):
    task = gfo.Classification(ROWS, template=TEMPLATE, labels=LABELS)
    found = result(tiny("llama"), task)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bare(ROWS)))
    said = found.predict(tmp_path / "rows.jsonl")
    assert list(said.to_pandas()["prediction"]) == [said[i] for i in range(8)]
    assert str(said).splitlines()[0].split() == ["row", "text", "prediction", "probability"]
    assert "<table>" in said._repr_html_()
    said.to_jsonl(tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines == [{**row, **each} for row, each in zip(bare(ROWS), said.records(), strict=True)]
    assert said.to_csv().splitlines()[0] == "text,prediction,probability"


def test_what_cannot_be_predicted_is_one_line(tiny):
    model = tiny("llama")
    task = gfo.Classification(ROWS, template=TEMPLATE, labels=LABELS, max_length=20)
    found = result(model, task)
    for rows, words in (
        ([{"txt": "a"}], "rows row 1.*text"),
        ([], "rows"),
        ([{"text": "a " * 30}], "max_length = 20"),
    ):
        with pytest.raises(GfoError, match=words) as error:
            found.predict(rows)
        assert "\n" not in str(error.value)
    modeling = gfo.LanguageModeling([{"text": "the food was good"}], window=8)
    with pytest.raises(GfoError, match=r"predict: .* predicts nothing of a row"):
        result(model, modeling).predict(WRITTEN)
    trained = gfo.baselines.run("lora", model, task, budget=gfo.Budget(evaluations=2), progress=False)
    with pytest.raises(GfoError, match="predict: a baseline on weights gives scores, no answers"):
        trained.predict([{"text": "a"}])


def test_changed_rows_are_those_that_changed(tiny):
    task = gfo.Classification(ROWS[:4], test=ROWS, template=TEMPLATE, labels=LABELS)
    found = result(tiny("llama"), task)
    found.z = 3 * np.ones_like(found.z)
    changes, after = found.changes("test"), found.predict(ROWS)
    found.z = np.zeros_like(found.z)
    before = found.predict(ROWS)
    assert found.changes("test").gained == found.changes("test").lost == ()  # control: the start itself
    right = [[said[i] == row["label"] for i, row in enumerate(ROWS)] for said in (before, after)]
    assert changes.gained == tuple(i for i in range(8) if right[1][i] and not right[0][i])
    assert changes.lost == tuple(i for i in range(8) if right[0][i] and not right[1][i])
    assert changes.gained or changes.lost
    assert len(changes.to_pandas()) == len(changes.gained) + len(changes.lost)
    assert all(f"Review: {ROWS[i]['text']}" in text for i, text in changes.texts.items())


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 1), (3, 3), (0, 7), (9, 2)])
def test_mcnemar_is_exact(gained, lost):
    changes = Changes("test", gfo.Metric("accuracy"), tuple(range(gained)), tuple(range(lost)), 30, {})
    n, k = gained + lost, min(gained, lost)
    assert changes.p == pytest.approx(min(1.0, 2 * binom.cdf(k, n, 0.5)) if n else 1.0)


def test_without_a_metric_of_right_and_wrong(tiny):
    modeling = gfo.LanguageModeling([{"text": "the food was good"}], window=8)
    with pytest.raises(GfoError, match="changes: no metric"):
        result(tiny("llama"), modeling).changes("train")
