"""Arguments against type hints: what is taken, and the line on what is not."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import pytest

import gfo
from gfo.core.checking import checked, fits, named, words
from gfo.core.errors import GfoError, printable, shown
from gfo.core.protocols import Task


class Task1:
    """Has what the protocol wants."""

    def bind(self, tokenizer):
        return tokenizer


TAKEN = [
    (int, [0, -3, np.int8(3), 2**62], [True, 1.0, "1", None, np.float64(1), float("nan"), 10**400]),
    (float, [0, 1.5, np.float32(2), Fraction(1, 3), float("inf")], [True, "1", float("nan"), 10**400, 1j]),
    (bool, [True, np.bool_(False)], [0, "yes", None]),
    (str, ["", "a", "😀"], [b"a", 3, None, Path("a"), "\ud800"]),
    (str | Path | None, ["a", Path("a"), None], [3, ["a"]]),
    (Literal["a", 2], ["a", 2], ["b", 3, "2"]),
    (Sequence[int], [[1], (), range(3), np.array([1, 2])], ["12", {1: 2}, {1}, 3, ["a"], iter([1])]),
    (Iterable[int], [[1], {1: 2}, {1}, iter([1])], ["12", 3, [1.5]]),
    (Mapping[str, int | None], [{}, {"a": 1, "b": None}], [[("a", 1)], {1: 1}, {"a": "x"}, None]),
    (tuple[int, str], [(1, "a")], [[1, "a"], (1,), ("a", 1), 3]),
    (tuple[str, ...], [(), ("a", "b")], [("a", 3), ["a"]]),
    (Callable[[int], int], [len, int], [3, "len"]),
    (Task, [Task1()], [Task1, 3, None]),
    (np.ndarray, [np.zeros(2), [0.0, 0.0]], ["a", 3, None, np.array(3)]),
    (Any, [3, None, object], []),
]


@pytest.mark.parametrize(("hint", "good", "bad"), TAKEN)
def test_what_fits(hint, good, bad):
    assert [value for value in good if not fits(value, hint)] == []
    assert [value for value in bad if fits(value, hint)] == []


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (int | None, "a whole number or None"),
        (str | Path | Sequence[str], "a text, a Path or a list of texts"),
        (Mapping[str, Sequence[int]], "a mapping of texts to lists"),
        (Literal["a", "b"], "'a' or 'b'"),
        (Task, "a Task"),
    ],
)
def test_words(hint, said):
    assert words(hint) == said


class More(TypedDict, total=False):
    """Options."""

    size: int | None


@checked
def function(name: str, *rest: int, place: str | None = None, **more: Unpack[More]) -> tuple[Any, ...]:
    """A function."""
    return name, rest, place, more


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: function(3), "function: name = 3; give a text"),
        (
            lambda: function(),
            "missing a required argument: 'name'; its arguments are name, rest, place, more",
        ),
        (lambda: function("a", 1, "b"), "function: rest = 'b'; give a whole number"),
        (lambda: function("a", plac="b"), "unknown argument 'plac': did you mean 'place'"),
        (lambda: function("a", size="b"), "function: size = 'b'; give a whole number or None"),
        (lambda: function("a", size=1e3), "function: size = 1000.0; give 1000"),
        (lambda: gfo.Budget(evaluations="100"), "Budget: evaluations = '100'; give a whole number"),
        (lambda: gfo.Budget(evaluations=0.5), "Budget: evaluations = 0.5; give a whole number"),
        (lambda: gfo.EarlyStopping(patience=float("nan")), "patience = nan; give a whole number"),
        (lambda: gfo.Generation([{"a": 1}], template="{a}", stop=None), "stop = None; give a text or a list"),
        (lambda: gfo.Generation([{"a": 1}], template="{a}", target=None), "target = None; give a text or"),
        (lambda: gfo.Classification([{}], template="", labels=["a"]), "labels = ['a']; give a mapping"),
        (lambda: gfo.tune(1, 2, 3, budget=100), "tune: model = 1; give a model of gfo.load_model"),
        (lambda: gfo.minimize(1, 2, budget=100), "minimize: optimizer = 1; give an Optimizer"),
        (lambda: gfo.SoftPrompt(3), "SoftPrompt: model = 3; give a model of gfo.load_model or gfo.freeze"),
        (lambda: gfo.load_model(3), "load_model: name = 3; give a text or a Path"),
        (lambda: gfo.Domain(["a"], [1], [0]), "Domain: low = ['a']; give numbers"),
        (lambda: gfo.Domain.box(0, [[1], [1, 2]]), "Domain: high = [[1], [1, 2]]; give numbers"),
    ],
)
def test_wrong_calls_are_one_line(call, said):
    with pytest.raises(gfo.GfoError) as error:
        call()
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_good_calls_are_what_they_were():
    assert function("a", 1, np.int64(2), place="b", size=3) == ("a", (1, 2), "b", {"size": 3})
    found = gfo.Budget(np.int64(3), seconds=np.float32(1.5))
    assert [type(value) for value in (found.evaluations, found.seconds)] == [int, float]
    assert function.__doc__ == "A function."


def test_where_in_a_long_value():
    labels = {str(i): " word" for i in range(100)} | {"x": None}
    with pytest.raises(gfo.GfoError, match=r"labels\['x'\] = None; give a text or a list of texts"):
        gfo.Classification([{"text": "a"}], template="{text}", labels=labels)


class Rude:
    """Has no text."""

    def __repr__(self):
        raise RuntimeError("no")


def test_values_in_errors_are_short_and_steer_no_terminal():
    assert shown("a\x1b[31m\u202e") == r"'a\x1b[31m\u202e'"
    assert len(shown("x" * 1000)) < 100
    assert shown(Rude()) == "<Rude>"
    assert printable("é\tß\n\x00\ud800👩\u200d🚀", keep="\n") == "é\\tß\n\\x00\\ud800👩\u200d🚀"
    assert str(gfo.GfoError("a\r\nb\x07")) == r"a\r\nb\x07"


WARNS = r"""
import warnings, gfo
warnings.warn("two\nlines\x1b", gfo.GfoWarning)
warnings.warn("of others")
"""


def test_warnings_of_gfo_are_one_line(tmp_path):
    (tmp_path / "warns.py").write_text(WARNS)
    done = subprocess.run([sys.executable, tmp_path / "warns.py"], capture_output=True, text=True, check=True)
    first, second, *_ = done.stderr.splitlines()
    assert first == r"warning: two\nlines\x1b"
    assert "warns.py:4: UserWarning: of others" in second


def test_classes_that_check_values_themselves():
    @named
    class Own:
        def __init__(self, size: int, *, seed: int = 0) -> None:
            self.size, self.seed = size, seed

    assert (Own("x", seed=None).size, Own(size=3).seed) == ("x", 0)  # values are the class's to check
    for call, said in [
        (lambda: Own(), "Own: missing a required argument: 'size'; its arguments are size, seed"),
        (lambda: Own(1, sead=3), "Own: unknown argument 'sead': did you mean 'seed'?"),
        (lambda: Own(1, 2), "Own: too many positional arguments"),
    ]:
        with pytest.raises(GfoError, match=re.escape(said)):
            call()
