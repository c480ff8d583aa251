"""Answers of candidates in any of their forms: tensors, lists of generated texts, tuples of these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gfo.core.protocols import Answers

if TYPE_CHECKING:
    from torch import Tensor


def picked(answers: Answers, order: Sequence[int]) -> Answers:
    """The answers of some candidates."""
    if isinstance(answers, tuple):
        return tuple(picked(part, order) for part in answers)
    return [answers[k] for k in order] if isinstance(answers, list) else answers[list(order)]


def spoil(answers: Answers, k: int) -> Answers:
    """Answers of which a candidate's first is missing, in each part."""
    if isinstance(answers, tuple):
        return tuple(spoil(part, k) for part in answers)
    if isinstance(answers, list):
        return [None if i == k else each for i, each in enumerate(answers)]
    spoilt = answers.clone()
    spoilt[k, 0, 0] = float("nan")
    return spoilt


def with_gradients(answers: Answers) -> tuple[Answers, list[Tensor]]:
    """The answers with gradients, and their tensors; none of generated texts."""
    if isinstance(answers, tuple):
        found = [with_gradients(part) for part in answers]
        return tuple(part for part, _ in found), [leaf for _, leaves in found for leaf in leaves]
    if isinstance(answers, list):
        return answers, []
    leaf = answers.detach().clone().requires_grad_()
    return leaf, [leaf]


def detached(answers: Answers) -> Answers:
    """The answers without gradients."""
    return tuple(map(detached, answers)) if isinstance(answers, tuple) else answers.detach()


def copied(answers: Answers) -> Answers:
    """A copy that changes of the answers leave as it is."""
    if isinstance(answers, tuple):
        return tuple(map(copied, answers))
    return list(answers) if isinstance(answers, list) else answers.clone()


def same_answers(a: Answers, b: Answers) -> bool:
    """Whether two answers are equal in every number."""
    if isinstance(a, tuple):
        return all(map(same_answers, a, b))
    return bool(a == b) if isinstance(a, list) else bool((a == b).all())
