"""`gfo runs` and `gfo --version`."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import bad, caller

import gfo as library

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.fixture
def gfo(monkeypatch, capsys):
    return caller(monkeypatch, capsys)


def test_runs_are_listed_sorted_and_written(gfo, tmp_path):
    command = ("runs", str(RESULTS / "spaces"), "--sort", "test.accuracy", "--filter", "space=lora")
    code, out, _ = gfo(*command, "--out", str(tmp_path / "t.tex"))
    assert code == 0
    lines = [line for line in out.splitlines() if line.startswith("lora")]
    assert len(lines) == 4
    shares = [float(line.split("%")[0].split()[-1]) for line in lines]
    assert shares == sorted(shares, reverse=True)
    assert "prefix" not in out  # control: filtered
    assert (tmp_path / "t.tex").read_text().startswith(r"\begin{tabular}")


def test_what_is_wrong_is_one_line(gfo, tmp_path):
    folder = str(RESULTS / "spaces")
    bad(gfo("runs", folder, "--sort", "test.acuracy"), "did you mean 'test.accuracy'")
    bad(gfo("runs", folder, "--filter", "cma"), "must be KEY=VALUE")
    bad(gfo("runs", str(tmp_path / "none")), "is no folder")
    bad(gfo("runs", str(tmp_path)), "holds no run")
    bad(gfo("runs", folder, "--out", str(tmp_path / "t.pdf")), "unknown form of a table '.pdf'")


def test_the_version(gfo):
    assert gfo("--version") == (0, f"gfo {library.__version__}\n", "")
    assert "runs" in gfo("-h")[1]
