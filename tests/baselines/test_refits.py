"""Trainings refit: as many steps as dev chose, on train and dev, at the rates that those had."""

from __future__ import annotations

import pytest
from examples import LABELS, ROWS, TEXT_FIRST

import gfo
from gfo.baselines.training import Recipe
from gfo.core.protocols import Cost
from gfo.run.budget import Part

TRAIN, DEV = ROWS[:3], ROWS[3:]
TEST = [{"text": text + " indeed", "label": label} for text, label in (row.values() for row in ROWS)]
CONSTANT = {"lr": 0.02, "schedule": "constant", "warmup": 0.0}


def run(name, model, train, dev, evaluations, **options):
    task = gfo.Classification(train, dev, TEST, template=TEXT_FIRST, labels=LABELS, batch_size=2)
    space = gfo.SoftPrompt(model, 3, dim=10) if name == "gradient" else None
    settings = {"budget": gfo.Budget(evaluations=evaluations), "progress": False, "dev_every": 1, **options}
    usual = {**CONSTANT, "lr": 0.3} if name == "gradient" else CONSTANT
    return gfo.baselines.run(name, model, task, space, **{"options": usual, **settings})


@pytest.mark.parametrize("name", ["gradient", "lora"])
def test_it_is_the_training_on_the_joined_rows_to_the_bit(tiny, tmp_path, name):
    model = tiny("llama")
    search = run(name, model, TRAIN, DEV, 6)
    result = run(name, model, TRAIN, DEV, 6, refit=True, out=tmp_path)
    n = result.record["refit"]["evaluations"]
    assert 0 < n <= 6
    by_hand = run(name, model, [*TRAIN, *DEV], None, n)
    assert result.z.tobytes() == by_hand.z.tobytes()
    assert result.score("test") == by_hand.score("test") != search.score("test")
    costs = [(c.candidates, c.forward_tokens) for c in (result.cost, search.cost + by_hand.cost)]
    assert costs[0] == costs[1]
    if name == "lora":
        assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
        assert not (tmp_path / "refit" / "adapter").exists()
    again = run(name, model, TRAIN, DEV, 6, refit=True, out=tmp_path, resume=True)
    assert again.z.tobytes() == result.z.tobytes()
    assert again.score("test") == result.scores["after"]["test"]


def test_rates_are_those_that_the_steps_had():
    whole, cost = gfo.Budget(forward_tokens=1000), Cost
    part = Part(evaluations=4, of=whole, share=0.4)
    rates = [Recipe(lr=1.0).rate(part.share_planned(cost(n), 0.0)) for n in (1, 2, 4)]
    assert rates == [Recipe(lr=1.0).rate(share) for share in (0.1, 0.2, 0.4)]
    assert part.share_spent(cost(4), 0.0) == 1.0  # control
    assert part.planned is None
    assert Part(evaluations=4, of=gfo.Budget(evaluations=9), share=0.4).planned == 9


def test_a_baseline_without_a_search_is_one_line(tiny):
    with pytest.raises(gfo.GfoError, match="refit: baseline 'manual' has no search"):
        run("manual", tiny("llama"), TRAIN, DEV, 6, refit=True, options={})
