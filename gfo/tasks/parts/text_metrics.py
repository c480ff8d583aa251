"""Metrics of generated text: all are 0 to 1, the higher the better.

A metric is made once for the references of a batch and then scores the outputs of each candidate. BLEU and
chrF are sacrebleu's over the whole batch (corpus level), the others means over its rows; where a row has
several references, the best counts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal, InvalidOperation
from importlib import import_module
from typing import Any

from gfo.core.errors import GfoError

References = Sequence[Sequence[str]]
"""The texts that count as right, at least one a row."""

Metric = Callable[[Sequence[str]], float]
"""The outputs of a batch -> how good they are."""


def squad_normalized(text: str) -> str:
    """Lower case, without punctuation, articles and extra blanks, as SQuAD compares answers.

    The rules are those of the official evaluation of SQuAD v1.1 (Rajpurkar et al. 2016, arXiv:1606.05250).
    """
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(output: str, reference: str) -> float:
    """1 if both are the same behind SQuAD's normalization, else 0."""
    return float(squad_normalized(output) == squad_normalized(reference))


def token_f1(output: str, reference: str) -> float:
    """The harmonic mean of precision and recall of the words, behind SQuAD's normalization.

    Words count as often as they stand in both; 0 where none does, also where both texts are empty
    (Rajpurkar et al. 2016, section 6.1, and version 1.1 of the official evaluation).
    """
    found, wanted = squad_normalized(output).split(), squad_normalized(reference).split()
    shared = (Counter(found) & Counter(wanted)).total()
    return 2 * shared / (len(found) + len(wanted)) if shared else 0.0  # 2 P R / (P + R)


class NumberMatch:
    """Whether an output's last match of a regular expression is the row's answer, as GSM8K is scored.

    Args:
        references: the rows' answers.
        pattern: a regular expression; its first group that matched is the answer, the whole match if it
            has no groups.

    Attributes:
        seen: outputs scored.
        matched: how many of them the pattern matched.
        pattern: as given.
    """

    def __init__(self, references: References, pattern: re.Pattern[str]) -> None:
        self._references = [{number_or_text(text) for text in texts} for texts in references]
        self.pattern = pattern
        self.seen = self.matched = 0

    def __call__(self, outputs: Sequence[str]) -> float:
        """The share of outputs whose answer is right; one that does not match is wrong."""
        answers = [self.answer(text) for text in outputs]
        self.seen += len(answers)
        self.matched += sum(answer is not None for answer in answers)
        return _mean(
            answer is not None and number_or_text(answer) in right
            for answer, right in zip(answers, self._references, strict=True)
        )

    def answer(self, text: str) -> str | None:
        """What the last match holds, or None."""
        matches = list(self.pattern.finditer(text))
        if not matches:
            return None
        groups = [group for group in matches[-1].groups() if group is not None]
        return str(groups[0] if groups else matches[-1][0])


def number_or_text(text: str) -> Decimal | str:
    """The number that a text is, whatever its currency sign, thousands' commas, zeros and full stop; or the
    text, stripped."""
    text = text.strip()
    try:
        number = Decimal(text.replace(",", "").replace("$", "").rstrip(". "))
    except InvalidOperation:
        return text
    return number if number.is_finite() else text


def _by_row(compare: Callable[[str, str], float]) -> Callable[[References], Metric]:
    """The mean over rows of the best comparison with a reference."""

    def make(references: References) -> Metric:
        return lambda outputs: _mean(
            max(compare(output, reference) for reference in texts)
            for output, texts in zip(outputs, references, strict=True)
        )

    return make


def _sacrebleu(name: str) -> Callable[[References], Metric]:
    """sacrebleu's corpus score with its defaults, over 100."""

    def make(references: References) -> Metric:
        most = max(map(len, references))
        streams = [[texts[i] if i < len(texts) else None for texts in references] for i in range(most)]
        scorer = getattr(_library("sacrebleu"), name)(references=streams)
        return lambda outputs: float(scorer.corpus_score(list(outputs), None).score) / 100

    return make


def _rouge(kind: str) -> Callable[[References], Metric]:
    """The mean over rows of ROUGE's F measure (Lin 2004) by rouge-score, without stemming."""

    def make(references: References) -> Metric:
        scorer = _library("rouge_score.rouge_scorer").RougeScorer([kind])
        return lambda outputs: _mean(
            scorer.score_multi(list(texts), output)[kind].fmeasure
            for output, texts in zip(outputs, references, strict=True)
        )

    return make


def _library(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise GfoError(f"metric: {error.name} is not installed; pip install 'gfo[metrics]'") from None


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


METRICS: dict[str, Callable[[References], Metric]] = {
    "exact_match": _by_row(exact_match),
    "token_f1": _by_row(token_f1),
    "bleu": _sacrebleu("BLEU"),
    "chrf": _sacrebleu("CHRF"),
    "rouge1": _rouge("rouge1"),
    "rouge2": _rouge("rouge2"),
    "rougeL": _rouge("rougeL"),
}
REGEX = "regex"
