"""Comparisons: aggregation by hand, labels, the figure and the table."""

import math

import numpy as np
import pytest
from matplotlib.text import Text

from gfo.core.errors import GfoError
from gfo.report.comparison import Comparison
from gfo.report.curves import dev_curve, means, quartiles, train_curve
from gfo.report.groups import Group, RunValues, group_runs
from gfo.report.labels import flatten, labels, seeds


def steps(*points, dev=None):
    """Points (evaluations, best) as lines of a history; dev: evaluations -> dev loss."""
    return [
        {
            "evaluations": e,
            "forward_tokens": 10 * e,
            "seconds": e / 2,
            "best": best,
            "loss": [best],
            "dev": {"loss": dev[e]} if dev and e in dev else None,
        }
        for e, best in points
    ]


def run(*points, test=None, seconds=1.0, dev=None):
    return RunValues(steps(*points, dev=dev), test or {}, seconds)


A = run((2, 9.0), (4, 5.0), (6, 1.0), test={"loss": 0.5, "accuracy": 0.75}, seconds=10, dev={2: 3.0, 4: 4.0})
B = run((3, 7.0), (5, 3.0), test={"loss": 0.7, "accuracy": 0.85}, seconds=20, dev={5: 2.0})
C = run((2, 8.0), (8, 4.0), seconds=30)


def test_curves():
    x, y = train_curve(A.steps, "forward_tokens")
    assert (x.tolist(), y.tolist()) == ([20, 40, 60], [9, 5, 1])
    x, y = dev_curve(A.steps, "evaluations")  # 4.0 is no new lowest; 3.0 holds until the run's end
    assert (x.tolist(), y.tolist()) == ([2, 4, 6], [3, 3, 3])
    x, y = train_curve(steps((2, None), (4, math.nan), (6, 2.0)), "evaluations")
    assert (x.tolist(), y.tolist()) == ([6], [2])
    assert len(dev_curve(C.steps, "evaluations")[0]) == 0


def test_quartiles_by_hand():
    """Of three runs; B and C begin at 3 and 2, A ends at 6 and B at 5."""
    grid, found = quartiles([train_curve(each.steps, "evaluations") for each in (A, B, C)])
    assert grid.tolist() == [3, 4, 5, 6, 8]
    # at 3: A 9, B 7, C 8; at 4: 5, 7, 8; at 5: 5, 3, 8; at 6: 1, 3, 8; at 8: 1, 3, 4
    assert found[1].tolist() == [8, 7, 5, 3, 3]
    assert found[0].tolist() == [7.5, 6, 4, 2, 2]
    assert found[2].tolist() == [8.5, 7.5, 6.5, 5.5, 3.5]
    empty = (np.empty(0), np.empty(0))
    assert quartiles([empty])[0].size == 0
    alone = quartiles([empty, train_curve(C.steps, "evaluations")])
    assert alone[1].tolist() == [[8, 4]] * 3


def test_the_figure_holds_the_numbers(tmp_path):
    comparison = Comparison((Group("two", (A, B)), Group("one", (C,))))
    figure = comparison.plot(tmp_path / "figure.png")
    train, dev = figure.axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in train.lines}
    assert drawn["two"] == [[3, 8], [4, 6], [5, 4], [6, 2]]
    assert drawn["one"] == [[2, 8], [8, 4]]
    assert len(train.collections) == 1  # a band for two seeds, none for one
    assert {line.get_label(): line.get_xydata().tolist() for line in dev.lines}["two"] == [[5, 2.5], [6, 2.5]]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["two", "one"]  # by the last loss
    assert [axes.get_xlabel() for axes in (train, dev)] == ["evaluations (candidates)"] * 2
    tokens = comparison.plot(x="forward_tokens").axes[0]
    assert tokens.lines[0].get_xdata().tolist() == [30, 40, 50, 60]
    assert len(Comparison((Group("one", (C,)),)).plot().axes) == 1  # no dev, no panel
    assert (tmp_path / "figure.png").exists()


def test_many_runs_can_be_told_apart_and_hide_nothing():
    groups = tuple(Group(f"m{i}", (run((1, 30.0 - i), (2, 20.0 - i)),)) for i in range(14))
    figure = Comparison(groups).plot()
    looks = {
        (line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines if len(line.get_xdata()) > 1
    }
    assert len(looks) == 14
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert all(not legend.overlaps(axes.get_window_extent()) for axes in figure.axes)
    assert figure.legends[0].get_texts()[0].get_text() == "m13"


def test_the_table_holds_mean_and_sample_deviation():
    comparison = Comparison((Group("two", (A, B)), Group("one", (C,))))
    two, one = comparison.rows()
    assert (two["runs"], two["scored"], one["scored"]) == (2, 2, 0)
    assert (two["evaluations"], two["forward_tokens"], two["seconds"]) == (5.5, 55, 15)
    assert two["train_loss"] == pytest.approx((2.0, math.sqrt(2)))  # of 1 and 3
    assert two["test_accuracy"] == pytest.approx((0.8, 0.1 / math.sqrt(2)))  # of 0.75 and 0.85
    assert one["train_loss"][0] == 4
    assert math.isnan(one["train_loss"][1])
    text = str(comparison).splitlines()
    assert text[0].split() == [
        "runs", "evaluations", "tokens", "seconds", "train", "loss", "test", "loss", "test", "accuracy",
    ]  # fmt: skip
    assert "2.0000 ± 1.4142" in text[1]
    assert "80.0% ± 7.1" in text[1]
    assert text[2].split() == ["one", "1", "8", "80", "30", "4.0000", "-", "-"]
    assert text[3:] == ["one: 0 of 1 scored on test"]
    html = comparison._repr_html_()
    assert html.count("<tr>") == 3
    assert "80.0% ± 7.1" in html
    assert repr(comparison) == str(comparison)


def test_a_run_that_failed_as_a_whole():
    failed = run((4, None))
    comparison = Comparison((Group("failed", (failed,)), Group("one", (C,))))
    assert "failed     1            4      40        1           -" in str(comparison)
    figure = comparison.plot()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "failed"]


def test_a_method_without_steps_has_a_row_and_no_line():
    fixed = Group("fixed", (RunValues([], {"accuracy": 0.5}, 0.0),))
    comparison = Comparison((fixed, Group("one", (C,))))
    assert str(comparison).splitlines()[1].split() == ["fixed", "1", "0", "0", "0", "-", "50.0%"]
    assert [text.get_text() for text in comparison.plot().legends[0].get_texts()] == ["one"]
    with pytest.raises(GfoError, match="none of the runs has steps"):
        Comparison((fixed,)).plot()


def test_html_is_escaped():
    assert "<b>" not in Comparison((Group("<b>", (C,)),))._repr_html_()


def test_only_runs_that_differ_by_known_unequal_seeds_are_one_group():
    one, other = {"optimizer": "cma"}, {"optimizer": "snes"}
    assert group_runs([one, one, one], [0, 1, 2]) == [[0, 1, 2]]
    assert group_runs([one, other, one], [0, 0, 1]) == [[0, 2], [1]]
    assert group_runs([one, one, one], [0, 1, 1]) == [[0], [1], [2]]  # who knows how they differ
    assert group_runs([one, one, other], [0, None, 0]) == [[0], [1], [2]]


def facts(optimizer="cma", kind="soft-prompt", **more):
    return flatten({"seed": 1, "optimizer": {"name": optimizer, "options": more}, "space": {"kind": kind}})


@pytest.mark.parametrize(
    ("runs", "names", "wanted"),
    [
        ([facts(), facts("snes")], ["", ""], ["cma", "snes"]),
        ([facts(), facts(kind="prefix")], ["", ""], ["soft-prompt", "prefix"]),
        ([facts(), facts("snes", "prefix")], ["", ""], ["cma, soft-prompt", "snes, prefix"]),
        ([facts()], ["x-seed1"], ["cma, soft-prompt"]),
        (
            [facts(population=8), facts(population=16)],
            ["", ""],
            ["cma, soft-prompt, population 8", "cma, soft-prompt, population 16"],
        ),
        (
            [facts("cma", population=8), facts("cma"), facts("snes")],
            ["", "", ""],
            ["cma, population 8", "cma", "snes"],
        ),
        ([facts(a=1, b=1, c=1, d=1), facts()], ["wide-seed0", "plain--seed3"], ["wide", "plain"]),
        ([facts(), facts()], ["mine-seed0", "mine-seed0b"], ["mine", "mine-seed0b"]),
        ([facts(), facts()], ["same", "same"], ["cma, soft-prompt #1", "cma, soft-prompt #2"]),
        ([{}, {}], ["", ""], ["run #1", "run #2"]),
        (
            [facts(text="a" * 50), facts()],
            ["", ""],
            ["cma, soft-prompt, text " + "a" * 27 + "…", "cma, soft-prompt"],
        ),
    ],
)  # fmt: skip
def test_labels_say_what_differs(runs, names, wanted):
    assert labels(runs, names) == wanted


def test_flattened_facts_leave_out_seeds_which_are_told_apart_by_their_place():
    values = {
        "seed": 1,
        "a": {"seed": 2, "b": [1], "parts": [{"seed": 3, "d": 4}, {"d": 5}]},
        "c": True,
        "data_dir": "x",
        "none": {},
    }
    assert flatten(values) == {"a.b": "[1]", "a.parts.0.d": "4", "a.parts.1.d": "5", "c": "true"}
    assert seeds(values) == {"seed": 1, "a.seed": 2, "a.parts.0.seed": 3}


def colours(figure):
    return {line.get_label(): line.get_color() for line in figure.axes[0].lines if line.get_label()[0] != "_"}


def test_a_group_without_dev_leaves_the_panels_their_room():
    both = [Group(name, (A,)) for name in ("cma", "ga")]
    one = [both[0], Group("ga", (run((2, 9.0), (6, 1.0)),))]
    widths = []
    for groups in (both, one):
        figure = Comparison(tuple(groups)).plot()
        figure.canvas.draw()
        widths.append([axes.get_position().width for axes in figure.axes])
    np.testing.assert_allclose(widths[1], widths[0], rtol=0.02)
    assert min(widths[0]) > 0.3


def test_a_method_keeps_its_colour():
    """Whoever wins, whatever else is drawn, and however many seeds there are."""
    low, high = run((2, 4.0), (4, 1.0)), run((2, 4.0), (4, 2.0))
    first = colours(Comparison((Group("cma", (low,)), Group("ga", (high,)))).plot())
    turned = colours(Comparison((Group("cma", (high,)), Group("ga", (low,)))).plot())
    assert first == turned
    assert len(set(first.values())) == 2
    alone = colours(Comparison((Group("cma (2 seeds)", (low, high)),)).plot())
    assert alone["cma (2 seeds)"] == first["cma"]
    many = colours(Comparison(tuple(Group(f"method {i}", (low,)) for i in range(7))).plot())
    assert len(set(many.values())) == 7


@pytest.mark.parametrize("name", ["$", "a$b$", r"$\frac$", "_hidden", "a\x1b[31m", "[bold]a", "<b>", "\\$x"])
def test_names_are_shown_as_they_are(tmp_path, name):
    steps = run([1.0, 0.5]).steps
    comparison = Comparison((Group(name, (RunValues(steps, {}, 1.0),)),))
    legend = comparison.plot(tmp_path / "plot.svg").legends[0]
    assert len(legend.get_texts()) == 1
    assert "\x1b" not in str(comparison) + comparison._repr_html_()
    assert "<b>" not in comparison._repr_html_()


def test_the_numbers_of_a_comparison_as_pandas():
    frame = Comparison((Group("x", (A, B)), Group("y", (C,)))).to_pandas()
    assert frame.loc["x", "test_accuracy"] == pytest.approx(0.8)
    assert frame.loc["x", "test_accuracy_sd"] == pytest.approx(np.std([0.75, 0.85], ddof=1))
    assert frame.loc["y", "train_loss"] == 4.0
    assert np.isnan(frame.loc["y", "test_accuracy"])
    latex = Comparison((Group("x_1", (A, B)),)).to_latex()
    assert r"x\_1 & 2 &" in latex
    assert r"80.0\% $\pm$ 7.1" in latex


def test_the_mean_and_its_interval_by_hand():
    """At 3: 9, 7 and 8, whose mean is 8 and deviation 1; t of two degrees of freedom is 4.3027."""
    grid, (low, middle, high) = means([train_curve(each.steps, "evaluations") for each in (A, B, C)])
    assert grid.tolist() == [3, 4, 5, 6, 8]
    assert middle.tolist() == pytest.approx([8, 20 / 3, 16 / 3, 4, 8 / 3])
    assert (high - middle)[0] == (middle - low)[0] == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    assert means([train_curve(C.steps, "evaluations")])[1].tolist() == [[8, 4]] * 3  # no interval of one
    assert means([])[0].size == 0


def test_a_figure_with_means_or_a_line_a_seed():
    comparison = Comparison((Group("two", (A, B)), Group("one", (C,))))
    train = comparison.plot(band="mean").axes[0]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in train.lines}
    assert drawn["two"] == [[3, 8], [4, 6], [5, 4], [6, 2]]
    band = train.collections[0].get_paths()[0].vertices[:, 1]
    assert max(band) == pytest.approx(8 + 12.706, rel=1e-4)  # t of one degree of freedom, deviation sqrt 2
    train = comparison.plot(band="seeds").axes[0]
    lines = [line.get_xydata().tolist() for line in train.lines if len(line.get_xdata()) > 1]
    assert sorted(lines) == [[[2, 8], [8, 4]], [[2, 9], [4, 5], [6, 1]], [[3, 7], [5, 3]]]
    assert len(train.collections) == 0
    assert len(train.figure.legends[0].get_texts()) == 2  # a name a method


def test_a_panel_of_test_scores_holds_methods_without_a_search():
    manual = RunValues([], {"accuracy": 0.5}, 1.0)
    comparison = Comparison((Group("two (2 seeds)", (A, B)), Group("manual", (manual,)), Group("one", (C,))))
    *_, test = comparison.plot(metric="accuracy").axes
    assert test.get_title(loc="left") == "test accuracy"
    assert [words.get_text() for words in test.texts] == ["two", "manual"]  # "one" was not scored
    assert [line.get_xdata()[0] for line in test.lines if line.get_marker() == "o"] == pytest.approx(
        [0.8, 0.5]
    )
    (interval,) = test.collections  # of the two seeds
    assert interval.get_segments()[0][:, 0].tolist() == pytest.approx(
        [0.8 - 12.706 * 0.05, 0.8 + 12.706 * 0.05], rel=1e-3
    )
    with pytest.raises(GfoError, match="unknown test metric 'acuracy': did you mean 'accuracy'"):
        comparison.plot(metric="acuracy")


@pytest.mark.parametrize(("size", "width"), [("single", 3.4), ("double", 7.0)])
def test_sizes_of_papers(size, width, tmp_path):
    comparison = Comparison((Group("two", (A, B)), Group("one", (C,))))
    figure = comparison.plot(tmp_path / "figure.pdf", size=size, metric="accuracy")
    assert figure.get_figwidth() == width
    assert {words.get_fontsize() for words in figure.findobj(Text) if words.get_text()} == {7.5}
    drawn = (tmp_path / "figure.pdf").read_bytes()
    assert b"/FontFile2" in drawn
    assert b"/Type3" not in drawn  # fonts are embedded as they are
    assert comparison.plot().get_figwidth() > 8  # control
    for option in ("size", "band"):
        with pytest.raises(GfoError, match=f"unknown {option} 'x'"):
            comparison.plot(**{option: "x"})


def test_a_dot_alone_does_not_stretch_a_logarithmic_axis():
    points = [(1, 1e9), *((i, 200.0 / i**2) for i in range(2, 30))]
    (alone,) = Comparison((Group("a", (run(*points),)),)).plot().axes
    assert alone.get_yscale() == "log"
    assert alone.get_ylim()[1] < 1000
    (all_of_them,) = Comparison((Group("a", (run(*points, (31, 1e-3)),)),)).plot().axes
    assert all_of_them.get_ylim()[0] > 0.01
    few = Comparison((Group("a", (run((1, 1e9), (2, 1.0)),)),)).plot().axes[0]
    assert few.get_ylim()[1] > 1e9  # control: of few values none is alone
