"""Metrics of text against the libraries' command lines, hand calculations, and what must differ."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
import sacrebleu

from gfo import GfoError
from gfo.core.registry import entries
from gfo.tasks.parts.text_metrics import (
    METRICS,
    REGEX,
    NumberMatch,
    number_or_text,
    squad_normalized,
)

EXAMPLES = Path(__file__).parent / "examples"
FILES = [EXAMPLES / f"references-{i}.txt" for i in (1, 2)]
OUTPUTS = (EXAMPLES / "outputs.txt").read_text().splitlines()
REFERENCES = [file.read_text().splitlines() for file in FILES]


def score(name, references, outputs=OUTPUTS):
    """By gfo; `references` are streams, as the command lines have them."""
    return METRICS[name]([list(texts) for texts in zip(*references, strict=True)])(outputs)


def run(*command):
    done = subprocess.run([sys.executable, "-m", *map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_sacrebleu_command_line(name, number):
    command = ["-i", EXAMPLES / "outputs.txt", "-m", name, "--score-only", "--width", 8]
    expected = float(run("sacrebleu", *FILES[:number], *command)) / 100
    assert 0.05 < expected < 0.95
    assert score(name, REFERENCES[:number]) == pytest.approx(expected, abs=1e-9)
    assert score(name, REFERENCES[:number], OUTPUTS[::-1]) != pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL"])
def test_rouge_command_line(tmp_path, name):
    options = {
        "target_filepattern": FILES[0],
        "prediction_filepattern": EXAMPLES / "outputs.txt",
        "output_filename": tmp_path / "scores.csv",
        "rouge_types": name,
    }
    run("rouge_score.rouge", "--noaggregate", *(f"--{option}={value}" for option, value in options.items()))
    with (tmp_path / "scores.csv").open() as file:
        rows = [float(row[f"{name}-F"]) for row in csv.DictReader(file)]
    assert len(rows) == len(OUTPUTS)
    expected = sum(rows) / len(rows)
    assert 0.05 < expected < 0.95
    assert score(name, REFERENCES[:1]) == pytest.approx(expected, abs=1e-6)  # the file's digits
    assert score(name, REFERENCES[:1], OUTPUTS[::-1]) != pytest.approx(expected, abs=1e-2)


def test_rouge_takes_the_best_reference_of_each_row():
    single = [
        [METRICS["rouge1"]([[text]])([output]) for text, output in zip(texts, OUTPUTS, strict=True)]
        for texts in REFERENCES
    ]
    best = [max(pair) for pair in zip(*single, strict=True)]
    assert best not in single
    assert score("rouge1", REFERENCES) == pytest.approx(sum(best) / len(best))


def answers():
    with (EXAMPLES / "answers.tsv").open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.parametrize("name", ["exact_match", "token_f1"])
def test_answers_by_hand(name):
    """The numbers are worked out by hand from SQuAD's rules."""
    rows = answers()
    for row in rows:
        found = METRICS[name]([row["references"].split("|")])([row["output"]])
        assert found == pytest.approx(float(Fraction(row[name]))), row
    together = METRICS[name]([row["references"].split("|") for row in rows])([r["output"] for r in rows])
    assert together == pytest.approx(float(sum(Fraction(row[name]) for row in rows) / len(rows)))


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Cat,\tthe hat", "cat hat"),
        ("theatre and other anthems", "theatre and other anthems"),
        ("a.b", "ab"),
        ("“Œuvre”", "“œuvre”"),  # only ASCII punctuation is removed
        ("  ", ""),
    ],
)
def test_squad_normalization(text, normalized):
    assert squad_normalized(text) == normalized


def test_bleu_by_hand():
    """Precisions 5/6, 3/5, 2/4, 1/3, no brevity penalty."""
    found = METRICS["bleu"]([["the cat sat on a mat"]])(["the cat sat on the mat"])
    assert found == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4))


def test_bleu_is_of_the_corpus_not_the_mean_of_rows():
    rows = [[output, first] for output, first in zip(OUTPUTS, REFERENCES[0], strict=True)]
    mean = sum(sacrebleu.sentence_bleu(output, [first]).score for output, first in rows) / len(rows) / 100
    corpus = sacrebleu.corpus_bleu(OUTPUTS, REFERENCES[:1]).score / 100
    assert abs(mean - corpus) > 0.05
    assert score("bleu", REFERENCES[:1]) == pytest.approx(corpus)


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_rows_with_different_numbers_of_references(name):
    """A reference that stands twice changes nothing, so that it stands for one that is missing."""
    some = [[a, b] if i % 2 else [a] for i, (a, b) in enumerate(zip(*REFERENCES, strict=True))]
    filled = [[texts[0], texts[-1]] for texts in some]
    found = METRICS[name](some)(OUTPUTS)
    assert found == pytest.approx(METRICS[name](filled)(OUTPUTS))
    assert found != pytest.approx(score(name, REFERENCES))
    assert found != pytest.approx(score(name, REFERENCES[:1]))


@pytest.mark.parametrize("name", METRICS)
def test_the_best_is_one_and_the_worst_zero(name):
    long = [texts for texts in REFERENCES[0] if len(texts.split()) > 3]
    assert METRICS[name]([[text] for text in long])(long) == pytest.approx(1)
    assert METRICS[name]([[text] for text in long])(["" for _ in long]) == 0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,234.50", Decimal("1234.5")),
        ("$18", Decimal(18)),
        ("18.0", Decimal(18)),
        (" 18. ", Decimal(18)),
        ("-3", Decimal(-3)),
        ("0.25", Decimal("0.25")),
        ("1e999999999", Decimal("1e999999999")),
        ("eighteen, at most", "eighteen, at most"),
        ("nan", "nan"),
        ("", ""),
    ],
)
def test_numbers(text, number):
    assert number_or_text(text) == number
    assert number_or_text(text) != Decimal("18.5")


@pytest.mark.parametrize(
    ("text", "other", "same"),
    [
        ("3,5", "35", False),
        ("1,00", "100", False),
        ("1_000", "1000", False),
        ("1,000,000", "1000000", True),
        ("1,000.50", "1000.5", True),
        ("5%", "5", True),
        ("5 %.", "5", True),
        ("\N{MINUS SIGN}5", "-5", True),
        ("-$5", "$-5.0", True),
        ("1e3", "1000", True),
        ("-", "--", False),
        ("$", "", False),
    ],
)
def test_numbers_that_are_the_same(text, other, same):
    assert (number_or_text(text) == number_or_text(other)) == same


@pytest.mark.parametrize("name", ["exact_match", "token_f1"])
@pytest.mark.parametrize("reference", ["A", "the", "!", "An"])
def test_references_of_which_normalization_leaves_nothing(name, reference):
    """Silence is no answer to them; the same letter, with other punctuation, is."""
    metric = METRICS[name]([[reference]])
    assert metric([""]) == metric(["?"]) == metric(["D"]) == 0
    assert metric([reference]) == metric([f" {reference} "]) == 1
    assert (metric([f"{reference.lower()}."]) == 1) == (reference != "!")


def test_the_pattern_finds_targets_in_their_texts():
    """As GSM8K's raw rows have them."""
    metric = NumberMatch([["2 + 2 = 4, so #### 4"], ["7"]], re.compile(r"#### (\d+)"))
    assert metric(["it is #### 4", "#### 7"]) == 1
    assert metric(["it is #### 2", "7"]) == 0


def test_the_last_match_counts():
    metric = NumberMatch(
        [["72"], ["1,000"], ["8"], ["8"], ["5"]], re.compile(r"(?:answer is|####) *(-?[\d.,$]+)")
    )
    outputs = ["It is 5. #### 70 #### 72.0", "the answer is $1000.", "#### 9", "8", "#### 4 or answer is 5"]
    assert metric(outputs) == pytest.approx(3 / 5)
    assert (metric.seen, metric.matched) == (5, 4)
    assert metric(["", "", "", "", ""]) == 0
    assert (metric.seen, metric.matched) == (10, 4)


@pytest.mark.parametrize(
    ("pattern", "text", "answer"),
    [
        (r"\d+", "1 and 22", "22"),
        (r"(\d)\d*", "1 and 22", "2"),
        (r"=(\d+)|is (\d+)", "=1 is 22", "22"),
        (r"\d+", "none", None),
        (r"(yes)?!", "no!", "!"),
    ],
)
def test_the_answer_of_a_match(pattern, text, answer):
    assert NumberMatch([["1"]], re.compile(pattern)).answer(text) == answer


@pytest.mark.parametrize(
    ("name", "module", "said"),
    [
        ("bleu", "sacrebleu", "sacrebleu"),
        ("rougeL", "rouge_score.rouge_scorer", "rouge_score"),
    ],
)
def test_a_library_that_is_not_installed(monkeypatch, name, module, said):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(GfoError, match=rf"{said}.* is not installed; pip install 'gfo-llm\[metrics\]'"):
        METRICS[name]([["a"]])


def test_each_has_a_line_in_the_registry():
    named = entries("metric")
    for name in (*METRICS, REGEX):
        metric = named[name].load()
        assert (metric.name, metric.form, metric.lower_is_better) == (name, "share", False)
