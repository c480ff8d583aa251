"""Calls of the public names with wrong values: each gives a thing, or one line that says what is wrong."""

import copy
import datetime
import decimal
import functools
import inspect
import math
import random
from pathlib import Path

import numpy as np
import pytest
from figures import Outcomes

import gfo
from gfo.core import registry

SAMPLE, WHOLE = 600, 10_000


class Rude:
    """Neither text, nor equality, nor truth."""

    def __repr__(self):
        raise RuntimeError("no text")

    def __bool__(self):
        raise RuntimeError("no truth")


VALUES = [
    None, True, False, -1, 0, 1, 3, 97, 10**30, 10**400, -(10**400), math.nan, math.inf, -math.inf,
    0.5, 1e308,
    -2.5, 1e-320, "", " ", "x", "a\x00b", "\ud800", "{x}", "{", "a\nb", "\x1b[31m", "loss", "é" * 300, b"x",
    [], [1], ["x"], [[]], [None], [math.nan], {}, {"x": 1}, {1: 2}, {"train": 0}, {"": None}, (),
    (1, 2), set(),
    frozenset({1}), object(), Rude(), len, int, lambda *args: None, np.zeros(0), np.zeros(3),
    np.zeros((2, 2)),
    np.array(["a"]), np.array(None), np.float64("nan"), np.int64(7), np.bool_(True), np.array(3),
    1j, range(3),
    Path("nothing"), Path(""), "/dev/null", ..., NotImplemented, decimal.Decimal("1"),
    datetime.date(2026, 1, 1),
    b"\xff", bytearray(b"x"), [{}], [{"text": None}], [{"text": 3, "label": "+"}], {"text": []},
    slice(3), print,
    gfo, gfo.Budget, gfo.GfoError("x"),
]  # fmt: skip
ROWS = [
    {"text": t, "label": label, "options": ["a", "b"]} for t, label in zip("abcdef", "+-+-+-", strict=True)
]
TASK = {"train": ROWS, "dev": ROWS[:4], "template": "Say {text}\n{soft}:"}
LABELS = {"labels": {"+": " good", "-": " bad"}}


def optimizer(name="snes"):
    return gfo.optimizers.make(name, domain=gfo.Domain.unbounded(3), seed=0)


def bowl(z):
    return (z**2).sum(axis=1)


def classification():
    return gfo.Classification(**TASK, **LABELS)


def targets(model):
    """name -> (what is called, good arguments by name, as functions where each call needs its own)."""
    result = gfo.minimize(optimizer(), bowl, budget=gfo.Budget(evaluations=21))
    budget = {"budget": gfo.Budget(evaluations=8)}
    found = {
        "Budget": (gfo.Budget, {"evaluations": 3, "seconds": 1.0}),
        "Selection": (gfo.Selection, {"metric": "loss", "point": "incumbent"}),
        "StopOnTarget": (gfo.StopOnTarget, {"target": 1.0, "metric": "loss"}),
        "EarlyStopping": (gfo.EarlyStopping, {"patience": 3, "metric": "loss", "least": 0.0}),
        "CSVLog": (gfo.CSVLog, {"path": "log.csv"}),
        "Metric": (gfo.Metric, {"name": "m", "lower_is_better": True, "form": "number", "function": len}),
        "Constraint": (gfo.Constraint, {"task": classification(), "metric": "loss", "most": 1.0}),
        "Domain": (gfo.Domain, {"low": [0.0], "high": [1.0], "integer": [False]}),
        "Domain.box": (gfo.Domain.box, {"low": 0.0, "high": 1.0, "d": 3, "integer": False}),
        "Domain.unbounded": (gfo.Domain.unbounded, {"d": 3}),
        "Domain.joined": (gfo.Domain.joined, {"domains": [gfo.Domain.unbounded(2)]}),
        "register": (gfo.register, {"kind": "metric", "name": "new", "thing": len, "line": ""}),
        "recorded": (gfo.recorded, {"cls": Rude}),
        "datasets.load": (gfo.datasets.load, {"source": ROWS, "limit": 3, "skip": 1, "shuffle": 2}),
        "datasets.few_shot": (gfo.datasets.few_shot, {"rows": ROWS, "k": 1, "seed": 0}),
        "datasets.length_statistics": (
            gfo.datasets.length_statistics,
            {"rows": ROWS, "template": "{text}", "model": model},
        ),
        "Classification": (gfo.Classification, {**TASK, **LABELS, "batch_size": 2, "loss": "ce", "seed": 1}),
        "Generation": (
            gfo.Generation,
            {**TASK, "target": "label", "metric": "exact_match", "max_tokens": 3, "stop": ["."]},
        ),
        "LanguageModeling": (gfo.LanguageModeling, {"train": ROWS, "template": "{soft}{text}"}),
        "MultipleChoice": (gfo.MultipleChoice, {**TASK, "label_field": "label", "options": "options"}),
        "Distillation": (gfo.Distillation, {**TASK, "teacher_template": "{text}"}),
        "Weighted": (gfo.Weighted, {"tasks": [(classification(), 1.0)]}),
        "minimize": (gfo.minimize, {"optimizer": optimizer, "evaluator": bowl, **budget, "out": "run"}),
        "tune": (
            gfo.tune,
            {"model": model, "task": classification(), "space": gfo.SoftPrompt(model, tokens=2, dim=3),
             **budget, "optimizer": "snes", "seed": 1, "dev_every": 1, "progress": False},
        ),
        "baselines.run": (
            gfo.baselines.run,
            {"name": "manual", "model": model, "task": classification(), **budget, "progress": False},
        ),
        "baselines.check": (gfo.baselines.check, {"name": "lora", "options": {}}),
        "compare": (gfo.compare, {"runs": [result], "x": "evaluations"}),
        "Comparison.plot": (gfo.compare([result]).plot, {"path": "c.png", "x": "seconds"}),
        "Result.plot": (result.plot, {"path": "r.svg", "x": "seconds"}),
        "Result.plot_slice": (result.plot_slice, {"points": 2, "seed": 1, "split": "train"}),
        "Result.score": (result.score, {"split": "train"}),
        "Result.nearest_words": (result.nearest_words, {"k": 3}),
        "Result.export_peft": (result.export_peft, {"folder": "peft"}),
        "Result.export_merged": (result.export_merged, {"folder": "merged"}),
        "Result.save": (result.save, {"folder": "saved"}),
        "load_model": (gfo.load_model, {"name": "nothing", "dtype": "float32", "device": "cpu"}),
        "freeze": (gfo.freeze, {"module": model.module, "tokenizer": model.tokenizer, "name": "m",
                                "check": False}),
        "testing.Rosenbrock": (gfo.testing.Rosenbrock, {"d": 3, "seed": 1}),
        "testing.Ellipsoid": (gfo.testing.Ellipsoid, {"d": 3, "seed": 1, "condition": 10.0}),
        "testing.NoisySphere": (gfo.testing.NoisySphere, {"d": 3, "seed": 1, "noise": 0.1}),
        "testing.MixedSphere": (gfo.testing.MixedSphere, {"d": 3, "seed": 1}),
        "testing.OneMax": (gfo.testing.OneMax, {"d": 3, "seed": 1}),
        "optimizers.options_of": (gfo.optimizers.options_of, {"name": "cma"}),
        "LocalEvaluator": (
            gfo.LocalEvaluator,
            {"model": model, "task": classification(), "space": gfo.SoftPrompt(model, tokens=2, dim=3)},
        ),
    }  # fmt: skip
    for name in gfo.optimizers.names():
        if name != "bo":
            found |= {f"optimizers.make {name}": made(name), name: by_class(name)}
    return found | {name: (getattr(gfo, name), good(name, model)) for name in SPACES}


SPACES = (
    "Adapter", "BiasSpace", "DeepPrompt", "DiscretePrompt", "LoRASubspace", "Prefix", "Scaling", "SoftPrompt",
    "ProductSpace",
)  # fmt: skip


def good(name, model):
    """The arguments of a space that it has to have, and a few more, which it has or not."""
    if name == "ProductSpace":
        return {"spaces": [gfo.SoftPrompt(model, tokens=2, dim=3), gfo.Scaling(model, dim=3)]}
    known = inspect.signature(getattr(gfo, name)).parameters
    more = {"tokens": 2, "dim": 3, "rank": 1, "alpha": 1.0, "seed": 0, "layers": "all"}
    return {"model": model} | {key: value for key, value in more.items() if key in known}


def made(name):
    make = functools.partial(gfo.optimizers.make, name)
    options = gfo.optimizers.options_of(name) or ()
    return make, {"domain": gfo.Domain.unbounded(3), "seed": 0} | dict.fromkeys(options, OMITTED)


def by_class(name):
    """The class of an optimizer, as a program of one's own calls it."""
    options = gfo.optimizers.options_of(name) or ()
    arguments = {"domain": gfo.Domain.unbounded(3), "seed": 0} | dict.fromkeys(options, OMITTED)
    return registry.find("optimizer", name).load(), arguments


OMITTED = object()  # an argument that is only given wrongly


def wrong(good, rng):
    """Good arguments with one or two of them wrong, missing or unknown."""
    given = {key: value for key, value in good.items() if value is not OMITTED}
    for _ in range(rng.choice([1, 1, 1, 2])):
        key = rng.choice(list(good))
        change = rng.choice(["value"] * 8 + ["away", "more"])
        if change == "value":
            value = rng.choice(VALUES)
            given[key] = copy.copy(value) if isinstance(value, list | dict | set) else value
        elif change == "away":
            given.pop(key, None)
        else:
            given[rng.choice(["x", key + "s", key[:-1] or "y"])] = rng.choice(VALUES)
    return given


def text(given):
    try:
        return repr(given)[:200]
    except RuntimeError:
        return ", ".join(f"{key}: {type(value).__name__}" for key, value in given.items())


@pytest.mark.parametrize("number", [SAMPLE, pytest.param(WHOLE, marks=pytest.mark.stress)])
def test_wrong_calls(number, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_REGISTERED", {})
    rng, outcomes, known = random.Random(number), Outcomes(), targets(tiny("llama"))
    for i in range(number):
        name = list(known)[i % len(known)]
        function, arguments = known[name]
        given = wrong(arguments, rng)
        registry._REGISTERED.clear()
        call = {key: value() if value is optimizer else value for key, value in given.items()}
        outcomes.of(lambda function=function, call=call: function(**call), f"{name}({text(given)})")
    outcomes.write("calls", number == WHOLE)
    assert outcomes.bad == []
    assert outcomes.counts["refused in a line"] > number / 2
    assert outcomes.counts["taken"] > number / 50
