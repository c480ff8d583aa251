"""The benchmark of merged adapters: its pieces, and the table and figure of what they found."""

from __future__ import annotations

import json

import pytest

from benchmarks.merging.__main__ import main, names, parse
from benchmarks.merging.report import report, rows
from benchmarks.merging.tasks import ADAPTERS, TARGETS

OPTIONS = ["--data", "nowhere", "--seeds", "2"]


def scores(i):
    accuracy = {"accuracy": 0.5 + i / 100, "sst2.accuracy": 0.6 + i / 100, "agnews.accuracy": 0.7 - i / 100}
    return {"loss": 1.0 - i / 10, **accuracy}


def found_of(options):
    """What the pieces might have found."""
    found = {}
    for i, name in enumerate(names(options)):
        if name.startswith("controls"):
            some = [*ADAPTERS, "mean", "unchanged", "all at 0.3"]
            found[name] = {
                "scores": {each: {"dev": scores(j), "test": scores(j)} for j, each in enumerate(some)}
            }
        elif name.startswith("search"):
            found[name] = {"test": scores(i)}
    front = {"sst2.accuracy": [0.7, 0.6], "agnews.accuracy": [0.5, 0.8]}
    found["search-trained-two-nsga2-0"]["front"] = front
    return found


def test_the_table_has_controls_and_searches(tmp_path):
    options = parse([*OPTIONS, "--out", str(tmp_path)])
    found = found_of(options)
    assert len(set(names(options))) == len(list(names(options))) == 8 + 2 * 2 + 2 * 2 * 2 * 2 + 1
    report(found, options)
    table = (tmp_path / "table.md").read_text()
    for target in TARGETS:
        methods = dict(rows(found, target))
        assert "e2e (best parent)" in methods  # that of the lowest loss on dev
        assert len(methods["cma"]) == len(methods["ga, random adapters"]) == 2
        assert "sst2, random adapters" not in methods
    assert "| cma | " in table
    assert " ± " in table
    assert (tmp_path / "front.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "merging.json").read_text()) == found


def test_a_folder_of_other_options_is_refused(tmp_path, capsys):
    (tmp_path / "options.json").write_text("{}")
    assert main([*OPTIONS, "--out", str(tmp_path)]) == 1
    assert "it is of other options; name another folder" in capsys.readouterr().err
    with pytest.raises(Exception, match="--groups 0: must be at least 1"):
        parse([*OPTIONS, "--out", str(tmp_path), "--groups", "0"])
