"""Configs with something changed at random: each gives a run, or one line that says what is wrong."""

import copy
import functools
import json
import math
import os
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
from figures import Outcomes

from gfo.config import load_config
from gfo.models import loading
from gfo.run.callbacks import Callback

SAMPLE, WHOLE = 150, 3_000
BASE = {
    "seed": 0,
    "dev_every": 1,
    "model": {"name": "model", "dtype": "float32", "device": "cpu", "memory_gib": 0.5},
    "task": {
        "kind": "classification",
        "data_dir": ".",
        "train": "train.jsonl",
        "dev": "dev.jsonl",
        "test": "test.jsonl",
        "template": "Review: {text}\n{soft}Sentiment:",
        "labels": {"+": " good", "-": " bad"},
        "label_field": "label",
        "loss": "ce",
        "batch_size": 4,
        "limits": {"train": 6},
    },
    "space": {"kind": "soft-prompt", "tokens": 3, "dim": 10, "init": "the food", "alpha": 2.0, "seed": 1},
    "optimizer": {"name": "cma", "options": {"population": 4, "sigma0": 0.5}},
    "budget": {"evaluations": 12, "forward_tokens": 100000, "seconds": 60},
    "selection": {"metric": "accuracy", "point": "incumbent"},
    "stop": {"patience": 3, "target": 0.01, "metric": "loss"},
}
WRITING = {"kind": "generation", "target": "label", "metric": "token_f1", "max_tokens": 3, "stop": ["\n"]}
SECTIONS = [
    {},
    {"space": {"kind": "lora", "method": "lora-xs", "rank": 2, "dim": 10, "layers": "upper", "alpha": 1.0}},
    {
        "space": {"kind": "discrete-prompt", "tokens": 3, "candidates": [30, 31, 32]},
        "optimizer": {"name": "ga", "options": {"population": 4}},
    },
    {
        "task": {key: BASE["task"][key] for key in ("train", "dev", "template", "limits")} | WRITING,
        "space": {
            "kind": "product",
            "spaces": [{"kind": "prefix", "tokens": 2, "dim": 4}, {"tokens": 2, "dim": 4}],
        },
        "optimizer": {"name": "snes", "options": {"population": 4}},
        "selection": {"metric": "token_f1"},
    },
]
NUMBERS = [True, False, -1, 0, 1, 2, 3, 7, 97, 1000, 0.5, -2.5, 1e-300, 1e300, math.inf, -math.inf, math.nan]
TEXTS = [
    "", " ", "x", "a\nb", "{text}", "{soft}", "{soft}{soft}", "{nope}{soft}", "{", "é\x00", "../..",
    "/dev/null", "auto", "float16", "bfloat16", "meta", "cuda", "hub:nothing:train", "gfo:sentiment",
    "train.jsonl", "run.toml", "lora", "prefix", "deep-prompt", "scaling", "bias", "discrete-prompt",
    "product", "adapter", "generation", "language-modeling", "multiple-choice", "weighted", "ga", "bo",
    "ipop", "sobol", "spsa", "nevergrad:DE", "nevergrad:", "hinge", "recommendation",
    "macro_f1", "loss", "text", "label",
]  # fmt: skip
OTHERS = [None, [], [1], ["x", 2], [[]], {}, {"x": 1}, {"kind": "lora"}, {"": None}, {"train": 0}, {"+": ""}]
KEYS = [
    "x",
    "",
    "kind",
    "seed",
    "dim",
    "rank",
    "tokens",
    "layers",
    "options",
    "metric",
    "method",
    "target",
    "init",
]


def paths(values, prefix=()):
    """The places in nested sections."""
    for key, value in values.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from paths(value, (*prefix, key))


@st.composite
def mutated(draw):
    """The base with one to three places changed, taken away, or joined by another."""
    config = copy.deepcopy(BASE | draw(st.sampled_from(SECTIONS)))
    for _ in range(draw(st.integers(1, 3))):
        *outer, key = draw(st.sampled_from(list(paths(config))))
        section = config
        for name in outer:
            section = section[name]
        change = draw(st.sampled_from(["value", "value", "value", "away", "more"]))
        if change == "value":
            section[key] = draw(like(section[key]))
        elif change == "away":
            del section[key]
        else:
            section[draw(st.sampled_from(KEYS))] = draw(like(None))
    return config


def like(value):
    """Anything, but mostly of the value's type, so that more than types is wrong."""
    anything = st.sampled_from([*NUMBERS, *TEXTS, *OTHERS]).map(copy.deepcopy)
    kinds = {int: NUMBERS, float: NUMBERS, str: TEXTS}
    alike = st.sampled_from(kinds.get(type(value), OTHERS)).map(copy.deepcopy)
    return st.one_of(alike, alike, alike, anything)


class TwoSteps(Callback):
    """Ends runs without a budget."""

    def step(self, run):
        return "enough" if len(run.history) == 2 else None


def fill(tiny):
    """Write a tiny model and data into the working folder."""
    model = tiny("llama")
    model.module.save_pretrained("model")
    model.tokenizer.save_pretrained("model")
    for split in ("train", "dev", "test"):
        rows = [{"text": text + split, "label": "+-"[i % 2]} for i, text in enumerate("abcdefgh")]
        Path(f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny):
    """The working folder, with a model that is read once."""
    before, patch = os.getcwd(), pytest.MonkeyPatch()
    place = tmp_path_factory.mktemp("configs")
    os.chdir(place)
    fill(tiny)
    load = functools.cache(loading.load_model)
    patch.setattr(  # the model of a config without one takes long to load
        loading, "load_model", lambda name, **how: load("model" if name == "smollm2-135m" else name, **how)
    )
    yield place
    patch.undo()
    os.chdir(before)


def start(config, out):
    """Run a config; what it warns of is no failure."""
    load_config(config).run(out, callbacks=[TwoSteps()], progress=False)


@pytest.mark.parametrize("sections", SECTIONS)
def test_unchanged_they_run(folder, sections):
    (folder / "whole.json").write_text(json.dumps(BASE | sections))
    start(folder / "whole.json", folder / f"whole{SECTIONS.index(sections)}")


@pytest.mark.parametrize("number", [SAMPLE, pytest.param(WHOLE, marks=pytest.mark.stress)])
def test_a_run_or_one_line(folder, number):
    outcomes = Outcomes()

    @hypothesis.settings(
        max_examples=number, suppress_health_check=list(hypothesis.HealthCheck), database=None
    )
    @hypothesis.given(config=mutated())
    def each(config):
        (folder / "mutated.json").write_text(json.dumps(config))
        out = folder / f"run{number}-{sum(outcomes.counts.values())}"
        outcomes.of(lambda: start(folder / "mutated.json", out), json.dumps(config))
        if (out / "result.json").exists():
            assert json.loads((out / "result.json").read_text())["stopped"]

    each()
    outcomes.write("configs", number == WHOLE)
    assert outcomes.bad == []
    assert outcomes.counts["taken"] > number / 10
    assert len(outcomes.lines) > number / 10
