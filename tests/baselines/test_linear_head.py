"""The linear head against scikit-learn on transformers' own hidden states."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from examples import LABELS, ROWS, make_task, whole_rows
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from gfo import Budget, Classification, baselines
from gfo.baselines import make
from gfo.core.errors import GfoError


@torch.no_grad()
def hidden_states(model, task):
    """The final hidden states of each row's last token, from a plain forward pass."""
    body = model.module.base_model
    rows = whole_rows(task, model)
    return np.stack([body(torch.tensor([ids])).last_hidden_state[0, -1].double().numpy() for ids in rows])


@pytest.mark.parametrize("family_name", ["llama", "gpt2", "opt", "gemma2"])
def test_features_are_the_last_hidden_states(tiny, family_name):
    model, task = tiny(family_name), make_task()
    found, expected = make("linear-head", model, task).features("train"), hidden_states(model, task)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    assert np.abs(found - np.roll(expected, 1, 0)).max() > 0.1  # control


@pytest.mark.parametrize(("labels", "third"), [(2, " food"), (3, " food"), (3, [" food", " the"])])
def test_the_head_is_scikit_learn_s(tiny, labels, third):
    model = tiny("llama")
    names = {**LABELS, "neither": third}
    rows = [{**row, "label": list(names)[i % labels]} for i, row in enumerate(ROWS)]
    words = {name: names[name] for name in list(names)[:labels]}
    task = Classification(rows, rows, rows, template="{text} It was", labels=words)
    method = make("linear-head", model, task, strengths=(0.03,))
    z = method.ask()
    assert z.shape == (1, labels * 33) == (1, method.domain.d)
    x, y = hidden_states(model, task), np.array([list(names).index(row["label"]) for row in rows])
    x = StandardScaler().fit_transform(x)
    reference = LogisticRegression(C=0.03, max_iter=10_000).fit(x, y)
    metrics = method.score(np.concatenate([z, 0 * z]), "test").metrics
    assert metrics["loss"][0] == pytest.approx(log_loss(y, reference.predict_proba(x)), abs=1e-4)
    assert metrics["accuracy"][0] == reference.score(x, y)
    assert metrics["loss"][1] == pytest.approx(np.log(labels), abs=1e-6) != metrics["loss"][0]


@pytest.mark.filterwarnings("ignore:.* dev rows are train rows:UserWarning")  # dev has other labels
def test_dev_chooses_the_strength(tiny):
    """Where dev's labels are the wrong way round, the best is the start, which tells nothing apart."""
    model = tiny("llama")
    flipped = [{**row, "label": "good" if row["label"] == "bad" else "bad"} for row in ROWS]
    chosen = []
    for dev in (ROWS, flipped):
        task = Classification(ROWS, dev, template="{text} It was", labels=LABELS)
        result = baselines.run("linear-head", model, task, budget=Budget(evaluations=9), progress=False)
        assert result.stopped == "all strengths tried"
        assert [step.dev is not None for step in result.history] == [True] * 4
        chosen.append(float(np.abs(result.z).max()))
    assert chosen[0] > 0.1
    assert chosen[1] == 0


def test_unusable_tasks(tiny):
    one = [{"text": "a", "label": "good"}]
    task = Classification(one, template="{text} It was", labels=LABELS)
    with pytest.raises(GfoError, match="a label has no training row"):
        make("linear-head", tiny("llama"), task)
