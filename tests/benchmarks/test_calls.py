"""The count of what a step goes through: by hand on a small package, and on a step of gfo."""

from __future__ import annotations

import importlib
import json

import pytest

from benchmarks.calls import __main__ as calls

PACKAGE = {
    "__init__": "",
    "a": "from rooms import b, c\n\ndef run():\n    return own(b.one() + sum(c.two(x) for x in range(3)))\n\n"
    "def own(x):\n    return x\n\ndef back():\n    return 0\n",
    "b": "from rooms import a\n\ndef one():\n    return a.back()\n",
    "c": "from functools import reduce\n\ndef two(x):\n    return reduce(three, [x, x])\n\ndef three(x, y):\n"
    "    return x + y\n",
}


@pytest.fixture
def trace(tmp_path, monkeypatch):
    """A trace of a package with three rooms, and the package."""
    (tmp_path / "rooms").mkdir()
    for name, text in PACKAGE.items():
        (tmp_path / "rooms" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return calls.Trace(tmp_path / "rooms"), importlib.import_module("rooms.a")


def test_counts_by_hand(trace):
    found, package = trace
    package.run()  # not counted
    found.begin()
    package.run()
    found.end()
    package.run()
    counts = found.found()
    by = {row.pop("file"): row for row in counts.pop("by_file")}
    # a: run, own, back, and a generator that is entered four times, the last to end
    assert by["rooms/a.py"] == {"functions": 4, "calls": 1 + 1 + 1 + 4, "visits": 2}
    assert by["rooms/b.py"] == {"functions": 1, "calls": 1, "visits": 1}
    assert by["rooms/c.py"] == {"functions": 2, "calls": 3 + 3, "visits": 3}  # reduce is not of the package
    total = {"functions": 7, "files": 3, "calls": 14, "visits": 6, "rooms_entered_again": 2}
    assert counts == total


def test_a_step_of_gfo(tmp_path, capsys):
    file = tmp_path / "calls.json"
    assert calls.main(["--json", str(file)]) == 0
    found = json.loads(file.read_text())
    files = {row["file"]: row for row in found["by_file"]}
    assert {"gfo/run/loop.py", "gfo/spaces/soft_prompt.py", "gfo/evaluation/local.py"} <= set(files)
    for name in ("functions", "calls", "visits"):
        assert sum(row[name] for row in files.values()) == found[name]
    assert found["functions"] <= 80
    assert found["functions"] <= found["calls"]
    assert len(files) == found["files"] >= found["rooms_entered_again"]
    assert str(tmp_path) not in file.read_text()
    assert f"{found['functions']} functions in {found['files']} files" in capsys.readouterr().out
    later = calls.one_step(4)  # as every later step, but for whether a candidate is the best so far
    assert abs(later["functions"] - found["functions"]) <= 2
    assert calls.one_step(1)["functions"] > found["functions"]  # control: what is computed once


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--step", "0"], "--step 0: must be at least 1"),
        (["--candidates", "-1"], "--candidates -1: must be at least 1"),
        (["--json", "no-such-folder/a.json"], "its folder does not exist"),
    ],
)
def test_bad_input(arguments, words, capsys):
    assert calls.main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
