"""Tables of differences and wins and the diagram of ranks, of runs made up by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gfo.core.errors import GfoError
from gfo.report.comparison import Comparison
from gfo.report.groups import Group, RunValues
from gfo.report.significance import Blocks, joined

BEST = [{"evaluations": 1, "forward_tokens": 1, "seconds": 1.0, "best": 0.5, "loss": [0.5], "dev": None}]
SCORES = {  # method -> accuracy on tasks a and b by seeds 0 to 2
    "cma": {"a": [0.80, 0.82, 0.84], "b": [0.6, 0.6, 0.7]},
    "ga": {"a": [0.78, 0.79, 0.80], "b": [0.5, 0.6, 0.6]},
    "random": {"a": [0.70, 0.71, 0.69], "b": [0.4, 0.5, 0.5]},
}


def compared(scores=SCORES):
    groups = [
        Group(
            f"{method}, {task}",
            tuple(
                RunValues(BEST, {"loss": 1 - value, "accuracy": value}, 1.0, block=f"{task} {seed}")
                for seed, value in enumerate(values)
            ),
            method,
        )
        for method, of_tasks in scores.items()
        for task, values in of_tasks.items()
    ]
    return Comparison(tuple(groups))


def test_methods_are_compared_on_the_same_tasks_and_seeds():
    blocks = Blocks.of(compared().groups, None)
    assert (blocks.methods, blocks.name) == (("cma", "ga", "random"), "test accuracy")
    assert blocks.values.T[0].tolist() == [0.80, 0.82, 0.84, 0.6, 0.6, 0.7]
    fewer = compared({**SCORES, "ga": {"a": [0.78, 0.79]}})
    assert np.isnan(Blocks.of(fewer.groups, "loss").values[:, 1]).tolist() == [False, False, *[True] * 4]
    assert set(Blocks.of(fewer.groups, "train_loss").values[:, 0]) == {0.5}


def test_the_table_of_differences():
    table = compared().differences(against="random")
    assert [row[0] for row in table.rows] == ["cma - random", "ga - random"]
    first = dict(zip(table.header, table.rows[0], strict=True))
    mean = 100 * np.mean([0.10, 0.11, 0.15, 0.2, 0.1, 0.2])
    assert first["mean"] == f"{mean:+.1f} points"
    assert (first["pairs"], first["p"], first["p (Holm)"]) == ("6", "0.0312", "0.0625")  # 2 of 64
    every = compared().differences("loss")
    assert [row[0] for row in every.rows] == ["cma - ga", "cma - random", "ga - random"]
    assert every.rows[1][2].startswith("-0.1")  # losses are lower
    few = compared({name: {"a": of["a"]} for name, of in SCORES.items()}).differences()
    assert any("3 pairs: p cannot be below 0.25" in note for note in few.notes)


def test_the_table_of_wins():
    table = compared().wins()
    assert table.rows[0][1:] == ("", "5.5", "6")  # one tie with ga
    assert table.rows[2][1:] == ("0", "0", "")
    assert compared().wins("loss").rows[0][1:] == ("", "5.5", "6")


def test_bars_join_what_is_not_told_apart():
    assert joined(np.array([1.0, 1.5, 2.5, 4.0]), 1.2) == [(0, 1), (1, 2)]
    assert joined(np.array([1.0, 1.5, 2.0]), 1.2) == [(0, 2)]
    assert joined(np.array([1.0, 3.0]), 1.2) == []


def test_the_diagram_of_ranks(tmp_path):
    figure = compared().plot_ranks(tmp_path / "ranks.pdf")
    [axes] = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["cma", "ga", "random"]
    ranks = axes.lines[0].get_xdata().tolist()
    assert ranks == pytest.approx([6.5 / 6, 11.5 / 6, 3])
    assert "6 tasks and seeds" in figure.get_suptitle()
    assert (tmp_path / "ranks.pdf").stat().st_size > 1000


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda c: c.differences("acuracy"), "did you mean 'accuracy'"),
        (lambda c: c.differences(against="cmaa"), "did you mean 'cma'"),
        (lambda c: compared({"cma": SCORES["cma"]}).wins(), r"one method, \['cma'\]; give runs of two"),
        (lambda c: compared({n: {n: v["a"]} for n, v in SCORES.items()}).plot_ranks(), "0 common tasks"),
    ],
)
def test_errors_are_one_line(act, words):
    with pytest.raises(GfoError, match=words) as caught:
        act(compared())
    assert "\n" not in str(caught.value)
