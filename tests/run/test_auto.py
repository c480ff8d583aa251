"""`auto`: which recipe is taken for which model, task and budget; what is recorded; how such runs go on."""

import json

import numpy as np
import pytest

import gfo
from gfo.config import load_config, make_config
from gfo.core.domain import Domain
from gfo.run.auto import RECIPES, choose, method_for

ROWS = [{"text": f"the food was {word}", "label": label} for word, label in (("good", "+"), ("bad", "-"))] * 4
LABELS = {"+": " good", "-": " bad"}
TOKENS = gfo.Budget(forward_tokens=100_000)
FEW = gfo.Budget(forward_tokens=100)
EVALUATIONS = gfo.Budget(evaluations=100)


def classified(template="Review: {text}\nSentiment:", **more):
    return gfo.Classification(ROWS, template=template, labels=LABELS, **more)


def test_the_recipe_follows_budget_model_answers_and_template(tiny):
    decoder = tiny("llama")
    assert choose(decoder, classified(), TOKENS).recipe.name == "read-token"
    assert choose(decoder, classified(), EVALUATIONS).recipe.name == "read-token"
    assert choose(decoder, classified(), FEW).recipe.name == "last-layer"  # rows take more than half of it
    questions = [{"q": "What of it?", "options": ["the food", "the movie"], "label": 0}] * 2
    options = gfo.MultipleChoice(questions, template="{q}")
    assert choose(decoder, options, TOKENS).recipe.name == "last-layer"
    answers = [{"source": "the food", "target": "good"}] * 2
    for template, name in (("{source}\n{soft}It:", "soft-prompt"), ("{source} It:", "low-rank")):
        written = gfo.Generation(
            answers, template=template, target="target", metric="exact_match", max_tokens=2
        )
        assert choose(decoder, written, TOKENS).recipe.name == name
    for family, mask in (("bert", " It was {mask}"), ("t5", ""), ("bart", "")):
        for soft, name in (("{soft}", "soft-prompt"), ("", "low-rank")):
            task = classified(soft + "Review: {text}" + mask)
            assert choose(tiny(family), task, TOKENS).recipe.name == name, family


def test_a_model_whose_rows_run_whole_falls_back(tiny):
    from gfo.models.whole_rows import WholeRows

    model = tiny("llama")
    whole = WholeRows(model.module, model.tokenizer, "whole")
    assert choose(whole, classified(), TOKENS).recipe.name == "low-rank"
    assert choose(model, classified(), TOKENS).recipe.name == "read-token"  # control


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "bert", "t5"])
def test_what_is_taken_runs_and_is_recorded_in_names(tiny, family, tmp_path, capsys):
    model = tiny(family)
    task = classified("{soft}Review: {text} It was" + (" {mask}" if family == "bert" else ""))
    result = gfo.tune(model, task, budget=gfo.Budget(evaluations=40), out=tmp_path / "run")
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("auto: "))
    recipe = choose(model, task, gfo.Budget(evaluations=40)).recipe
    assert line.startswith(f"auto: {recipe.what} ({recipe.space[0]}, {recipe.optimizer[0]}): ")
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert record["optimizer"] == recipe.optimizer[0]
    assert record["recipe"] == recipe.name
    assert "auto" not in json.dumps([record["space"], record["options"]]).replace('"projection": "auto"', "")
    assert result.loss is not None


def test_a_run_goes_on_with_its_recipe_whatever_another_budget_would_take(tiny, tmp_path):
    """To the bit; a budget that is larger takes another recipe for a new run."""
    model, task, out = tiny("llama"), classified(), tmp_path / "run"
    rows = choose(model, task, TOKENS).situation.tokens
    first, second = (gfo.Budget(forward_tokens=int(rows * factor)) for factor in (1.5, 6))
    assert choose(model, task, first).recipe.name == "last-layer"
    assert choose(model, task, second).recipe.name == "read-token"  # control
    gfo.tune(model, task, budget=first, out=out, progress=False)
    longer = gfo.tune(model, task, budget=second, out=out, resume=True, progress=False)
    whole = gfo.tune(
        model,
        task,
        choose(model, task, first).build(model, _seed()),
        budget=second,
        progress=False,
    )
    assert longer.record["recipe"] == "last-layer"
    assert np.array_equal(longer.z, whole.z)
    assert [step.loss for step in longer.history] == [step.loss for step in whole.history]


def _seed():
    from gfo.core.seeding import stream_seed

    return stream_seed(0, "space")


def test_what_is_given_is_choose(tiny, capsys):
    model, task, budget = tiny("llama"), classified("{text}{soft}"), gfo.Budget(evaluations=24)
    assert gfo.tune(model, task, optimizer="ga", budget=budget).record["optimizer"] == "ga"
    assert "(lora, ga)" in capsys.readouterr().err
    space = gfo.SoftPrompt(model, tokens=2, dim=5)
    assert gfo.tune(model, task, space, budget=budget).record["optimizer"] == "cma"
    words = gfo.DiscretePrompt(model, tokens=2)
    assert gfo.tune(model, task, words, optimizer="auto", budget=budget).record["optimizer"] == "ga"
    assert "auto:" not in capsys.readouterr().err
    assert method_for(Domain.unbounded(1001)) == "openai-es"
    assert method_for(Domain.unbounded(1000)) == "cma"
    assert method_for(Domain.unbounded(3), ["loss", "bytes"]) == "nsga2"
    gfo.tune(model, task, space, optimizer="auto", options=None, budget=budget, progress=False)
    assert capsys.readouterr().err == ""
    with pytest.raises(gfo.GfoError, match=r"space = 'soft-prompt'; give a space such as gfo\.SoftPrompt"):
        gfo.tune(model, task, "soft-prompt", budget=budget)
    with pytest.raises(gfo.GfoError, match="are of an optimizer; name it, or leave them out"):
        gfo.tune(model, task, options={"population": 4}, budget=budget)


def values(**more):
    data = {
        "train": "train.jsonl",
        "dev": "dev.jsonl",
        "template": "Review: {text} It was",
        "labels": LABELS,
    }
    return {"model": {"name": "model", "device": "cpu"}, "task": data, "budget": {"evaluations": 40}, **more}


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny):
    monkeypatch.chdir(tmp_path)
    tiny("llama").module.save_pretrained("model")
    tiny("llama").tokenizer.save_pretrained("model")
    for split in ("train", "dev"):
        rows = [{**row, "text": f"{split} {row['text']}"} for row in ROWS]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_a_config_records_what_it_took(folder, capsys):
    """And a run of that config.json is the same; it goes on, scores and exports without "auto"."""
    result = make_config(values(), "a").run(folder / "run")
    assert "auto: a low-rank change of the token that is read" in capsys.readouterr().err
    kept = load_config(folder / "run" / "config.json")
    assert (kept.space.kind, kept.space.begins, kept.space.targets) == ("lora", "read", ["up_proj"])
    assert kept.optimizer.name == "openai-es"
    again = kept.run(folder / "again")
    assert "auto:" not in capsys.readouterr().err
    assert [step.loss for step in again.history] == [step.loss for step in result.history]
    for given in (
        make_config(values(budget={"evaluations": 80}), "a"),
        load_config(folder / "run" / "config.json"),
    ):
        longer = given.run(folder / "run", resume=True)
    assert len(longer.history) > len(result.history)
    assert result.record["config"]["space"]["kind"] == "lora"
    result.export_peft(folder / "adapter")
    explicit = make_config(values(space={"kind": "auto"}, optimizer={"name": "auto"}), "a")
    assert make_config(values(space={"kind": "auto"}), "a") == explicit
    assert explicit == make_config(values(), "a")
    sweep = gfo.sweep(values(), {"seed": [0], "optimizer.name": ["auto", "ga"]}, out="s", progress=False)
    assert [run.state for run in sweep.found] == ["done", "done"]
    assert load_config("s/seed=0_auto/config.json").optimizer.name == "openai-es"


def test_wrong_configs_of_auto_are_told(folder):
    for more, match in (
        ({"optimizer": {"name": "auto", "options": {"population": 4}}}, "auto has no options"),
        ({"space": {"kind": "auto", "dim": 5}}, "unknown key in .space. 'dim'"),
        ({"space": {"kind": "product", "spaces": [{"kind": "auto"}]}}, "stands for a search of its own"),
        ({"space": {"kind": "auto"}, "baseline": {"name": "gradient"}}, "stands for a search of its own"),
    ):
        with pytest.raises(gfo.GfoError, match=match):
            make_config(values(**more), "a").run(folder / "run")


def test_the_table_says_all_it_needs():
    assert len({recipe.name for recipe in RECIPES}) == len(RECIPES)
    assert RECIPES[-1].decoder is RECIPES[-1].prompt is False  # the last takes whatever is left
    for recipe in RECIPES:
        assert recipe.why.format(rows=1, tokens=2)
