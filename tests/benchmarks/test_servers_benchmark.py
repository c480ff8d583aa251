"""The benchmark of requests, with a server that answers soon."""

from __future__ import annotations

import json

import pytest

from benchmarks.servers import __main__ as servers


def test_it_measures(tmp_path, capsys):
    small = ["--delay", "0.01", "--rows", "2", "--at-once", "8", "--rounds", "3"]
    assert servers.main([*small, "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    one, many = found["points"]
    assert (one["at_once"], many["at_once"]) == (1, 8)
    for point in found["points"]:
        assert (point["requests"], point["second_run_requests"]) == (32, 0)
        assert len(point["rounds"]) == 3
    assert one["seconds"] > 32 * 0.01
    assert found["of_one_at_a_time"] == pytest.approx(many["fastest"] / one["fastest"])
    assert one["fastest"] == min(one["rounds"])
    assert "requests of a second run" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows", "0"], "--rows 0: must be at least 1"),
        (["--at-once", "1"], "--at-once 1 must be 2 or more"),
        (["--delay", "-1"], "--delay -1 0 or more"),
        (["--rounds", "1", "--json", "found.json"], "--rounds 1: --json needs medians"),
        (["--json", "no-such-folder/a.json"], "its folder does not exist"),
    ],
)
def test_bad_input(arguments, words, capsys):
    assert servers.main(arguments) == 2
    assert words in capsys.readouterr().err
