"""What optimizers meet on real tasks: flat losses, other batches, noise, boxes of any size, genes, ties.

Each trial is a check of `check_optimizer`, also one by one: `check(factory, evaluations=...)`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError, GfoWarning
from gfo.core.protocols import Optimizer
from gfo.testing.functions import BenchmarkFunction, Bowl, Ellipsoid, IntegerSphere, Words

Factory = Callable[[Domain, int], Optimizer]

D = 5
EVALUATIONS = 1500
FLAT_STEPS = 50


def _require(kept: object, sentence: str) -> None:
    """An assertion that stays on under `python -O`."""
    if not kept:
        raise AssertionError(sentence)


@contextmanager
def _no_warning() -> Iterator[None]:
    """What follows may say that losses are flat."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GfoWarning)
        yield


def _plan(optimizer: Optimizer, evaluations: int, *, batches_differ: bool = False) -> None:
    """Tell an optimizer what a loop would tell it, if it wants to know."""
    plan = getattr(optimizer, "plan", None)
    if plan is not None:
        plan(evaluations, batches_differ=batches_differ)


def _search(
    optimizer: Optimizer, f: BenchmarkFunction, evaluations: int, change: Callable[[Array, float], Array]
) -> float:
    """Search with `change(losses, loss of the start)` told; f of the recommendation over f of the start."""
    start = float(f(optimizer.recommend()[None])[0])
    used = 0
    with _no_warning():
        while used < evaluations:
            reason = optimizer.should_stop()
            near = used > 0 and float(f(optimizer.recommend()[None])[0]) <= 1e-6 * start
            if reason is not None or near:
                _require(near, f"it stops after {used} of {evaluations} evaluations: {reason}")
                break
            z = optimizer.ask()
            _require(optimizer.domain.contains(z).all(), "ask left the domain")
            optimizer.tell(z, change(f(z), start))
            used += len(z)
    best = np.asarray(optimizer.recommend())
    _require(optimizer.domain.contains(best), "recommend left the domain")
    return float(f(best[None])[0]) / start


def check_flat_losses(factory: Factory, *, evaluations: int = EVALUATIONS, steps: int = FLAT_STEPS) -> None:
    """Equal losses end no run, and the search does not draw together on them."""
    for domain in (Domain.unbounded(D), Domain.box(-1.5, 2.0, D)):
        optimizer = factory(domain, 1)
        spreads: list[float] = []
        with _no_warning():
            for step in range(min(steps, evaluations)):
                reason = optimizer.should_stop()
                _require(reason is None, f"equal losses end the run after {step} steps: {reason}")
                z = optimizer.ask()
                spreads.append(float(np.abs(z - z.mean(axis=0)).mean()))
                optimizer.tell(z, np.ones(len(z)))
        first, last = np.median(spreads[:5]), np.median(spreads[-5:])
        _require(
            last >= 0.2 * first,
            f"{steps} steps of equal losses took the spread of the points from {first:.2g} to {last:.2g}: "
            "losses that are equal say nothing; search as widely as before, or more widely",
        )


def check_offsets(factory: Factory, *, evaluations: int = EVALUATIONS, reduction: float = 0.3) -> None:
    """An offset common to all losses of a step, as of an easier batch, leaves the search as good.

    `plan(evaluations, batches_differ=True)` is called where the optimizer has it.
    """
    f = Ellipsoid(D, condition=10, seed=1)
    rng = np.random.default_rng(0)
    optimizer = factory(f.domain, 1)
    _plan(optimizer, evaluations, batches_differ=True)
    reached = _search(
        optimizer, f, evaluations, lambda loss, start: loss + 0.2 * start * rng.standard_normal()
    )
    _require(
        reached <= reduction,
        f"with an offset a step common to all candidates the loss falls to {reached:.2g} of the start's, not "
        f"{reduction:.2g}: losses of different steps are compared; ask again for what is remembered",
    )


def check_noise(factory: Factory, *, evaluations: int = 2 * EVALUATIONS, reduction: float = 0.5) -> None:
    """Noise on each loss neither ends a run nor drives the steps to nothing."""
    f = Ellipsoid(D, condition=10, seed=1)
    rng = np.random.default_rng(0)
    optimizer = factory(f.domain, 1)
    reached = _search(
        optimizer, f, evaluations, lambda loss, start: loss + 0.1 * start * rng.standard_normal(len(loss))
    )
    _require(
        reached <= reduction,
        f"with noise of a tenth of the start's loss it falls to {reached:.2g} of that, not {reduction:.2g}: "
        "a lucky loss stays, or the steps shrink without a way back",
    )


def check_shuffled_rows(factory: Factory) -> None:
    """Rows told in another order are put back into order, or refused with a GfoError."""
    f = Ellipsoid(D, condition=10, seed=1)
    told, shuffled = factory(f.domain, 1), factory(f.domain, 1)
    rng = np.random.default_rng(0)
    for _ in range(8):
        z = told.ask()
        _require(np.array_equal(shuffled.ask(), z), "rows told in another order change the run; match them")
        order, loss = rng.permutation(len(z)), f(z)
        told.tell(z, loss)
        try:
            shuffled.tell(z[order], loss[order])
        except GfoError:
            return


def check_scales(factory: Factory, *, evaluations: int = EVALUATIONS, reduction: float = 0.3) -> None:
    """A bowl in a box of width 0.02 is searched as well as one of width 1,000."""
    for width in (0.02, 1000.0):
        f = Bowl(D, width=width, seed=1)
        optimizer = factory(f.domain, 1)
        reached = _search(optimizer, f, evaluations, lambda loss, start: loss)
        _require(
            reached <= reduction,
            f"in a box of width {width:g} the loss of a bowl falls to {reached:.2g} of the start's, not "
            f"{reduction:.2g}: steps must be shares of the box",
        )


def check_genes(factory: Factory, *, evaluations: int = EVALUATIONS, reduction: float = 0.75) -> None:
    """Whole and categorical genes are searched, or refused with a GfoError."""
    for f in (IntegerSphere(D, seed=1), Words(6, values=5, seed=1)):
        try:
            optimizer = factory(f.domain, 1)
        except GfoError:
            continue
        _plan(optimizer, evaluations)
        reached = _search(optimizer, f, evaluations, lambda loss, start: loss)
        _require(
            reached <= reduction,
            f"{type(f).__name__}: the loss falls to {reached:.2g} of the start's, not {reduction:.2g}",
        )


def check_ties(factory: Factory, *, evaluations: int = EVALUATIONS, reduction: float = 0.5) -> None:
    """A loss of few values, as accuracy on some rows, is searched to the end of the budget."""
    f = Ellipsoid(D, condition=10, seed=1)
    optimizer = factory(f.domain, 1)
    reached = _search(optimizer, f, evaluations, lambda loss, start: np.ceil(np.minimum(loss / start, 4) * 8))
    _require(
        reached <= reduction,
        f"a loss in steps of an eighth falls to {reached:.2g} of the start's, not {reduction:.2g}: equal "
        "losses are taken for failures, or for success",
    )


TRIALS: dict[str, Callable[..., None]] = {
    check.__name__.removeprefix("check_"): check
    for check in (check_flat_losses, check_offsets, check_noise, check_scales, check_genes, check_ties)
}
"""name -> trial(factory, evaluations=...)."""
