"""Generation from rows to losses: against transformers' `generate`, in a search, and from a config."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import gfo
from gfo.config import load_config
from gfo.core.errors import GfoError, GfoWarning
from gfo.run.files import write_json

ROWS = [
    {"text": text, "target": target}
    for text, target in (("a great joy", "the movie"), ("it was bad!", "the food"), ("not even a", "good"))
]
TEMPLATE = "Review: {text}{soft} It was"
MOST = 6


def plain_texts(model, prompt, stop):
    """By `generate`, one row at a time, cut at the first of the stop texts."""
    texts = []
    for row in ROWS:
        ids = [model.encode(f"Review: {row['text']}", start=True), model.encode(" It was", end=True)]
        left, right = (model.embed(torch.tensor(part)) for part in ids)
        embeds = torch.cat([left, prompt, right])[None]
        options = {"max_new_tokens": MOST, "do_sample": False, "pad_token_id": 0}
        mask = torch.ones(embeds.shape[:2], dtype=torch.long)
        with torch.no_grad():
            out = model.module.generate(inputs_embeds=embeds, attention_mask=mask, **options)[0]
        text = model.tokenizer.decode(out, skip_special_tokens=True)
        texts.append(min((text.partition(end)[0] for end in stop), key=len, default=text).strip())
    return texts


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_texts_are_those_of_generate(tiny, family):
    model = tiny(family)
    space = gfo.SoftPrompt(model, tokens=3, dim=8, alpha=4.0)
    z = np.random.default_rng(1).standard_normal((4, 8))
    seen = []

    def function(outputs, rows):
        seen.append(outputs)
        return [len(text) for text in outputs]

    free = [plain_texts(model, prompt, ()) for prompt in space.decode(torch.from_numpy(z)).prompt]
    letter = next(text for text in free[0] if len(text) > 3)[2]  # amid an answer
    for stop in ((), (letter,)):
        task = gfo.Generation(ROWS, template=TEMPLATE, metric=function, max_tokens=MOST, stop=stop)
        seen.clear()
        loss = gfo.LocalEvaluator(model, task, space)(z, 0).loss
        expected = [plain_texts(model, prompt, stop) for prompt in space.decode(torch.from_numpy(z)).prompt]
        assert seen == expected
        assert loss == pytest.approx([1 - np.mean([len(text) for text in texts]) for texts in expected])
        assert (expected == free) == (stop == ())
    assert len({tuple(texts) for texts in free}) > 1  # candidates write different texts


def test_a_search_raises_a_function_of_the_user(tiny):
    """A score that no gradient reaches: how often a letter is written."""
    model = tiny("llama")

    def letters(outputs, rows):
        return [text.count("e") for text in outputs]

    task = gfo.Generation(ROWS, template=TEMPLATE, metric=letters, max_tokens=MOST)
    space = gfo.SoftPrompt(model, tokens=3, dim=8, alpha=4.0)
    result = gfo.tune(model, task, space, budget=gfo.Budget(evaluations=60), progress=False)
    assert result.history[-1].best < result.history[0].mean_loss - 0.5
    score = result.score("train")
    assert score["score"] == pytest.approx(1 - score["loss"])


def test_the_answers_of_a_result_are_those_that_are_scored(tiny):
    """They are written before and after the search, which changes them."""
    model, seen = tiny("llama"), []

    def letters(outputs, rows):
        seen.append(outputs)
        return [text.count("e") for text in outputs]

    task = gfo.Generation(ROWS[:1], None, ROWS[1:], template=TEMPLATE, metric=letters, max_tokens=MOST)
    space = gfo.SoftPrompt(model, tokens=3, dim=8, alpha=4.0)
    result = gfo.tune(model, task, space, budget=gfo.Budget(evaluations=40), progress=False)
    result.score("test")
    answers = result.answers("test")
    assert [answers["before"], answers["after"]] == seen[-2:]
    assert answers["before"] != answers["after"]
    assert len(result.answers("train")["after"]) == 1
    with pytest.raises(GfoError, match="split 'dev'"):
        result.answers("dev")
    result.z = np.full(8, np.nan)
    with pytest.raises(GfoError, match="the point after the search failed"):
        result.answers("test")


def test_a_label_is_no_answer_to_be_read(tiny):
    model = tiny("llama")
    rows = [{"text": row["text"], "label": label} for row, label in zip(ROWS, "gbb", strict=True)]
    task = gfo.Classification(rows, template=TEMPLATE, labels={"g": "g", "b": "b"})
    space = gfo.SoftPrompt(model, tokens=3, dim=8)
    result = gfo.tune(model, task, space, budget=gfo.Budget(evaluations=12), progress=False)
    with pytest.raises(GfoError, match=r"writes no text; gfo\.Generation"):
        result.answers("train")


def test_a_function_that_fails_does_not_end_a_run(tiny):
    model = tiny("llama")
    calls = iter(range(10_000))

    def function(outputs, rows):
        if next(calls) % 7 == 3:
            raise RuntimeError("out of luck")
        return [len(text) for text in outputs]

    task = gfo.Generation(ROWS, template=TEMPLATE, metric=function, max_tokens=MOST)
    space = gfo.SoftPrompt(model, tokens=3, dim=8)
    budget = gfo.Budget(evaluations=40)
    with pytest.warns(GfoWarning, match=r"candidate 4 of \d+.*RuntimeError: out of luck") as told:
        result = gfo.tune(model, task, space, budget=budget, progress=False)
    assert len(told) == 1
    losses = [loss for step in result.history for loss in step.loss]
    assert [loss is None for loss in losses] == [i % 7 == 3 for i in range(len(losses))]


def test_an_answer_beyond_the_context(tiny):
    model = tiny("llama")
    space = gfo.SoftPrompt(model, tokens=3, dim=8)
    used = 3 + max(len(model.encode(f"Review: {r['text']}")) + len(model.encode(" It was")) for r in ROWS)
    fits = model.context_length - used

    def build(most):
        return gfo.LocalEvaluator(model, gfo.Generation(ROWS, template=TEMPLATE, max_tokens=most), space)

    build(fits)
    with pytest.raises(GfoError, match=rf"takes {fits + 1} new ones, the model's context has 128"):
        build(fits + 1)


def test_a_run_from_a_config(tiny, tmp_path, capsys, monkeypatch):
    from gfo import cli

    model = tiny("llama")
    model.module.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    for split, rows in (("train", ROWS[:2]), ("test", ROWS[2:])):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "model": {"name": str(tmp_path / "model"), "device": "cpu"},
        "task": {
            "kind": "generation",
            "data_dir": str(tmp_path),
            "train": "train.jsonl",
            "test": "test.jsonl",
            "template": TEMPLATE,
            "metric": "chrf",
            "max_tokens": MOST,
        },
        "space": {"tokens": 3, "dim": 8},
        "budget": {"evaluations": 20},
    }
    write_json(tmp_path / "run.json", values)
    monkeypatch.setattr(
        "sys.argv", ["gfo", "tune", str(tmp_path / "run.json"), "--out", str(tmp_path / "run")]
    )
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    out = capsys.readouterr().out
    assert "chrf" in out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    scores = result["scores"]["after"]["test"]
    assert set(scores) == {"loss", "chrf", "answer_tokens"}
    line = next(line for line in out.splitlines() if "answer_tokens" in line)
    assert f" {scores['answer_tokens']:.1f} " in line  # a number of tokens is no share
    assert "%" not in line
    assert "%" not in line


def test_paths_of_a_section(tmp_path):
    (tmp_path / "c.toml").write_text(
        '[task]\nkind = "generation"\ntemplate = "{a}"\ndata_dir = "there"\ntrain = "hub:a/b:train"\n'
        'dev = "d.csv"\n[budget]\n'
    )
    task = load_config(tmp_path / "c.toml").task
    options = task._options()
    assert options["train"] == "hub:a/b:train"
    assert str(options["dev"]) == "there/d.csv"


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("size", [7, 9])
def test_an_answer_ends_at_a_stop_text_of_several_tokens(tiny, family, size):
    """And the answers' tokens are counted up to it."""
    model, most = tiny(family), 14
    space = gfo.SoftPrompt(model, tokens=3, dim=8, alpha=4.0)
    z = np.random.default_rng(1).standard_normal((3, 8))

    def run(**options):
        task = gfo.Generation(ROWS, template=TEMPLATE, metric=count, max_tokens=most, **options)
        evaluator = gfo.LocalEvaluator(model, task, space)
        batch = evaluator.task.all_rows("train")
        answers = evaluator.answers(z, batch)
        scores = evaluator.task.row_scores(answers, batch)
        return answers, scores["answer_tokens"], evaluator.task, evaluator(z, 0).cost.forward_tokens

    free, _, _, whole_cost = run(stop=())
    text = model.decode([free[0][0]])[0]
    stop = text[3 : 3 + size]  # amid the answer
    assert len(model.encode(stop)) > 1
    stopped, kept, task, cost = run(stop=(stop,))
    assert cost <= whole_cost
    ended = 0
    for k, answers in enumerate(stopped):
        for b, ids in enumerate(answers):
            assert ids == free[k][b][: len(ids)]
            said, before = model.decode([ids, ids[:-1]])
            assert stop not in before
            if stop in said:
                ended += 1
                wanted = next(
                    n for n in range(most) if model.decode([ids[:n]])[0].startswith(said.partition(stop)[0])
                )
                assert kept[k, b] == wanted < len(ids)
            else:
                assert kept[k, b] == len(ids) == len(free[k][b])  # control
    assert ended
    # what an evaluator of another kind wrote on behind the stop text does not count either
    batch = task.all_rows("train")
    np.testing.assert_array_equal(task.row_scores(free, batch)["answer_tokens"], kept)


def count(outputs, rows):
    return [len(text) for text in outputs]
