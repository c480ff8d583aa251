"""Nearest words against plain numpy; tables and scores as people read them."""

import csv
import io
import re

import numpy as np
import pytest
import torch

from gfo.core.errors import GfoError
from gfo.core.metric import main_metric
from gfo.report import words
from gfo.report.scores import SplitScores
from gfo.report.tables import Table, scores_table
from gfo.tasks.parts.metrics import own_metric


def test_nearest_words_are_those_of_plain_numpy(monkeypatch):
    monkeypatch.setattr(words, "ROWS_AT_ONCE", 7)  # several parts, the last one short
    rng = np.random.default_rng(0)
    prompt, vocabulary = rng.standard_normal((4, 6)), rng.standard_normal((40, 6))
    cosines = (prompt @ vocabulary.T) / np.outer(
        np.linalg.norm(prompt, axis=1), np.linalg.norm(vocabulary, axis=1)
    )
    rows, found = words.nearest_words(torch.tensor(prompt), torch.tensor(vocabulary), 3)
    order = np.argsort(-cosines, axis=1)[:, :3]
    assert np.array_equal(rows.numpy(), order)
    assert np.allclose(found.numpy(), np.take_along_axis(cosines, order, axis=1), atol=1e-6)
    euclidean = ((prompt[:, None] - vocabulary) ** 2).sum(axis=2).argsort(axis=1)[:, :3]
    assert not np.array_equal(order, euclidean)  # control: it is the angle that counts


def test_a_word_is_nearest_to_itself_at_any_length_and_dtype():
    vocabulary = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    rows, cosines = words.nearest_words(3.0 * vocabulary[[7, 3]], vocabulary.bfloat16(), 1)
    assert rows.tolist() == [[7], [3]]
    assert torch.allclose(cosines, torch.ones(2, 1), atol=1e-2)


def test_a_word_of_zeros_is_near_to_nothing():
    vocabulary = torch.cat([torch.zeros(1, 3), -torch.eye(3)])
    rows, cosines = words.nearest_words(torch.tensor([[1.0, 0.0, 0.0]]), vocabulary, 4)
    assert cosines[0].tolist() == [0, 0, 0, -1]
    assert rows[0, -1] == 1


@pytest.mark.parametrize("k", [0, 51])
def test_bad_k(k):
    with pytest.raises(GfoError, match=f"k = {k} must be 1 to 50"):
        words.nearest_words(torch.ones(1, 2), torch.ones(50, 2), k)


def test_tables_are_aligned():
    table = Table(("", "a"), (("long name", "1"), ("b", "1,000")), ("a note",))
    assert str(table) == "               a\nlong name      1\nb          1,000\na note"
    assert repr(table) == str(table)
    assert "<td" not in Table(("", "a"), (), ("a <note>",))._repr_html_()
    assert "a &lt;note&gt;" in Table(("", "a"), (), ("a <note>",))._repr_html_()
    assert str(Table(("", "a"), (), ("a note",))) == "a note"


@pytest.mark.parametrize(
    ("metric", "value", "text", "change"),
    [
        ("loss", 0.37123, "0.3712", "+0.3712"),
        ("loss", 1.234e-7, "1.23e-07", "+1.23e-07"),
        ("loss", 0.0, "0.0000", "+0.0000"),
        ("one.ce", 1234.5, "1,234.5000", "+1,234.5000"),
        ("accuracy", 0.8444, "84.4%", "+84.4 points"),
        ("one.accuracy", 1.0, "100.0%", "+100.0 points"),
        ("perplexity", 12.345, "12.35", "+12.35"),
        ("accuracy", float("nan"), "-", "-"),
        ("loss", float("inf"), "-", "-"),
    ],
)
def test_numbers(metric, value, text, change):
    assert own_metric(metric).show(value) == text
    assert own_metric(metric).show_change(value) == change


def names(*metrics):
    return [own_metric(name) for name in metrics]


def test_metrics():
    assert main_metric(names("loss", "ce", "accuracy", "macro_f1")).name == "accuracy"
    assert main_metric(names("loss", "perplexity")).name == "perplexity"
    assert main_metric(names("loss")) is None
    assert own_metric("token_f1").form == "share"
    assert own_metric("a.perplexity").form != "share"
    assert own_metric("a.perplexity").name == "a.perplexity"


def test_scores_before_and_after():
    scores = {
        "before": {"test": {"loss": 0.5, "accuracy": 0.5}, "dev": {"loss": 1.0}},
        "after": {"test": {"loss": 0.25, "accuracy": 0.75}, "dev": {"loss": 2.0}},
    }
    assert scores_table(scores, ["test"]).rows == (
        ("test loss", "0.5000", "0.2500", "-0.2500"),
        ("test accuracy", "50.0%", "75.0%", "+25.0 points"),
    )
    assert [row[0] for row in scores_table(scores, ["dev", "test"]).rows][0] == "dev loss"  # noqa: RUF015
    assert scores_table({}, ["test"]).rows == ()


def test_scores_with_standard_errors():
    now = SplitScores({"loss": 0.25, "accuracy": 0.844}, {"loss": 0.0123, "accuracy": 0.0162}, 500)
    scores = {
        "before": {"test": {"loss": 0.5, "accuracy": 0.5}},
        "after": {"test": now, "dev": {"loss": 1.0}},
    }
    table = scores_table(scores, ["test", "dev"], ["the end"])
    assert table.rows == (
        ("test loss", "0.5000", "0.2500 ± 0.0123", "-0.2500"),
        ("test accuracy", "50.0%", "84.4% ± 1.6", "+34.4 points"),
        ("dev loss", "-", "1.0000", "-"),
    )
    assert table.notes == ("± standard error over rows, test n = 500", "the end")
    assert str(now) == "loss 0.2500 ± 0.0123, accuracy 84.4% ± 1.6, n = 500"
    assert scores_table({"after": {"dev": {"loss": 1.0}}}, ["dev"]).notes == ()  # control


TABLE = Table(
    ("", "test_acc", "50% & more"), (("a_b {x} \\", "84.4% ± 1.6", "$1|2"), ("c", "-", "")), ("n = 3",)
)


def test_a_table_as_csv_and_markdown(tmp_path):
    text = TABLE.to_csv(tmp_path / "t.csv")
    assert list(csv.reader(io.StringIO(text))) == [list(row) for row in (TABLE.header, *TABLE.rows)]
    assert (tmp_path / "t.csv").read_text() == text
    lines = TABLE.to_markdown().splitlines()
    assert lines[:3] == [
        "|  | test_acc | 50% & more |", "| --- | ---: | ---: |", r"| a_b {x} \ | 84.4% ± 1.6 | $1\|2 |",
    ]  # fmt: skip
    assert lines[-1] == "n = 3"


def test_a_table_as_latex():
    lines = TABLE.to_latex().splitlines()
    assert lines[0] == r"\begin{tabular}{lrr}"
    assert lines[2] == r" & test\_acc & 50\% \& more \\"
    assert lines[4] == r"a\_b \{x\} \textbackslash{} & 84.4\% $\pm$ 1.6 & \$1|2 \\"
    assert lines[-2:] == [r"\end{tabular}", "% n = 3"]
    assert Table(("a",), (("x\ny",),)).to_latex().splitlines()[4] == r"x\textbackslash{}ny \\"  # one line


def test_a_table_as_pandas():
    frame = TABLE.to_pandas()
    assert frame.loc["c", "test_acc"] == "-"
    assert list(frame.columns) == ["test_acc", "50% & more"]


def test_a_table_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(GfoError, match="table") as caught:
        TABLE.to_latex(tmp_path / "no" / "t.tex")
    assert "\n" not in str(caught.value)


def test_tables_are_readable_on_any_background():
    """A notebook's own colours are theirs: none is set, of letters or behind them."""
    html = Table(("a", "b"), (("1", "<2>"),), ("a note",))._repr_html_()
    assert "<2>" not in html
    assert not {"color", "background", "bgcolor", "#"} & set(re.findall(r"[\w#]+", html.replace("&#", "")))
