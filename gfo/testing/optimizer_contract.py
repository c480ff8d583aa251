"""The contract of an optimizer, checked by running it: `check_optimizer(factory)`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError, GfoWarning
from gfo.core.protocols import Optimizer
from gfo.testing.functions import Ellipsoid
from gfo.testing.global_generators import seeded, states
from gfo.testing.optimizer_trials import TRIALS, check_shuffled_rows
from gfo.testing.several_objectives import as_one, check_front

Factory = Callable[[Domain, int], Optimizer]

D = 5
STEPS = 12
DOMAINS = {
    "unbounded": Domain.unbounded(D),
    "box": Domain.box(-1.5, 2.0, D),
    "mixed bounds": Domain.box([-1.0, -np.inf, 0.2, -np.inf, -3.0], [1.0, 0.5, np.inf, np.inf, 3.0]),
}


def check_optimizer(factory: Factory, *, evaluations: int = 10_000, reduction: float = 1e-4) -> None:
    """Run the whole contract on an optimizer; raises AssertionError with what is broken.

    Let the factory give a step size that is not 1: a wrong power of sigma shows only then.

    Args:
        factory: `factory(domain, seed)` gives a new optimizer, its options always the same. Integer
            genes may be refused with a GfoError, bounds may not. One of several objectives is told one loss
            as each of them, and in one more check losses that pull apart.
        evaluations: the budget on a shifted and rotated quadratic, d = 5, condition number 100.
        reduction: the loss of `recommend()` over the loss of the first one that must be reached there, in the
            median of three seeds.
    """
    check_front(factory)
    factory = as_one(factory)
    trials = [name for name in OPTIMIZER_CHECKS if name in TRIALS]
    for name in OPTIMIZER_CHECKS:
        if name not in trials:
            OPTIMIZER_CHECKS[name](factory)
    check_convergence(factory, evaluations=evaluations, reduction=reduction)
    for name in trials:
        OPTIMIZER_CHECKS[name](factory)


def _require(kept: Any, sentence: str) -> None:
    """An assertion that stays on under `python -O`."""
    if not kept:
        raise AssertionError(sentence)


def _function(domain: Domain) -> Ellipsoid:
    return Ellipsoid(domain.d, condition=10, seed=3, domain=domain)


def _run(
    optimizer: Optimizer,
    steps: int = STEPS,
    *,
    change: Callable[[Array], Any] = np.array,
) -> list[Array]:
    """Ask and tell; gives the points of each step and the last recommendation."""
    f = _function(optimizer.domain)
    trace = []
    for _ in range(steps):
        z = optimizer.ask()
        trace.append(z.copy())
        optimizer.tell(z, change(f(z)))
    return [*trace, np.array(optimizer.recommend())]


def _same(a: list[Array], b: list[Array]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def _text(state: Any) -> str:
    """A state as JSON; plain values and numpy arrays only."""

    def encode(x: object) -> object:
        if isinstance(x, np.ndarray) and x.dtype != object:
            return {"__dtype__": x.dtype.str, "shape": x.shape, "values": x.ravel().tolist()}
        if isinstance(x, np.generic):
            return x.item()
        raise AssertionError(
            f"state_dict must hold plain values and arrays of numbers, found a {type(x).__qualname__}"
        )

    return json.dumps(state, default=encode)


def _from_text(text: str) -> Any:
    def decode(x: dict[str, Any]) -> Any:
        if "__dtype__" in x:
            return np.array(x["values"], dtype=x["__dtype__"]).reshape(x["shape"])
        return x

    return json.loads(text, object_hook=decode)


def check_shapes_and_bounds(factory: Factory) -> None:
    """ask [K, d] and recommend [d] are float64, finite and inside the domain, at any time."""
    for name, domain in DOMAINS.items():
        optimizer = factory(domain, 1)
        f = _function(domain)
        _require(optimizer.domain.d == domain.d, "optimizer.domain must be the domain that was given")
        for step in range(STEPS):
            z = optimizer.ask()
            _require(
                isinstance(z, np.ndarray) and z.dtype == np.float64, "ask must give a float64 numpy array"
            )
            _require(
                z.ndim == 2 and z.shape[1] == D and len(z) >= 1, f"ask must give [K, {D}], gave {z.shape}"
            )
            _require(np.isfinite(z).all(), f"ask gave points that are not finite at step {step}")
            _require(domain.contains(z).all(), f"ask left the domain ({name}) at step {step}")
            optimizer.tell(z, f(z))
            best = optimizer.recommend()
            _require(np.shape(best) == (D,), f"recommend must give [{D}], gave {np.shape(best)}")
            _require(np.isfinite(best).all() and domain.contains(best), f"recommend left the domain ({name})")
            reason = optimizer.should_stop()
            _require(
                reason is None or (isinstance(reason, str) and reason),
                f"should_stop must give None or the reason in words, gave {reason!r}",
            )
    first = factory(DOMAINS["box"], 1).recommend()
    _require(
        np.shape(first) == (D,) and DOMAINS["box"].contains(first),
        "recommend before the first tell must give a point of the domain, the start",
    )


def check_integer_genes(factory: Factory) -> None:
    """Integer genes are kept whole or refused with a GfoError."""
    domain = Domain.box([0, -4, -np.inf], [1, 4, np.inf], integer=[True, True, False])
    try:
        optimizer = factory(domain, 1)
    except GfoError:
        return
    for _ in range(STEPS):
        z = optimizer.ask()
        _require(
            domain.contains(z).all(), "ask gave a fraction for an integer gene; refuse such domains or round"
        )
        optimizer.tell(z, (z**2).sum(axis=1))
        _require(domain.contains(optimizer.recommend()), "recommend gave a fraction for an integer gene")


def check_seed(factory: Factory) -> None:
    """The seed, and nothing else, decides the run."""
    domain = DOMAINS["unbounded"]
    first = _run(factory(domain, 1))
    _require(_same(first, _run(factory(domain, 1))), "two runs with one seed differ")
    _require(
        not _same(first, _run(factory(domain, 2))),
        "two runs with different seeds are equal: the seed is not used",
    )
    a, b = factory(domain, 1), factory(domain, 2)
    f = _function(domain)
    for expected in first[:-1]:
        z, other = a.ask(), b.ask()
        _require(np.array_equal(z, expected), "two optimizers running side by side disturb each other")
        a.tell(z, f(z))
        b.tell(other, f(other))


def check_global_generators(factory: Factory) -> None:
    """The global generators of numpy, Python and torch are neither read nor changed."""
    traces = []
    for seed in (11, 12):
        with seeded(seed):
            before = states()
            traces.append(_run(factory(DOMAINS["unbounded"], 1)))
            after = states()
        for name, state in before.items():
            _require(
                after[name] == state,
                f"the optimizer changes {name}'s global random generator; give it its own",
            )
    _require(_same(*traces), "the optimizer reads a global random generator; give it its own")


def check_resume(factory: Factory) -> None:
    """A state, written and read back, goes on bit by bit in a fresh object."""
    for name, domain in DOMAINS.items():
        for steps, asked in ((0, False), (1, True), (5, False), (5, True)):
            where = f"after {steps} steps" + (" and an ask" if asked else "") + f" ({name})"
            _check_resume_at(factory, domain, steps, asked, where)
    optimizer = factory(DOMAINS["unbounded"], 1)
    _run(optimizer, 3)
    state = optimizer.state_dict()
    kept = _text(state)
    _run(optimizer, 3)
    _require(_text(state) == kept, "the state changes while the optimizer goes on; state_dict must copy")


def _check_resume_at(factory: Factory, domain: Domain, steps: int, asked: bool, where: str) -> None:
    optimizer = factory(domain, 1)
    _run(optimizer, steps)
    if asked:
        optimizer.ask()
    state = _from_text(_text(optimizer.state_dict()))
    kept = _text(state)
    resumed = []
    for seed in (1, 2):
        fresh = factory(domain, seed)
        fresh.load_state_dict(state)
        resumed.append(_run(fresh))
    _require(
        _text(state) == kept, f"load_state_dict keeps the state it was given and changes it {where}; copy it"
    )
    expected = _run(optimizer)
    _require(_same(resumed[0], expected), f"a resumed run differs from an uninterrupted one {where}")
    _require(
        _same(resumed[1], expected),
        f"a run resumed in an object of another seed differs {where}: the state lacks the random generator",
    )


def check_inputs(factory: Factory) -> None:
    """tell neither changes its arrays nor keeps them; what ask and recommend give is the caller's."""
    domain = DOMAINS["unbounded"]
    f = _function(domain)
    expected = _run(factory(domain, 1))
    optimizer = factory(domain, 1)
    for points in expected[:-1]:
        asked = optimizer.ask()
        z, loss = asked.copy(), f(asked)
        asked[:] = np.nan
        _require(
            np.array_equal(z, points),
            "the optimizer kept an array of the caller's; copy it in tell, ask, recommend",
        )
        z.setflags(write=False)
        loss.setflags(write=False)
        kept_z, kept_loss = z.copy(), loss.copy()
        try:
            optimizer.tell(z, loss)
        except ValueError as error:
            raise AssertionError(f"tell writes into its arguments: {error}") from error
        _require(np.array_equal(z, kept_z) and np.array_equal(loss, kept_loss), "tell changed its arguments")
        z.setflags(write=True)
        loss.setflags(write=True)
        z[:] = loss[:] = np.nan
        optimizer.recommend()[:] = np.nan
    _require(
        np.array_equal(optimizer.recommend(), expected[-1]), "the optimizer kept an array of the caller's"
    )


def _one_failed(bad: float) -> Callable[[Array], Array]:
    def change(loss: Array) -> Array:
        loss = loss.copy()
        loss[len(loss) // 2] = bad
        return loss

    return change


FAILURES: dict[str, Callable[[Array], Any]] = {
    "one nan a step": _one_failed(np.nan),
    "one inf a step": _one_failed(np.inf),
    "one -inf a step": _one_failed(-np.inf),
    "all but one nan": lambda loss: np.where(np.arange(len(loss)) == 0, loss, np.nan),
    "all equal": np.ones_like,
}
"""name -> what becomes of a step's losses [K]"""


def check_failed_candidates(factory: Factory) -> None:
    """nan and inf losses, some, all, or all equal, never end a run or poison the points."""
    domain = DOMAINS["unbounded"]
    for name, change in FAILURES.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GfoWarning)  # that all losses are equal
            trace = _run(factory(domain, 1), change=change)
        _require(all(np.isfinite(x).all() for x in trace), f"points are not finite after losses with {name}")
    _check_failed_steps(factory(domain, 1))
    if getattr(factory(domain, 1), "rank_based", False):
        lost, huge = (_run(factory(domain, 1), change=_one_failed(bad)) for bad in (np.nan, 1e9))
        _require(_same(lost, huge), "a failed candidate must count as the worst of its step")


def _check_failed_steps(optimizer: Optimizer) -> None:
    """Steps all of whose candidates failed."""
    for bad in (np.nan, np.inf):
        z = optimizer.ask()
        optimizer.tell(z, np.full(len(z), bad))
        new = optimizer.ask()
        _require(np.isfinite(new).all(), "points are not finite after a step in which all candidates failed")
        _require(
            not np.array_equal(z, new),
            "after a step in which all candidates failed, ask must draw new points",
        )
        optimizer.tell(new, _function(optimizer.domain)(new))
    _require(np.isfinite(_run(optimizer)[-1]).all(), "the optimizer does not recover after failed steps")


def check_ranks(factory: Factory) -> None:
    """A method with `rank_based = True` does the same under any increasing transform of the loss."""
    for name, domain in DOMAINS.items():
        optimizer = factory(domain, 1)
        if not getattr(optimizer, "rank_based", False):
            return
        expected = _run(optimizer)
        changes: list[Callable[[Array], Any]] = [
            lambda loss: 1e3 * loss - 7.0,
            np.cbrt,
            lambda loss: np.log(loss + 1e-3),
        ]
        for change in changes:
            _require(
                _same(_run(factory(domain, 1), change=change), expected),
                f"rank_based is True, but an increasing transform of the loss changes the run ({name})",
            )


def check_errors(factory: Factory) -> None:
    """tell before ask and wrong shapes give a GfoError and do no harm."""
    domain = DOMAINS["unbounded"]
    expected = _run(factory(domain, 1))
    optimizer = factory(domain, 1)
    z = factory(domain, 1).ask()
    loss = np.zeros(len(z))

    def refused(z: Array, loss: Array, what: str) -> None:
        try:
            optimizer.tell(z, loss)
        except GfoError:
            return
        raise AssertionError(f"{what} must raise a GfoError that says what to do")

    refused(z, loss, "tell before ask")
    optimizer.ask()
    refused(z[:, :-1], loss, "tell with points of d - 1 dimensions")
    refused(z, np.zeros(len(z) + 1), "tell with K + 1 losses for K points")
    refused(z, loss[:, None], "tell with losses of shape [K, 1]")
    f = _function(domain)
    optimizer.tell(z, f(z))
    for points in expected[1:-1]:
        z = optimizer.ask()
        _require(np.array_equal(z, points), "a refused tell changed the optimizer")
        optimizer.tell(z, f(z))
    refused(z, f(z), "a second tell without ask")


def check_convergence(factory: Factory, *, evaluations: int = 10_000, reduction: float = 1e-4) -> None:
    """recommend() comes near the optimum of shifted, rotated, ill-conditioned quadratics; median of three."""
    reached = sorted(_reached(factory, seed, evaluations) for seed in (1, 2, 3))
    _require(
        reached[1] <= reduction,
        f"after {evaluations} evaluations of a shifted, rotated quadratic (d = 5, condition 100) the loss is "
        f"{reached[1]:.2g} times that of the start, not {reduction:.2g}, in the median of three seeds: the "
        "update or a default is wrong",
    )


def _reached(factory: Factory, seed: int, evaluations: int) -> float:
    """The loss of recommend() over that of the first one on the quadratic of a seed."""
    f = Ellipsoid(5, condition=100, seed=seed)
    optimizer = factory(f.domain, seed)
    start = f(optimizer.recommend()[None])[0]
    used = 0
    while used < evaluations and optimizer.should_stop() is None:
        z = optimizer.ask()
        optimizer.tell(z, f(z))
        used += len(z)
    return float(f(optimizer.recommend()[None])[0] / start)


OPTIMIZER_CHECKS: dict[str, Callable[[Factory], None]] = {
    check.__name__.removeprefix("check_"): check
    for check in (
        check_shapes_and_bounds,
        check_integer_genes,
        check_seed,
        check_global_generators,
        check_resume,
        check_inputs,
        check_failed_candidates,
        check_ranks,
        check_errors,
        check_shuffled_rows,
        *TRIALS.values(),
    )
}
"""name -> check(factory); convergence comes on top, with a budget and a target."""
