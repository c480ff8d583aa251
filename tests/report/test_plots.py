"""The figure of a run shows what the history holds."""

import pytest

from gfo.report.plots import plot_history


def step(evaluations, loss, dev):
    return {"evaluations": evaluations, "loss": loss, "dev": dev}


STEPS = [
    step(3, [1.0, 2.0, None], None),
    step(6, [None, None, None], {"loss": 1.4, "accuracy": 0.5}),
    step(9, [0.5, 1.0, 0.75], {"loss": 1.2, "accuracy": 0.75}),
]


def test_lines_hold_the_numbers(tmp_path):
    figure = plot_history(STEPS, tmp_path / "plot.png")
    left, right = figure.axes
    mean, dev_loss = left.lines[0], left.lines[1]
    assert list(mean.get_xdata()) == [3, 9]  # the step that failed as a whole is left out
    assert list(mean.get_ydata()) == pytest.approx([1.5, 0.75])
    assert list(dev_loss.get_ydata()) == [1.4, 1.2]
    assert list(right.lines[0].get_ydata()) == [50.0, 75.0]
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_without_dev_there_is_one_axis():
    assert len(plot_history(STEPS[:1]).axes) == 1
