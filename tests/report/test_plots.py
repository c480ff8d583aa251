"""The figure of a run shows what the history holds."""

import io
import math

import numpy as np
import pytest
from matplotlib import image

from gfo.core.errors import GfoError
from gfo.report.plots import plot_history


def step(evaluations, loss, dev=None, *, best=None, spread=None, tokens=0, seconds=1.0):
    return {
        "evaluations": evaluations,
        "forward_tokens": tokens,
        "seconds": seconds,
        "loss": loss,
        "best": best,
        "dev": dev,
        "spread": spread,
    }


STEPS = [
    step(3, [1.0, 2.0, None], best=1.0, spread=0.5, tokens=30, seconds=4.5),
    step(6, [None, None, None], {"loss": 1.4, "accuracy": 0.5}, best=1.0, spread=0.25, tokens=70, seconds=8),
    step(9, [0.5, 1.0, 0.7, 0.6], {"loss": 1.2, "accuracy": 0.9}, best=0.5, tokens=90, seconds=9.5),
]


def lines(axes):
    """Label -> (x, y) of the lines drawn."""
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


def band(axes):
    """The corners of the one band, as a set."""
    (found,) = axes.collections
    return {tuple(corner.round(9).tolist()) for corner in found.get_paths()[0].vertices}


def test_lines_hold_the_numbers(tmp_path):
    figure = plot_history(STEPS, tmp_path / "plot.png")
    loss, score, spread = figure.axes
    drawn = lines(loss)
    assert drawn["train, median"] == (
        [3, 9],
        pytest.approx([1.5, 0.65]),
    )  # the step that failed as a whole is left out
    assert drawn["train, best so far"] == ([3, 6, 9], [1.0, 1.0, 0.5])
    assert drawn["dev"] == ([6, 9], [1.4, 1.2])
    corners = {(3, 1.25), (3, 1.75), (9, 0.575), (9, 0.775)}  # quartiles by hand
    assert band(loss) == corners
    assert score.lines[0].get_xydata().tolist() == [[6, 50], [9, 90]]
    assert score.get_ylabel() == "dev\naccuracy (%)"
    assert spread.lines[0].get_xydata().tolist() == [[3, 0.5], [6, 0.25]]  # the last was not recorded
    assert loss.get_title(loc="left") == "4 of 10 candidates failed"
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("x", "label", "at"),
    [
        ("evaluations", "evaluations (candidates)", [3, 6, 9]),
        ("forward_tokens", "forward tokens", [30, 70, 90]),
        ("seconds", "seconds", [4.5, 8, 9.5]),
    ],
)
def test_x_axes(x, label, at):
    figure = plot_history(STEPS, x=x)
    assert lines(figure.axes[0])["train, best so far"][0] == at
    assert figure.axes[-1].get_xlabel() == label
    assert all(axes.get_xlim()[0] == 0 for axes in figure.axes)


def test_panels_only_for_what_there_is():
    bare = [{k: v for k, v in each.items() if k != "spread"} for each in STEPS]  # as older histories are
    assert len(plot_history(STEPS).axes) == 3
    assert len(plot_history(bare).axes) == 2
    (only,) = plot_history([{**each, "dev": None} for each in bare]).axes
    assert "dev" not in lines(only)
    (loss_alone,) = plot_history([{**each, "dev": each["dev"] and {"loss": 1.0}} for each in bare]).axes
    assert lines(loss_alone)["dev"] == ([6, 9], [1.0, 1.0])


def test_a_point_that_is_moved_has_no_spread_to_show():
    still = [{**each, "spread": 0.0} for each in STEPS]
    assert len(plot_history(still).axes) == 2
    assert len(plot_history([*still[:2], {**still[2], "spread": 0.1}]).axes) == 3  # control


def test_one_step_can_be_seen():
    figure = plot_history(STEPS[:1])
    loss = figure.axes[0]
    assert all(line.get_marker() not in ("None", None, "") for line in loss.lines)
    (segments,) = loss.collections  # the band, as a thick line
    assert segments.get_segments()[0].tolist() == [[3, 1.25], [3, 1.75]]
    many = [step(i, [1.0 / i, 2.0 / i], best=1.0 / i) for i in range(1, 100)]
    assert plot_history(many).axes[0].lines[0].get_marker() == "None"  # control


def test_no_finite_loss_says_so():
    loss = plot_history([step(2, [None, None]), step(4, [None, None])]).axes[0]
    assert [text.get_text() for text in loss.texts] == ["no finite loss"]
    assert not loss.lines
    assert not plot_history(STEPS).axes[0].texts  # control


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_dev_scores_that_are_not_finite_are_left_out(value):
    scored = {"loss": value, "accuracy": value}
    loss, score, _ = plot_history([STEPS[0], {**STEPS[1], "dev": scored}, STEPS[2]]).axes
    assert lines(loss)["dev"] == ([9], [1.2])
    assert score.lines[0].get_xydata().tolist() == [[9, 90]]
    _, empty, _ = plot_history([STEPS[0], {**STEPS[1], "dev": scored}]).axes
    assert not empty.lines


def test_wide_ranges_are_logarithmic():
    def scale(*losses):
        return plot_history([step(i, [v], best=v) for i, v in enumerate(losses, 1)]).axes[0].get_yscale()

    assert scale(100.0, 1.0) == "log"
    assert scale(1.5, 1.0) == "linear"
    assert scale(100.0, 0.0) == "linear"  # 0 has no logarithm
    assert scale(100.0, -1.0) == "linear"


def test_thousands_can_be_read():
    def ticks(last):
        figure = plot_history([step(0, [1.0], best=1.0), step(last, [1.0], best=1.0)])
        figure.draw_without_rendering()
        return {text.get_text() for text in figure.axes[0].get_xticklabels()}

    assert "2,000" in ticks(4000)
    assert "200k" in ticks(400_000)
    assert "2M" in ticks(4_000_000)


def test_scores_that_are_no_shares_keep_their_unit():
    score = plot_history([step(1, [1.0], {"loss": 1.0, "perplexity": 12.5}, best=1.0)]).axes[1]
    assert score.lines[0].get_ydata().tolist() == [12.5]
    assert score.get_ylabel() == "dev\nperplexity"


def test_a_small_change_of_a_share_stays_small():
    def limits(low, high):
        steps = [step(i, [1.0], {"loss": 1.0, "accuracy": v}, best=1.0) for i, v in enumerate((low, high), 1)]
        return plot_history(steps).axes[1].get_ylim()

    assert np.ptp(limits(0.80, 0.81)) == pytest.approx(11)
    assert limits(0.995, 1.0)[1] == pytest.approx(100.5)
    assert np.ptp(limits(0.2, 0.9)) > 70  # control


@pytest.mark.parametrize(
    ("steps", "path", "x", "words"),
    [
        (STEPS, None, "token", "unknown x 'token': did you mean 'forward_tokens'"),
        ([], None, "evaluations", "the run has no steps, or none yet"),
        ([step(1, [1.0])], None, "forward_tokens", "x = 'forward_tokens': the run counted none"),
        (STEPS, "plot.pgn", "evaluations", r"plot\.pgn: unknown format 'pgn': did you mean 'png'"),
        (STEPS, "none/plot.png", "evaluations", r"none/plot\.png: cannot write there .*; name another file"),
    ],
)
def test_bad_input(steps, path, x, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GfoError, match=words) as caught:
        plot_history(steps, path, x=x)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_notebook_shows_it_smaller_than_a_file_has_it(tmp_path):
    figure = plot_history(STEPS, tmp_path / "plot.png")
    shown, saved = (
        image.imread(source, format="png").shape[1]
        for source in (io.BytesIO(figure._repr_png_()), tmp_path / "plot.png")
    )
    assert (shown, saved) == (576, 936)
