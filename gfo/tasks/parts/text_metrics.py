"""Metrics of generated text: all are 0 to 1, the higher the better.

A metric is made once for the references of a batch and then scores the outputs of each candidate. BLEU and
chrF are sacrebleu's over the whole batch (corpus level), the others means over its rows; where a row has
several references, the best counts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from importlib import import_module
from typing import Any

from gfo.core.domain import Array
from gfo.core.errors import GfoError

References = Sequence[Sequence[str]]
"""The texts that count as right, at least one a row."""

TextMetric = Callable[[Sequence[str]], float]
"""The outputs of a batch -> how good they are."""


class ByRow:
    """A metric that is the mean over rows of how well each is answered.

    Args:
        compare: an output, and what is right for its row -> how good it is, 0 to 1.
        right: of each row.
    """

    def __init__(self, compare: Callable[[str, Any], float], right: Sequence[Any]) -> None:
        self._compare, self._right = compare, right

    def rows(self, outputs: Sequence[str]) -> list[float]:
        """Outputs [B] -> how good each is, [B]."""
        pairs = zip(outputs, self._right, strict=True)
        return [float(self._compare(output, right)) for output, right in pairs]

    def of_samples(self, values: Array) -> Array:
        """How good the samples of each row are, [..., n] -> the row's, [...]: their mean."""
        return values.mean(axis=-1)  # type: ignore[no-any-return]

    def __call__(self, outputs: Sequence[str]) -> float:
        """Their mean."""
        found = self.rows(outputs)
        return sum(found) / len(found)


def squad_normalized(text: str, *, articles: bool = False) -> str:
    """Lower case, without punctuation, articles and extra blanks, as SQuAD compares answers.

    The rules are those of the official evaluation of SQuAD v1.1 (Rajpurkar et al. 2016, arXiv:1606.05250).

    Args:
        text: any.
        articles: whether to leave them in.
    """
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join((text if articles else re.sub(r"\b(a|an|the)\b", " ", text)).split())


def _comparable(output: str, reference: str) -> tuple[str, str]:
    """Both behind SQuAD's normalization; of a reference of which that leaves nothing, such as the letter "A"
    or "!", behind as much of it as leaves something."""
    for normalize in (squad_normalized, partial(squad_normalized, articles=True), str.strip):
        if wanted := normalize(reference):
            return normalize(output), wanted
    return output.strip(), ""


def exact_match(output: str, reference: str) -> float:
    """1 if both are the same behind SQuAD's normalization, else 0."""
    found, wanted = _comparable(output, reference)
    return float(found == wanted)


def token_f1(output: str, reference: str) -> float:
    """The harmonic mean of precision and recall of the words, behind SQuAD's normalization.

    Words count as often as they stand in both; 0 where none does, also where both texts are empty
    (Rajpurkar et al. 2016, section 6.1, and version 1.1 of the official evaluation).
    """
    found, wanted = (text.split() for text in _comparable(output, reference))
    shared = (Counter(found) & Counter(wanted)).total()
    return 2 * shared / (len(found) + len(wanted)) if shared else 0.0  # 2 P R / (P + R)


class NumberMatch(ByRow):
    """Whether an output's last match of a regular expression is the row's answer, as GSM8K is scored.

    Args:
        references: the rows' answers, or texts in which the pattern finds them, as in GSM8K's raw rows.
        pattern: a regular expression; its first group that matched is the answer, the whole match if it
            has no groups.

    Attributes:
        seen: outputs scored.
        matched: how many of them the pattern matched.
        pattern: as given.
    """

    def __init__(self, references: References, pattern: re.Pattern[str]) -> None:
        self.pattern = pattern
        self.seen = self.matched = 0
        right = [{number_or_text(self.answer(text) or text) for text in texts} for texts in references]
        super().__init__(self._matches, right)

    def _matches(self, output: str, right: set[Decimal | str]) -> bool:
        """Whether an output's answer is right; one that does not match is wrong."""
        answer = self.answer(output)
        self.seen += 1
        self.matched += answer is not None
        return answer is not None and number_or_text(answer) in right

    def answer(self, text: str) -> str | None:
        """What the last match holds, or None."""
        matches = list(self.pattern.finditer(text))
        if not matches:
            return None
        groups = [group for group in matches[-1].groups() if group is not None]
        return str(groups[0] if groups else matches[-1][0])


_NUMBER = re.compile(r"\$?[-+]?\$?(\d{1,3}(,\d{3})+|\d+)?(\.\d*)?([eE][-+]?\d+)?")


def number_or_text(text: str) -> Decimal | str:
    """The number that a text is, whatever its currency or percent sign, commas between thousands, zeros,
    full stop and kind of minus; or the text, stripped. A comma elsewhere ("3,5") makes no number."""
    text = text.strip()
    plain = text.replace("\N{MINUS SIGN}", "-").rstrip(". ").removesuffix("%").rstrip()
    if not _NUMBER.fullmatch(plain) or not any(map(str.isdigit, plain)):
        return text
    return Decimal(plain.replace(",", "").replace("$", ""))


def _by_row(compare: Callable[[str, str], float]) -> Callable[[References], TextMetric]:
    """The best comparison of each row's output with a reference."""

    def make(references: References) -> TextMetric:
        return ByRow(lambda output, texts: max(compare(output, text) for text in texts), references)

    return make


def _sacrebleu(name: str) -> Callable[[References], TextMetric]:
    """sacrebleu's corpus score with its defaults, over 100."""

    def make(references: References) -> TextMetric:
        most = max(map(len, references))
        streams = [[texts[i] if i < len(texts) else None for texts in references] for i in range(most)]
        scorer = getattr(_library("sacrebleu"), name)(references=streams)
        return lambda outputs: float(scorer.corpus_score(list(outputs), None).score) / 100

    return make


def _rouge(kind: str) -> Callable[[References], TextMetric]:
    """The mean over rows of ROUGE's F measure (Lin 2004) by rouge-score, without stemming."""

    def make(references: References) -> TextMetric:
        scorer = _library("rouge_score.rouge_scorer").RougeScorer([kind])
        return ByRow(lambda output, texts: scorer.score_multi(list(texts), output)[kind].fmeasure, references)

    return make


def _library(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise GfoError(f"metric: {error.name} is not installed; pip install 'gfo-llm[metrics]'") from None


METRICS: dict[str, Callable[[References], TextMetric]] = {
    "exact_match": _by_row(exact_match),
    "token_f1": _by_row(token_f1),
    "bleu": _sacrebleu("BLEU"),
    "chrf": _sacrebleu("CHRF"),
    "rouge1": _rouge("rouge1"),
    "rouge2": _rouge("rouge2"),
    "rougeL": _rouge("rougeL"),
}
REGEX = "regex"
