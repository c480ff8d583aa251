"""What things were made with: recorded by constructors, as plain values that travel."""

import copy
import functools
import json
import math
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import gfo
from gfo.core.recording import NOT_RECORDED, arguments_of, description, plain, remember, walk


@gfo.recorded
class Thing:
    """A thing."""

    def __init__(self, model, size, *more, names=("a", "b"), **options):
        """Its own attributes say nothing."""
        self.unlike = size + 1


class Inherited(Thing):
    """No constructor of its own."""


class Own(Thing):
    """A constructor of its own, which is not recorded."""

    def __init__(self):
        super().__init__(None, 3)


class Bare:
    """Not recorded."""


@dataclass(frozen=True)
class Pair:
    """Plain data."""

    left: int
    right: object = None


def score(outputs, rows):
    """A user's function."""
    return [float(output == row) for output, row in zip(outputs, rows, strict=True)]


def test_arguments_with_their_defaults_and_not_the_attributes():
    thing = Thing("a model", 2, 7, 8, alpha=0.5)
    expected = {"size": 2, "more": [7, 8], "names": ["a", "b"], "alpha": 0.5}
    assert arguments_of(thing) == expected
    assert description(thing) == {"kind": "Thing", **expected}
    assert description(Inherited("a model", 2)) == {
        "kind": "Inherited", "size": 2, "more": [], "names": ["a", "b"],
    }  # fmt: skip
    assert description(Own()) == {"kind": "Own", "arguments": NOT_RECORDED}
    assert description(Bare()) == {"kind": "Bare", "arguments": NOT_RECORDED}
    with pytest.raises(gfo.GfoError, match="Thing: missing a required argument: 'size'"):
        Thing("a model")


def test_what_is_kept_is_not_written_over():
    bare, thing = Bare(), Thing(None, 2)
    for each in (bare, thing):
        remember(each, {"size": 9})
    assert arguments_of(bare) == {"size": 9}
    assert arguments_of(thing)["size"] == 2
    remember(3, {"size": 9})  # takes no attributes


def test_an_argument_called_kind_is_refused():
    class Kind:
        def __init__(self, kind):
            pass

    with pytest.raises(gfo.GfoError, match="cannot be called kind; rename it"):
        gfo.recorded(Kind)


@pytest.mark.parametrize("again", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy, copy.copy])
def test_copies_keep_them(tiny, again):
    thing = Thing("m", 2)
    assert arguments_of(again(thing)) == arguments_of(thing)
    task = gfo.Classification([{"t": "a", "label": "x"}], template="{t}{soft}", labels={"x": " a", "y": " b"})
    assert description(again(task)) == description(task)
    space = gfo.SoftPrompt(tiny("llama"), 2, 5)
    assert description(again(space)) == description(space)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (math.inf, "inf"),
        (math.nan, "nan"),
        ("a text", "a text"),
        ((1, [2, "x"]), [1, [2, "x"]]),
        ({3: (1, 2)}, {"3": [1, 2]}),
        ({"b", "a"}, ["a", "b"]),
        (Pair(1, (2, 3)), {"kind": "Pair", "left": 1, "right": [2, 3]}),
        (Pair, "test_recording.Pair"),
        (Thing(None, 2), description(Thing(None, 2))),
        (functools.partial, "functools.partial"),
    ],
)
def test_plain_values(value, expected):
    found = plain(value)
    assert found == expected
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x" * 5000, "x" * 4999 + "y"),
        (list(range(1000)), [*range(999), 7]),
        ({str(i): i for i in range(1000)}, {str(i): -i for i in range(1000)}),
        ([{"text": "a"}], [{"text": "b"}]),
        (np.arange(4.0), np.arange(4)),
        (torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(3, 2, dtype=torch.bfloat16)),
        (score, lambda outputs, rows: score(rows, outputs)),
        (Pair(1, Thing(None, 2)), Pair(1, Thing(None, 3))),
        ([(Thing(None, 2), 1.0)], [(Thing(None, 2), 2.0)]),
    ],
)
def test_what_differs_is_recorded_as_different(one, other):
    found = plain(one)
    assert found == plain(copy.deepcopy(one))
    assert found != plain(other)
    assert len(json.dumps(found)) < 300


def test_files_are_names_and_objects_without_a_text_are_not_recorded(tmp_path):
    (tmp_path / "train.jsonl").touch()
    assert plain(tmp_path / "train.jsonl") == plain(str(tmp_path / "train.jsonl")) == "train.jsonl"
    assert plain(object()) == f"object, {NOT_RECORDED}"
    assert "0x" not in str(plain([object(), {"a": object()}]))


def test_models_are_their_names_and_nested_things_their_arguments(tiny):
    model = tiny("llama")
    rows = [{"text": "a b c", "label": "x"}]
    task = gfo.Distillation(rows, template="{text}{soft}", teacher=model)
    assert description(task)["teacher"] == model.name
    parts = gfo.LoRASubspace(model, 4, seed=1), gfo.SoftPrompt(model, 2, 3, seed=2)
    found = {path: value for path, _, value in walk(description(gfo.ProductSpace(*parts)))}
    assert found["spaces.0.kind"] == "LoRASubspace"
    assert (found["spaces.0.seed"], found["spaces.1.seed"]) == (1, 2)
    one = gfo.Classification(rows, template="{text}{soft}", labels={"x": " a", "y": " b"})
    two = gfo.LanguageModeling(rows, window=4)
    joint = gfo.Weighted([(one, 1.0), (two, 0.5)], constraints=[gfo.Constraint(two, most=1.0)])
    said = {path: value for path, _, value in walk(description(joint))}
    assert (said["tasks.1.0.window"], said["tasks.1.1"], said["constraints.0.most"]) == (4, 0.5, 1.0)
    assert said["constraints.0.task.kind"] == "LanguageModeling"


def test_every_space_and_task_of_gfo_is_recorded():
    from gfo.core.registry import entries

    for kind in ("space", "task"):
        for entry in entries(kind).values():
            assert hasattr(entry.load().__init__, "__wrapped__"), entry.name


def test_adapters_tell_spaces_around_them_apart(tiny, tmp_path):
    from gfo.report.export import export

    model = tiny("llama")
    task = gfo.Classification([{"t": "a", "label": "x"}], template="{soft}{t}", labels={"x": " a", "y": " b"})
    made = []
    for size in (1, 2):
        evaluator = gfo.LocalEvaluator(model, task, gfo.LoRASubspace(model, 5))
        export(evaluator, size * np.ones(5), "peft", tmp_path / str(size))
        made.append(description(gfo.LoRASubspace.from_peft(tmp_path / str(size), model, 7)))
    assert made[0] == description(gfo.LoRASubspace.from_peft(tmp_path / "1", model, 7))
    assert made[0] != made[1]
    assert made[0]["dim"] == 7
