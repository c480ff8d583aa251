"""The structure benchmark on a tiny model: every method, equal budgets, no run twice, costs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import gfo
from benchmarks.structure import __main__ as program
from benchmarks.structure.cost import measure, offspring, work_left
from benchmarks.structure.searches import METHODS, Problem, influence

TEXT = "the food was good, but the service was bad. I would say that the movie is a great joy. " * 8


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "wikitext2"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split in ("validation", "test"):
        rows = [{"text": " ".join(rng.permutation(TEXT.split()))} for _ in range(4)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_all_methods_and_what_is_done(tiny, data, tmp_path, monkeypatch, capsys):
    model = tiny("llama", start=True, max_position_embeddings=512)
    monkeypatch.setattr(gfo, "load_model", lambda name: model)
    out = tmp_path / "found.json"
    words = ["--data", str(data), "--json", str(out), "--closed", "2", "--seed", "0", "--windows", "2"]
    assert program.main(words) == 0
    found = json.loads(out.read_text())["runs"]
    assert [run["method"] for run in found] == ["greedy", *(m for m in METHODS if m != "greedy")]
    assert all(run["z"].count("1") == 2 for run in found)
    greedy = found[0]["forward_tokens"]
    assert all(run["forward_tokens"] < 2 * greedy for run in found)
    assert "evolved" in capsys.readouterr().out
    monkeypatch.setattr(Problem, "__post_init__", lambda self: pytest.fail("it is run again"))
    figure = tmp_path / "found.png"
    assert program.main([*words, "--figure", str(figure)]) == 0
    assert json.loads(out.read_text())["runs"] == found
    assert figure.stat().st_size > 1000


def test_singles_and_greedy_are_those_of_all_losses(tiny):
    model = tiny("llama", start=True)
    task = gfo.Distance([{"text": TEXT[:200]}], window=32)
    space = gfo.Structure(model)
    losses = gfo.LocalEvaluator(model, task, space)
    single = losses(np.eye(6), 0).loss
    assert set(np.flatnonzero(METHODS["singles"](Problem(model, task, 2, 0), 0))) == set(
        np.argsort(single)[:2]
    )
    pairs = np.eye(6) + np.eye(6)[single.argmin()]
    pairs = np.delete(pairs, single.argmin(), axis=0)
    best = pairs[losses(pairs, 0).loss.argmin()]
    np.testing.assert_array_equal(METHODS["greedy"](Problem(model, task, 2, 0), 0), best)


@torch.no_grad()
def test_influence_is_that_of_the_residual_stream(tiny):
    model = tiny("llama", start=True)
    task = gfo.Distance([{"text": TEXT[:60]}], window=64)
    found = influence(model, task)
    batch = task.bind(model).all_rows("train")
    ids = torch.tensor([[*batch.before[0], *batch.endings[0][0]]])
    seen = model.hidden_states(ids)
    layer = model.all_layers[0]
    attention = {}
    handle = layer.self_attn.register_forward_hook(lambda m, a, y: attention.update(y=y[0]))
    model.hidden_states(ids)
    handle.remove()
    middle = seen[0] + attention["y"]
    ratio = attention["y"].norm(dim=-1) / seen[0].norm(dim=-1)
    assert found["attention 0"] == pytest.approx(float(ratio.mean()), rel=1e-5)
    ratio = (seen[1] - middle).norm(dim=-1) / middle.norm(dim=-1)
    assert found["feed-forward 0"] == pytest.approx(float(ratio.mean()), rel=1e-4)
    assert found["tokens"] == ids.numel()


def test_cost(tiny):
    model = tiny("llama", start=True, num_hidden_layers=6)
    task = gfo.LanguageModeling([{"text": TEXT[:200]}], template="{text}", window=32)
    found = measure(model, task, 1, 0, 3)
    assert found["candidates"] == 32
    assert found["closed"] == 3
    assert found["largest_difference"] < 1e-5
    assert found["work_left"] == pytest.approx(found["work_left_simulated"], abs=0.02)
    z = offspring(60, 15, 0)
    assert (z.sum(axis=1) == 15).all()
    assert work_left(np.zeros((4, 3)), np.ones(3)) == pytest.approx(1 / 4)
    # genes 100, 010, 001: two share the first, two more part at the second, and one of three is shut in each
    assert work_left(np.eye(3), np.ones(3)) == pytest.approx((1 + 2 + 2) / 9)


def test_bad_options(data, capsys):
    for words in (["--method", "annealing"], ["--windows", "0"], ["--json", "nowhere/x.json"]):
        assert program.main(["--data", str(data), *words]) == 2
        assert "error: " in capsys.readouterr().err
