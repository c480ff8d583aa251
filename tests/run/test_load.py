"""`gfo.Result.load`: an opened run answers as it did when it ended."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from toy import Parts

import gfo
from gfo.config import make_config
from gfo.core.errors import GfoError

FORMAT1 = Path(__file__).parent / "format1"
LABELS = {"+": " good", "-": " bad"}
ROWS = [{"text": text, "label": label} for text, label in zip("abcdefgh", "+-+-+-+-", strict=True)]
TEMPLATE = "Review: {text}\n{soft}Sentiment:"


def task():
    splits = [[{**row, "text": row["text"] + end} for row in ROWS] for end in ("", " dev", " test")]
    return gfo.Classification(*splits, template=TEMPLATE, labels=LABELS)


def tuned(model, out, *, seed=0, space=None, **options):
    options = {"budget": gfo.Budget(evaluations=30), "seed": seed, "progress": False} | options
    space = space or gfo.SoftPrompt(model, 3, 10, seed=seed)
    result = gfo.tune(model, task(), space, dev_every=1, out=out, **options)
    result.score("test")
    return result


def told(result):
    """What a result says without its evaluator."""
    summary = json.loads(json.dumps(result.summary()))
    for key in ("date", "versions", "hardware"):
        summary.pop(key)
    return {
        "summary": summary,
        "text": str(result),
        "latex": result.to_latex(),
        "steps": [vars(step) for step in result.history],
        "numbers": (result.loss, result.known, result.failed, result.limited),
        "words": (result.stopped, result.selection),
        "costs": (result.cost, result.scoring),
        "scores": {when: {k: (dict(v), v.standard_errors, v.n, v.metrics) for k, v in some.items()}
                   for when, some in result.scores.items()},
        "metrics": result.metrics,
        "prompt": result.prompt,
        "plot": result.plot()._repr_png_(),
        "compared": str(gfo.compare([result])),
    }  # fmt: skip


def asked(result, folder):
    """What a result computes with its evaluator."""
    written = result.export_peft(folder / "peft")
    return {
        "train": dict(result.score("train")),
        "slice": result.plot_slice(points=3)._repr_png_(),
        "words": str(result.nearest_words(2)),
        "peft": {path.name: path.read_bytes() for path in written.folder.glob("*.safetensors")},
    }  # fmt: skip


def same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_equal(other[key], one[key], err_msg=key)


@pytest.mark.filterwarnings("ignore::gfo.GfoWarning")
def test_an_opened_run_answers_as_when_it_ended(tiny, tmp_path):
    model = tiny("llama")
    fresh = tuned(model, tmp_path / "a")
    parts = {"task": task(), "space": gfo.SoftPrompt(model, 3, 10, seed=0)}
    loaded = gfo.Result.load(tmp_path / "a", model, **parts)
    same(told(fresh), told(loaded))
    np.testing.assert_array_equal(fresh.z, loaded.z)
    np.testing.assert_equal(loaded.spread, fresh.spread)
    assert (loaded.folder, loaded.domain) == (fresh.folder, None)
    assert "evaluator" not in vars(loaded.judge)  # nothing was opened for that
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    same(
        asked(gfo.Result.load(tmp_path / "copy", model, **parts), tmp_path / "y"),
        asked(fresh, tmp_path / "x"),
    )

    other = tuned(model, tmp_path / "b", seed=1)  # control: another run answers otherwise
    mine, theirs = told(loaded), told(other)
    assert all(mine[key] != theirs[key] for key in ("summary", "text", "steps", "plot", "compared"))


def test_scores_of_an_opened_run_are_kept_as_those_of_a_fresh_one(tiny, tmp_path):
    model = tiny("llama")
    fresh = tuned(model, tmp_path / "a")
    made = {
        key: json.loads((tmp_path / "a" / "result.json").read_text())[key] for key in ("date", "hardware")
    }
    loaded = gfo.Result.load(tmp_path / "a", model, task=task(), space=gfo.SoftPrompt(model, 3, 10, seed=0))
    loaded.score("dev")
    again = gfo.Result.load(tmp_path / "a")
    assert again.scores["after"]["dev"] == loaded.scores["after"]["dev"]
    assert again.scores["after"]["test"] == fresh.scores["after"]["test"]
    assert again.scoring.candidates == fresh.scoring.candidates + 2
    assert {key: again.record[key] for key in made} == made


def test_a_run_without_a_config_says_what_it_needs(tiny, tmp_path):
    model = tiny("llama")
    tuned(model, tmp_path / "a")
    loaded = gfo.Result.load(tmp_path / "a", model)
    assert loaded.scores["after"]["test"]
    with pytest.raises(
        GfoError, match=r"has no config.json, which would say its task, space: give them"
    ) as error:
        loaded.score("dev")
    assert "\n" not in str(error.value)
    with pytest.raises(GfoError, match="z has the shape"):
        gfo.Result.load(tmp_path / "a", model, task=task(), space=gfo.SoftPrompt(model, 3, 11)).score("dev")
    with pytest.raises(GfoError, match="give the folder of a finished run"):
        gfo.Result.load(tmp_path)
    with pytest.raises(GfoError, match="model = 3"):
        gfo.Result.load(tmp_path / "a", 3, task=task(), space=gfo.SoftPrompt(model, 3, 10)).score("dev")


def test_a_run_of_a_config_opens_its_model_and_data_when_something_needs_them(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tiny("llama")
    model.module.save_pretrained("model")
    model.tokenizer.save_pretrained("model")
    for split in ("train", "dev", "test"):
        rows = ({**row, "text": f"{row['text']} {split}"} for row in ROWS)
        Path(f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {split: f"{split}.jsonl" for split in ("train", "dev", "test")}
    section = {**data, "template": TEMPLATE, "labels": LABELS}
    values = {"model": {"name": "model", "device": "cpu"}, "task": section, "budget": {"evaluations": 20}}
    for name, more in {
        "soft": {"space": {"tokens": 2, "dim": 5}},
        "words": {"space": {"kind": "discrete-prompt", "tokens": 2}, "optimizer": {"name": "ga"}},
        "full": {"baseline": {"name": "full", "options": {"lr": 0.01}}},
        "shots": {"baseline": {"name": "in-context", "options": {"k": 2}}},
    }.items():
        fresh = make_config(values | more, name).run(tmp_path / name, progress=False)
        monkeypatch.chdir("/")  # config.json has whole paths
        loaded = gfo.Result.load(tmp_path / name)
        monkeypatch.chdir(tmp_path)
        assert str(loaded) == str(fresh)
        assert loaded.prompt == fresh.prompt
        assert "evaluator" not in vars(loaded.judge)
        assert loaded.score("dev") == fresh.score("dev"), name
        given = gfo.Result.load(tmp_path / name, model)
        assert given.score("dev") == fresh.score("dev")
    text = (
        (tmp_path / "test.jsonl")
        .read_text()
        .replace('"+"', '"x"')
        .replace('"-"', '"+"')
        .replace('"x"', '"-"')
    )
    Path("test.jsonl").write_text(text)  # control: other rows, other scores
    loaded = gfo.Result.load(tmp_path / "soft")
    assert loaded.scores["after"]["test"]["accuracy"] == pytest.approx(1 - loaded.score("test")["accuracy"])


def test_a_front_is_opened_and_picked_from(tiny, tmp_path):
    model = tiny("llama")
    space = Parts(model)
    fresh = tuned(model, tmp_path / "a", space=space, objectives=["loss", "bytes"])
    loaded = gfo.Result.load(tmp_path / "a", model, task=task(), space=space)
    assert str(loaded.front()) == str(fresh.front())
    one, other = fresh.pick(0), loaded.pick(0)
    assert one.selection == other.selection
    assert one.score("test") == other.score("test")
    assert other.folder is None
    plain = tuned(model, tmp_path / "b")
    with pytest.raises(GfoError, match="had one objective"):
        gfo.Result.load(plain.folder).front()


def test_a_run_of_a_function(tmp_path):
    def sphere(z):
        return (z**2).sum(axis=1)

    optimizer = gfo.optimizers.make("snes", domain=gfo.Domain.unbounded(3), seed=1)
    fresh = gfo.minimize(optimizer, sphere, budget=gfo.Budget(evaluations=40), out=tmp_path / "a")
    loaded = gfo.Result.load(tmp_path / "a", evaluator=fresh.evaluator)
    assert str(loaded) == str(fresh)
    assert loaded.score("train") == fresh.score("train")
    with pytest.raises(GfoError, match=r"model, task, space: give them, .* or evaluator="):
        gfo.Result.load(tmp_path / "a").score("train")


@pytest.mark.parametrize("name", ["config", "python"])
def test_a_run_of_0_1_0_opens(name):
    loaded = gfo.Result.load(FORMAT1 / name)
    assert [metric.name for metric in loaded.metrics][:1] == ["loss"]
    assert "train loss: 0." in str(loaded)
    assert loaded.record["versions"]["gfo"].startswith("0.1")
    assert len(loaded.history)


def test_a_damaged_point_is_refused(tiny, tmp_path):
    tuned(tiny("llama"), tmp_path / "a")
    tuned(tiny("llama"), tmp_path / "b", seed=1)
    shutil.copy(tmp_path / "b" / "best.safetensors", tmp_path / "a")
    with pytest.raises(GfoError, match="is not the point of"):
        gfo.Result.load(tmp_path / "a")
