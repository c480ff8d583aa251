"""`gfo data`: public data sets from a hub, here a folder that `datasets` takes for one."""

from __future__ import annotations

import json
import sys

import pytest

from gfo import GfoError, cli
from gfo.tasks.parts.datasets import load
from gfo.tasks.parts.public import SETS, fetch


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Writes a data set as the hub has it, below the working folder, where datasets looks first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def write(name, rows):
        folder = tmp_path / SETS[name].hub
        folder.mkdir(parents=True)
        for split, some in rows.items():
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))

    return write


def phrases(n, start=0):
    return [{"idx": i, "sentence": f"phrase {i} é", "label": i % 2} for i in range(start, start + n)]


@pytest.mark.parametrize("name", SETS)
def test_what_is_known_of_a_set(name):
    of = SETS[name]
    assert of.page.startswith("https://huggingface.co/datasets/")
    assert of.page.count("/") == 5
    assert len(set(of.labels)) == len(of.labels) > 1
    for fact in (of.task, of.source, of.licence):
        assert fact
    assert "label" not in of.fields.values()


def test_a_set_is_written_as_rows_of_gfo(hub, tmp_path, monkeypatch, capsys):
    test = [*phrases(6, 100), {"idx": 0, "sentence": "unlabelled", "label": -1}]
    hub("sst2", {"train": phrases(20), "validation": test})
    monkeypatch.setattr(sys, "argv", ["gfo", "data", "sst2", "--shots", "3"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out = capsys.readouterr().out
    assert stop.value.code == 0
    for words in ("Socher", "stanfordnlp/sst2", "licence: none stated", "negative, positive",
                  "train:   6 rows, 3 of", "test:    6 rows, its validation rows"):  # fmt: skip
        assert words in out
    folder = tmp_path / "data" / "sst2"
    assert sorted(path.name for path in folder.iterdir()) == ["dev.jsonl", "test.jsonl", "train.jsonl"]
    rows = {split: load(folder / f"{split}.jsonl") for split in ("train", "dev", "test")}
    assert [row["label"] for row in rows["train"]] == ["negative", "positive"] * 3
    truth = {f"phrase {i} é": ("negative", "positive")[i % 2] for i in range(200)}
    for split in rows.values():
        assert all(row == {"text": row["text"], "label": truth[row["text"]]} for row in split)
    assert len({row["text"] for split in rows.values() for row in split}) == 18
    with pytest.raises(GfoError, match="is there already; delete it, or give another folder"):
        fetch("sst2", "data/sst2")
    again, other = fetch("sst2", "again", shots=3), fetch("sst2", "other", shots=3, seed=1)
    assert (again.folder / "train.jsonl").read_text() == (folder / "train.jsonl").read_text()
    assert (other.folder / "train.jsonl").read_text() != (folder / "train.jsonl").read_text()  # control


def test_labels_that_are_true_or_false_and_two_fields(hub):
    rows = [{"question": f"is {i} even", "passage": "numbers", "answer": i % 2 == 0} for i in range(9)]
    hub("boolq", {"train": rows, "validation": rows[:1]})
    found = load(fetch("boolq", "out", shots=1).folder / "test.jsonl")
    assert found == [{"passage": "numbers", "question": "is 0 even", "label": "yes"}]


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([{"sentence": "a", "label": 2}], r"are not as they were \(IndexError"),
        ([{"text": "a", "label": 0}], r"are not as they were \(KeyError: 'sentence'\)"),
        ([{"sentence": "a", "label": None}], r"are not as they were \(TypeError"),
        (phrases(4), "class '.*' has 2 different rows, train and dev take 32"),
    ],
)
def test_rows_that_are_others_than_expected_are_one_line(hub, tmp_path, rows, error):
    hub("sst2", {"train": rows, "validation": rows})
    with pytest.raises(GfoError, match=error):
        fetch("sst2", "out")
    assert not (tmp_path / "out").exists()


def test_without_a_hub_a_line_says_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        GfoError, match=r"cannot be fetched \(.+\); .*at https://huggingface.co/datasets/fancyzhx/ag_news"
    ):
        fetch("agnews", "out")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(GfoError, match=r"needs the package datasets; pip install 'gfo-llm\[data\]'"):
        fetch("agnews", "out")
    with pytest.raises(GfoError, match="unknown data set 'sst': did you mean 'sst2'"):
        fetch("sst", "out")
    with pytest.raises(GfoError, match="shots = 0 must be at least 1"):
        fetch("sst2", "out", shots=0)
    assert list(tmp_path.iterdir()) == []
