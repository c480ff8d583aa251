"""Sections of tasks: each is built, with the defaults of its class."""

import inspect
import json

import numpy as np
import pytest

import gfo
from gfo.config import DATA_DIRS, load_config
from gfo.config.tasks import RowsSection, task_section
from gfo.core.errors import GfoError
from gfo.core.registry import entries
from gfo.tasks.parts.base import RowOptions

ROWS = [
    {"text": "the food was good", "label": "a", "options": ["so", "very good"], "answer": 1, "target": "so"},
    {"text": "it was bad", "label": "b", "options": ["so", "no joy", "bad"], "answer": 2, "target": "no"},
]
LABELS = {"a": [" great", " good"], "b": " bad"}
# kind -> keys, and what they must build
BUILT = {
    "classification": (
        {"template": "{text}{soft}", "labels": LABELS, "calibration": "contextual", "normalize": "mean"},
        lambda: gfo.Classification(
            ROWS, template="{text}{soft}", labels=LABELS, calibration="contextual", normalize="mean"
        ),
    ),
    "multiple-choice": (
        {"template": "{text}{soft}", "label_field": "answer", "normalize": "bytes"},
        lambda: gfo.MultipleChoice(ROWS, template="{text}{soft}", label_field="answer", normalize="bytes"),
    ),
    "language-modeling": (
        {"window": 3, "stride": 2},
        lambda: gfo.LanguageModeling(ROWS, window=3, stride=2),
    ),
    "distillation": (
        {"template": "{text}{soft}", "teacher_template": "Say: {text}", "labels": LABELS, "temperature": 2.0},
        lambda: gfo.Distillation(
            ROWS, template="{text}{soft}", teacher_template="Say: {text}", labels=LABELS, temperature=2.0
        ),
    ),
}


def config_of(tmp_path, kind, keys):
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    rows = {"data_dir": str(tmp_path), "train": "train.jsonl"} if kind != "weighted" else {}
    values = {"task": {"kind": kind, **rows, **keys}, "budget": {"evaluations": 10}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    return load_config(tmp_path / "config.json")


def losses(task, model):
    evaluator = gfo.LocalEvaluator(model, task, gfo.SoftPrompt(model, 2, 5))
    return evaluator(np.random.default_rng(0).standard_normal((2, 5)), 0).loss


@pytest.mark.parametrize("kind", BUILT)
def test_a_task_is_built_from_its_section(tiny, tmp_path, kind):
    keys, expected = BUILT[kind]
    config, model = config_of(tmp_path, kind, keys), tiny("llama")
    task = config.task.build(0)
    assert type(task) is type(expected())
    np.testing.assert_array_equal(losses(task, model), losses(expected(), model))
    plain = {key: value for key, value in keys.items() if key in ("template", "labels", "teacher_template")}
    if kind == "multiple-choice":
        plain["label_field"] = "answer"
    other = config_of(tmp_path, kind, plain)
    assert (losses(other.task.build(0), model) != losses(task, model)).all()
    (tmp_path / "again.json").write_text(config.model_dump_json(exclude_none=True))
    assert load_config(tmp_path / "again.json") == config


def weighted(tmp_path, **keys):
    sections = [
        {"kind": kind, "train": "train.jsonl", **BUILT[kind][0]}
        for kind in ("classification", "language-modeling")
    ]
    keys = {"data_dir": str(tmp_path), "tasks": sections} | keys
    return config_of(tmp_path, "weighted", keys)


def test_weighted_tasks(tiny, tmp_path):
    constraints = [{"task": "text", "most": 1.0, "penalty": 3.0}]
    config = weighted(tmp_path, weights=[1.0, 0.5], names=["food", "text"], constraints=constraints)
    one, two = (BUILT[kind][1]() for kind in ("classification", "language-modeling"))
    expected = gfo.Weighted(
        [(one, 1.0), (two, 0.5)],
        names=["food", "text"],
        constraints=[gfo.Constraint(two, most=1.0, penalty=3.0)],
    )
    model, task = tiny("llama"), config.task.build(0)
    assert task.names == ["food", "text"]
    np.testing.assert_array_equal(losses(task, model), losses(expected, model))
    assert (losses(weighted(tmp_path).task.build(0), model) < losses(task, model)).all()
    kept = json.dumps(config.model_dump(exclude_none=True, exclude={"task": DATA_DIRS}))
    assert str(tmp_path) not in kept
    assert str(tmp_path) in config.model_dump_json()
    assert not config.task.has_test


def test_parts_have_batches_of_their_own(tmp_path):
    sections = [{"train": "train.jsonl", "batch_size": 1, "template": "{text}{soft}", "labels": LABELS}] * 2
    task = weighted(tmp_path, tasks=sections).task.build(0)
    a, b = ([part.data.of_step("train", step, np.arange(2))[0] for step in range(20)] for part in task.parts)
    assert a != b


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"weights": [1.0]}, r"task.weights = \[1.0\]: give 2"),
        ({"weights": [1.0, 0.0]}, "weight = 0.0 of task2"),
        ({"names": ["a", "a"]}, "different names"),
        ({"constraints": [{"task": "tsk1", "most": 1.0}]}, "unknown task of a constraint 'tsk1': .*'task1'"),
        ({"constraints": [{"task": "task1"}]}, "either `most` or `least`"),
        ({"constraints": [{"task": "task1", "mst": 1.0}]}, r"unknown key in \[task.constraints.0\] 'mst'"),
        ({"tasks": []}, "tasks: there are none"),
        ({"tasks": [{"kind": "distilation"}]}, "unknown task 'distilation': did you mean 'distillation'"),
        ({"tasks": [{"train": "x", "labels": {}}]}, "'task.tasks.0.template' is missing"),
    ],
)
def test_bad_weighted_sections(tmp_path, keys, words):
    with pytest.raises(GfoError, match=words) as error:
        weighted(tmp_path, **keys).task.build(0)
    assert "\n" not in str(error.value)


def test_a_teacher_by_name(tiny, tmp_path):
    model = tiny("llama")
    tiny("gpt2").module.save_pretrained(tmp_path / "teacher")
    model.tokenizer.save_pretrained(tmp_path / "teacher")
    keys = {"template": "{text}{soft}", "teacher": str(tmp_path / "teacher")}
    found = losses(config_of(tmp_path, "distillation", keys).task.build(0), model)
    expected = gfo.Distillation(ROWS, template="{text}{soft}", teacher=tiny("gpt2"))
    np.testing.assert_allclose(found, losses(expected, model), rtol=1e-5)
    with pytest.raises(GfoError, match="model 'smollm3'"):
        config_of(tmp_path, "distillation", {**keys, "teacher": "smollm3"}).task.build(0)


# what the keys and defaults of 0.1.0 were, beside kind and rows; ... where there is none
KEYS = {
    "classification": {
        "template": ..., "labels": ..., "label_field": "label", "loss": "ce", "normalize": "sum",
        "calibration": "none",
    },
    "generation": {
        "template": ..., "target": "target", "metric": "exact_match", "pattern": None, "max_tokens": 32,
        "stop": ["\n"], "temperature": 0.0,
    },
    "multiple-choice": {
        "template": ..., "options": "options", "label_field": "label", "delimiter": " ", "loss": "ce",
        "normalize": "sum",
    },
    "language-modeling": {
        "template": "{soft}{text}", "window": 128, "stride": None, "mask_share": 0.15,
    },
    "distance": {"field": "text", "window": 128, "stride": None},
    "distillation": {
        "template": ..., "teacher_template": None, "teacher": None, "labels": None, "label_field": "label",
        "over": "vocabulary", "loss": "kl", "temperature": 1.0,
    },
}  # fmt: skip
OF_ROWS = {"kind", "data_dir", "train", "dev", "test"}


@pytest.mark.parametrize("kind", KEYS)
def test_keys_and_defaults_are_those_of_the_class(kind):
    """Every argument is a key, with one default."""
    entry = entries("task")[kind]
    section = task_section(entry)
    assert issubclass(section, RowsSection)
    rows = set(RowOptions.__annotations__) - {"seed"}
    fields = {name: field for name, field in section.model_fields.items() if name not in OF_ROWS | rows}
    found = {
        name: ... if field.is_required() else field.get_default(call_default_factory=True)
        for name, field in fields.items()
    }
    then = KEYS[kind]
    assert {name: found[name] for name in then} == then
    arguments = inspect.signature(entry.load()).parameters
    assert set(found) == set(arguments) - OF_ROWS - {"rows"}
    for name, default in found.items():
        own = arguments[name].default
        expected = own if own is not inspect.Parameter.empty else ...
        assert default == (list(expected) if isinstance(expected, tuple) else expected)
    assert rows < set(section.model_fields)
    assert section.model_fields["train"].is_required()


def test_every_task_is_tested():
    assert set(entries("task")) == {*KEYS, "weighted"}
