"""The leaderboard's report: statistics against hand counts, tables, the docs' page."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.leaderboard import report, statistics
from gfo.core.errors import GfoError

ACCURACIES = {  # method -> task -> splits
    "cma": {"a": [0.9, 0.8, 0.85], "b": [0.7, 0.6, 0.65]},
    "random": {"a": [0.7, 0.8, 0.6], "b": [0.5, 0.4, 0.45]},
    "prompt-tuning": {"a": [0.8, 0.7, 0.9], "b": [0.6, 0.5, 0.55]},
}


def outcome(method, accuracy, *, trained=True):
    config = {"optimizer": {"name": method}}
    if method == "prompt-tuning":
        config = {"baseline": {"name": method}}
    steps = [
        {"forward_tokens": 50 * i, "search_seconds": float(i), "dev": {"loss": 1 / i, "accuracy": accuracy}}
        for i in (1, 2, 3)
    ]
    result = {
        "model": "tiny",
        "d": 1234,
        "steps": 3,
        "cost": {"forward_tokens": 150},
        "hardware": {"processor": "a processor"},
        "process": {"cpu_seconds": 12.4, "seconds": 24.8},
        "memory": {"peak_bytes": 2**30},
        "scores": {"after": {"test": {"loss": 1 - accuracy, "accuracy": accuracy}}},
    }
    return {"depends": {"config": config}, "result": result, "history": steps if trained else []}


@pytest.fixture
def entries():
    return statistics.Entries(
        [
            statistics.Entry(task, method, f"s{i}", outcome(method, accuracy))
            for method, tasks in ACCURACIES.items()
            for task, values in tasks.items()
            for i, accuracy in enumerate(values)
        ]
    )


def test_means_and_deviations(entries):
    spread = entries.spread("cma", "a", "accuracy")
    assert spread.mean == pytest.approx(0.85)
    assert spread.deviation == pytest.approx(math.sqrt((0.05**2 + 0.05**2) / 2))
    assert spread.n == 3


def test_ranks_by_hand(entries):
    found = {rank.method: rank for rank in statistics.ranks(entries)}
    # a: cma 1, 1.5, 2; random 3, 1.5, 3; prompt tuning 2, 3, 1. b: 1, 3, 2 three times
    assert found["cma"].rank == pytest.approx((1 + 1.5 + 2 + 3) / 6)
    assert found["random"].rank == pytest.approx((3 + 1.5 + 3 + 9) / 6)
    assert found["prompt-tuning"].rank == pytest.approx((2 + 3 + 1 + 6) / 6)
    assert list(found) == ["cma", "prompt-tuning", "random"]
    assert math.isnan(found["cma"].p)
    difference = np.array([0.2, 0, 0.25, 0.2, 0.2, 0.2])
    assert found["random"].behind == pytest.approx(difference.mean())
    assert found["random"].low < difference.mean() < found["random"].high
    assert found["random"].p == pytest.approx(stats.wilcoxon(difference[difference > 0]).pvalue, abs=1e-3)


def test_p_of_six_wins_is_the_smallest_there_is():
    mean, low, high, p = statistics._behind(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    assert p == pytest.approx(2 * 0.5**6)
    assert 0 < low < mean < high
    assert statistics._behind(np.array([0.1, -0.2, 0.3, -0.4, 0.5, -0.6]))[3] > 0.5


def test_methods_that_were_not_run_everywhere_have_no_rank(entries):
    some = [e for e in entries.all if (e.method, e.split) != ("random", "s2")]
    found = statistics.ranks(statistics.Entries(some))
    assert [rank.method for rank in found] == ["cma", "prompt-tuning"]


def test_who_does_not_beat_random(entries):
    assert statistics.beaten(entries, "random", "accuracy") == {"a": [], "b": []}
    assert statistics.beaten(entries, "cma", "accuracy") == {"a": ["random"], "b": ["random"]}
    assert statistics.beaten(entries, "cma", "loss") == {"a": ["random"], "b": ["random"]}


def test_the_table(entries):
    text = report.table(entries, report.Progress(18, 19, 20, 1.5))
    line = (
        "| `cma` | without gradients | 1,234 | 85.0 ± 5.0 % | 0.150 ± 0.050 | 0.333 ± 0.000 | 3 | 3 | 150 "
        "| 12 | 1,024 MiB |"
    )
    assert line in text
    assert "19 of 20 runs are done; shown are the splits on which all methods were run. What" in text
    assert "What is done took 1.5 CPU hours." in text
    assert "- b, test accuracy: better than `prompt-tuning` (55.0 %): `cma` (65.0 %)." in text
    assert "- a, test accuracy: not better than `random`: none." in text


def test_curves_and_bars_are_drawn(entries, tmp_path):
    from matplotlib.image import imread

    report.plot_scores(entries, str).write(tmp_path / "scores.png")
    report.plot_curves(entries, "a", "A").write(tmp_path / "curves.png")
    for name in ("scores", "curves"):
        assert imread(tmp_path / f"{name}.png")[..., :3].std() > 0.01


def test_the_page_keeps_what_stands_around():
    text = f"before\n{report.MARKS[0]}\nold\n{report.MARKS[1]}\nafter\n"
    new = report.with_table(text, "new")
    assert new == text.replace("old", "new")
    assert report.with_table(new, "new") == new
    with pytest.raises(GfoError, match="there is no place for the table"):
        report.with_table("nothing", "new")


def test_the_short_table_says_what_is_missing(entries):
    lines = report.page_table(entries, report.Progress(18, 18, 18, 1.0)).splitlines()
    assert lines[0] == "| method | | a | b | mean rank |"
    assert lines[2] == "| `cma` | without gradients | 85.0 ± 5.0 % | 65.0 ± 5.0 % | 1.2 |"
    assert len(lines) == 5
    some = report.Progress(18, 18, 114, 1.0)
    assert "So far 18 of 114 runs are done." in report.page_table(entries, some)


def test_shown_are_the_splits_on_which_all_methods_were_run(tmp_path):
    (tmp_path / "a.toml").write_text(
        "splits = { one = 0, two = 1 }\n[all.task]\ntest = 't'\n[methods.cma]\n[methods.random]\n"
    )
    runs = report.definition.read_runs(tmp_path)
    done, shown = [], []
    for run in runs:
        run.write(tmp_path, outcome(run.method, 0.5))
        entries, progress = report.read(tmp_path, tmp_path)
        done.append(progress.done)
        shown.append([f"{e.method}-{e.split}" for e in entries.all])
    assert done == [1, 2, 3, 4]
    whole = ["cma-one", "random-one"]
    assert shown == [["cma-one"], whole, whole, [*whole, "cma-two", "random-two"]]
    assert str(progress) == "all 4 runs are done"
    assert progress.cpu_hours == pytest.approx(4 * 12.4 / 3600)


def test_what_is_committed_is_that_of_the_committed_runs():
    entries, progress = report.read(report.EXPERIMENTS, report.RESULTS)
    assert (report.RESULTS / "table.md").read_text() == report.table(entries, progress)
    page = report.PAGE.read_text()
    assert report.with_table(page, report.page_table(entries, progress)) == page


def test_memory_of_the_committed_run():
    found = json.loads((report.RESULTS / "memory.json").read_text())
    by = {row["method"]: row for row in found["runs"]}
    plain = by[found["plain"]]["peak_mib"]
    for row in by.values():
        assert row["to_plain"] == pytest.approx(row["peak_mib"] / plain, abs=2e-3)
    assert all(row["to_plain"] <= 1.15 for row in by.values() if row["kind"] == "gfo")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--results", "nowhere"], "--results nowhere: no run of the leaderboard is there"),
        (["--experiments", "nowhere"], "--experiments nowhere: it holds no .toml file"),
        (["--page", "nowhere.md"], "nowhere.md: No such file"),
        (["--reed", "x"], "--reed"),
    ],
)
def test_bad_input(arguments, words, capsys):
    assert report.main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
