"""Configs: files, overrides, and one clear line for each mistake."""

import pytest

from gfo.config import DEMO, load_config
from gfo.core.errors import GfoError

CONFIG = """
[task]
train = "train.jsonl"
template = "{text}{soft}"
labels = { a = " x", b = " y" }
[budget]
evaluations = 10
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(CONFIG)
    return path


def test_defaults_and_overrides(path):
    config = load_config(
        path, ["budget.evaluations=30", "space.init=two words", "optimizer.options.population=5"]
    )
    assert config.budget.evaluations == 30
    assert config.space.init == "two words"
    assert config.optimizer.options == {"population": 5}
    assert config.space.tokens == load_config(path).space.tokens == 8


def test_json_round_trip(path, tmp_path):
    config = load_config(path, ["seed=4"])
    (tmp_path / "config.json").write_text(config.model_dump_json(exclude_none=True))
    assert load_config(tmp_path / "config.json") == config
    assert load_config(path) != config


def test_the_demo_config_names_data_that_exist():
    task = load_config(DEMO).task.build(seed=0)
    assert {split: len(rows) for split, rows in task.rows.items()} == {"train": 48, "dev": 48, "test": 240}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("space.kind=soft-promt", "unknown space 'soft-promt': did you mean 'soft-prompt'"),
        ("task.kind=clasification", "unknown task 'clasification': did you mean 'classification'"),
        ("space.token=4", r"unknown key in \[space\] 'token': did you mean 'tokens'"),
        ("bugdet.evaluations=4", "unknown key 'bugdet': did you mean 'budget'"),
        ("budget.evaluations=many", "budget.evaluations = 'many': input should be a valid integer"),
        ("budget", "write key=value"),
        ("seed.x=1", "unknown key|'seed' is a value|seed = "),
        ("task.train.x=1", "'train' is a value, not a section"),
    ],
)
def test_bad_overrides(path, override, words):
    with pytest.raises(GfoError, match=words) as error:
        load_config(path, [override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[task\n", "write TOML"),
        ("", "'task' is missing"),
        (CONFIG.replace("[budget]\nevaluations = 10\n", ""), "'budget' is missing"),
        (CONFIG.replace('template = "{text}{soft}"', ""), "'task.template' is missing"),
    ],
)
def test_bad_files(path, text, words):
    path.write_text(text)
    with pytest.raises(GfoError, match=words) as error:
        load_config(path)
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(GfoError, match=r"cannot read .*none\.toml: No such file"):
        load_config(tmp_path / "none.toml")


def test_memory_of_a_forward_pass(path):
    assert load_config(path).model.memory is None
    assert load_config(path, ["model.memory_gib=0.5"]).model.memory == 2**29
    with pytest.raises(GfoError, match=r"model.memory_gib = 0: .*greater than 0"):
        load_config(path, ["model.memory_gib=0"])
