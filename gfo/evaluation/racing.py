"""Racing: rows come in blocks, and a candidate that is worse than the leader beyond doubt sees no more.

Maron and Moore 1994, "Hoeffding Races"; Birattari et al. 2002, "A Racing Algorithm for Configuring
Metaheuristics". Losses of the same rows are compared in pairs, by Student's t-test (1908,
doi:10.1093/biomet/6.1.1) of their mean difference, as it is a mean that candidates are told. Only the rows
that are left can change it, so n of B rows have the standard error of a sample without replacement (Cochran
1977, Sampling Techniques, theorem 2.2):

    t = mean / (s sqrt(1 / n - 1 / B))                            s^2 the variance of the n differences
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gfo.core.checking import checked
from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.protocols import Batch
from gfo.core.seeding import stream

LossesOf = Callable[[Array, Array], Array]
"""Numbers of candidates int [k] and of rows int [b] -> the rows' losses, float64 [k, b]; nan where failed."""


@checked
@dataclass(frozen=True)
class Racing:
    """How a population's rows are raced.

    Candidates get the first rows, then block by block. After each, those whose losses are higher than the
    leader's on the rows that both have, by a one-sided paired t-test, leave. A candidate that left is told
    the leader's mean over all rows plus the mean difference on the rows that it has, and never less than the
    leader.

    Told losses rank a population as all rows would, with exceptions among those that left: right for methods
    that go by ranks and keep the best, such as "ga", "de" or "openai-es". CMA-ES learns a covariance from
    these ranks, too.

    Attributes:
        block: rows of a block.
        first: rows before the first candidate may leave.
        p: a candidate leaves where its losses would be so much higher by chance less often than this.
        survivors: so many candidates at least see all rows.
        seed: of the order in which rows come, which is the same in all steps.

    Raises:
        GfoError: for numbers out of range.
    """

    block: int = 8
    first: int = 16
    p: float = 0.003
    survivors: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("block", "first", "survivors"):
            if getattr(self, name) < 1:
                raise GfoError(f"racing: {name} = {getattr(self, name)} must be at least 1")
        if not 0 < self.p < 1:
            raise GfoError(f"racing: p = {self.p} must be between 0 and 1")

    def race(self, candidates: int, rows: int, losses: LossesOf) -> tuple[Array, Array]:
        """What candidates are told, float64 [K], and the rows' losses [K, B].

        nan where a candidate failed, which ends its race; of rows, where it had left.

        Args:
            candidates: K.
            rows: B.
            losses: evaluates some candidates on some rows.
        """
        found = np.full((candidates, rows), np.nan)
        running, left = np.arange(candidates), np.empty(0, dtype=int)
        order = parts(rows, self.first, self.block, self.seed)
        for i, part in enumerate(order):
            found[np.ix_(running, part)] = losses(running, part)
            running = running[np.isfinite(found[np.ix_(running, part)]).all(axis=1)]
            if i < len(order) - 1 and len(running) > self.survivors:
                stays = self.stays(found[np.ix_(running, np.concatenate(order[: i + 1]))], rows)
                left = np.append(left, running[~stays])
                running = running[stays]
        return _told(found, running, left), found

    def stays(self, losses: Array, rows: int) -> Array:
        """Which of candidates go on, bool [k], by losses [k, n] of the same n of all rows; some survive."""
        stays, mean = np.ones(len(losses), dtype=bool), losses.mean(axis=1)
        worst = np.argsort(-mean, kind="stable")[: len(losses) - self.survivors]
        worse = _p_values(losses[worst] - losses[mean.argmin()], rows) < self.p
        stays[worst[worse]] = False
        return stays


def _told(rows: Array, finished: Array, left: Array) -> Array:
    """What each candidate is told, float64 [K], by the rows' losses [K, B] of a race.

    Args:
        rows: nan where a candidate did not run.
        finished: numbers of those with all rows.
        left: numbers of those that left before.
    """
    told = np.full(len(rows), np.nan)
    told[finished] = rows[finished].mean(axis=1)
    if not len(finished):
        told[left] = np.nanmean(rows[left], axis=1)
        return told
    leader = finished[told[finished].argmin()]
    for k in left:
        estimate = told[leader] + np.nanmean(rows[k] - rows[leader])
        told[k] = max(estimate, np.nextafter(told[leader], np.inf))
    return told


def _p_values(differences: Array, rows: int) -> Array:
    """One-sided p of each row of differences [k, n], that its mean over all rows is above 0; nan of one."""
    from scipy.special import stdtr

    n = differences.shape[1]
    if n < 2:
        return np.full(len(differences), np.nan)
    error = differences.std(axis=1, ddof=1) * np.sqrt(1 / n - 1 / rows)
    with np.errstate(divide="ignore", invalid="ignore"):  # of equal differences, which are certain
        p: Array = stdtr(n - 1, -differences.mean(axis=1) / error)
    return p


@functools.lru_cache
def parts(rows: int, first: int, block: int, seed: int) -> tuple[Array, ...]:
    """Numbers of the rows, in the order in which they come, in blocks."""
    order = stream(seed, "order of rows").permutation(rows)
    return tuple(np.split(order, range(first, rows, block)))


def of_rows(batch: Batch, rows: Array) -> Batch:
    """Some rows of a batch, by their numbers int [b]."""
    numbers = rows.tolist()

    def some(values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(values[i] for i in numbers) if values else values

    return replace(
        batch,
        key=(*batch.key, "rows", tuple(numbers)),
        before=some(batch.before),
        after=some(batch.after),
        target=batch.target[rows],
        endings=some(batch.endings),
        numbers=some(batch.numbers),
        whole=batch,
    )


def no_rows(task: Any) -> GfoError:
    """The error for a task whose loss is no mean of its rows."""
    name = type(task).__name__.removeprefix("Bound")
    return GfoError(
        f"racing: the loss of {name} is no mean over rows that can be compared in pairs; take another loss, "
        "or leave racing out"
    )


def check_racing(racing: Racing | None, part: int | None, values: Sequence[str]) -> None:
    """Raise GfoError for racing in parts, or beside values that candidates get on other rows."""
    if racing is not None and part is not None:
        raise GfoError(f"part = {part}: racing compares all candidates of a step; leave one of them out")
    if racing is not None and values:
        raise GfoError(f"racing: candidates see other rows, so {values[0]} cannot be compared; leave it out")
