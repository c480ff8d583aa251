"""Losses of candidates whose answers may lack rows, as where a server failed: the others count."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.protocols import Answers, Batch, Batches, BoundTask, RowTask, Scores
from gfo.evaluation.parts import parts_of
from gfo.evaluation.racing import of_rows

ROUNDS = 200  # of the fit, which is right to rounding long before


@dataclass(frozen=True)
class Group:
    """Candidates that have answers to the same rows.

    Attributes:
        numbers: theirs, int [k].
        rows: which rows they have, bool [N] of each of the batches.
    """

    numbers: Array
    rows: tuple[Array, ...]


def losses(task: BoundTask, answers: Answers, batch: Batch | Batches, K: int) -> tuple[Array, Array | None]:
    """The loss of each candidate, [K], and of rows [K, B] where the task has them, nan for one that lacks."""
    loss, rows = np.full(K, np.nan), None
    for group in _groups(answers, batch, K):
        some, part = _taken(answers, batch, group)
        found = task.row_losses(some, part) if isinstance(task, RowTask) else None
        if found is None or isinstance(batch, Batches):
            loss[group.numbers] = _array(task.loss(some, part)) if found is None else found.mean(axis=1)
            continue
        rows = np.full((K, len(batch.target)), np.nan) if rows is None else rows
        rows[np.ix_(group.numbers, np.flatnonzero(group.rows[0][: len(batch.target)]))] = found
    return (loss, None) if rows is None else (paired_means(rows), rows)


def scores(task: BoundTask, answers: Answers, batch: Batch | Batches, K: int) -> Scores:
    """Every metric of each candidate, over the rows that it has; rows' values where none lacks one."""
    metrics = {metric.name: np.full(K, np.nan) for metric in task.metrics}
    rows: dict[str, Array] = {}
    for group in _groups(answers, batch, K):
        some, part = _taken(answers, batch, group)
        for name, values in task.score(some, part).items():
            metrics[name][group.numbers] = values
        if isinstance(task, RowTask) and len(group.numbers) == K and all(each.all() for each in group.rows):
            rows = task.row_scores(some, part)
    return Scores(metrics, rows=rows)


def paired_means(rows: Array) -> Array:
    """The mean of each candidate's rows [K, B] -> [K], nan for one without any.

    A row that a candidate lacks counts as what a sum of an effect of the row and one of the candidate, fitted
    by least squares, makes of it: lacking hard rows is no gain. Who has all rows has their mean.
    """
    known = np.isfinite(rows)
    if known.all():
        return np.asarray(rows.mean(axis=1))
    found, has = np.full(len(rows), np.nan), known.any(axis=1)
    some, there = rows[has][:, known.any(axis=0)], known[has][:, known.any(axis=0)]
    if has.any():
        found[has] = _fitted(np.where(there, some, some[there].mean()), there).mean(axis=1)
    return found


def _fitted(rows: Array, known: Array) -> Array:
    """Rows [K, B] with those that are not known as the sum of effects has them; each round fits it anew."""
    for _ in range(ROUNDS):
        whole = rows.mean(axis=1, keepdims=True) + rows.mean(axis=0) - rows.mean()
        rows = np.where(known, rows, whole)
    return rows


def _groups(answers: Answers, batch: Batch | Batches, K: int) -> Iterator[Group]:
    """The candidates by the rows that they have; without those that lack all of a batch."""
    masks = _present(answers, batch, K)
    sizes = [len(part.target) for part in parts_of(batch)]
    for numbers in _alike(masks, K):
        rows = tuple(mask[numbers[0]] for mask in masks)
        pairs = list(zip(rows, sizes, strict=True))
        if all(each[:size].any() and each[size:].all() for each, size in pairs):
            yield Group(np.array(numbers), rows)


def _alike(masks: Sequence[Array], K: int) -> Collection[list[int]]:
    """The candidates that have the same rows of each mask, bool [K, N]."""
    by_rows: dict[bytes, list[int]] = {}
    for k in range(K):
        by_rows.setdefault(b"|".join(mask[k].tobytes() for mask in masks), []).append(k)
    return by_rows.values()


def _present(answers: Answers, batch: Batch | Batches, K: int) -> list[Array]:
    """Which rows each candidate has answers to, bool [K, N], of each of the batches."""
    if isinstance(batch, Batches):
        parts = zip(answers, batch.parts, strict=True)
        return [mask for answer, part in parts for mask in _present(answer, part, K)]
    if batch.decoding is not None:
        return [np.array([[row is not None for row in rows] for rows in answers]).reshape(K, len(batch))]
    return [np.asarray(np.isfinite(_array(answers)).any(axis=-1))]


def _taken(answers: Answers, batch: Batch | Batches, group: Group) -> tuple[Answers, Any]:
    """Answers and batch of the group's candidates and rows; the whole ones where that is all."""
    if isinstance(batch, Batches):
        return _taken_parts(answers, batch, group)
    rows, whole = group.rows[0], len(group.numbers) == len(answers)
    if whole and rows.all():
        return answers, batch
    if batch.decoding is None:
        return answers[group.numbers.tolist()][:, np.flatnonzero(rows).tolist()], _some(batch, rows)
    chosen = [[answers[k][b] for b in np.flatnonzero(rows)] for k in group.numbers]
    return chosen, _some(batch, rows)


def _taken_parts(answers: Answers, batch: Batches, group: Group) -> tuple[Answers, Batches]:
    """The same of each part of a batch, whose rows come one part's after the other's."""
    found, at = [], 0
    for answer, part in zip(answers, batch.parts, strict=True):
        n = len(parts_of(part))
        found.append(_taken(answer, part, replace(group, rows=group.rows[at : at + n])))
        at += n
    some, parts = zip(*found, strict=True)
    return some, Batches(parts)


def _some(batch: Batch, rows: Array) -> Batch:
    """The rows of a batch that are wanted, bool [N], and what stands behind them for all candidates."""
    if rows.all():
        return batch
    size = len(batch.target)
    part = of_rows(batch, np.flatnonzero(rows[:size]))
    more = slice(size, None)
    return replace(
        part,
        before=part.before + batch.before[more],
        after=part.after + batch.after[more],
        endings=part.endings + batch.endings[more],
    )


def _array(values: Any) -> Array:
    """A tensor or an array as float64."""
    return np.asarray(
        values.detach().cpu().numpy() if hasattr(values, "detach") else values, dtype=np.float64
    )
