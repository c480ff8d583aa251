"""What every optimizer of gfo shares: the books of ask and tell, and the checks of options.

A method adds its constructor, `_ask`, `_tell` and, where it has one, the mean of its distribution;
it names in `_state` the attributes that make up its state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from scipy.special import ndtri

from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError

MAX_FAILED_STEPS = 20


class BaseOptimizer(ABC):
    """Ask and tell with the checks done.

    - `ask` twice without `tell` gives the same points again.
    - `tell` takes every point that was asked, in order; a moved row (rounded, repaired) is used
      where it was moved to. A loss that is nan or infinite is a failed candidate.
    - A step in which every candidate failed changes nothing but the random generator: the next
      `ask` draws new points from the same distribution.

    Attributes:
        domain: the box searched.
        rng: the method's own random generator.
        best_z: the incumbent [d], the best point ever told; before that, the start.
        best_loss: its loss, inf before the first.
    """

    name: ClassVar[str]
    rank_based: bool = False
    """True if only the order of the losses matters, never their size."""
    integers: ClassVar[bool] = False
    """True if the method can take integer genes."""
    saves_state: ClassVar[bool] = False
    """True if asking takes long and loading a state does not: a resumed run then loads one that was saved."""
    _state: ClassVar[tuple[str, ...]] = ()

    def __init__(self, domain: Domain, seed: int) -> None:
        if not isinstance(domain, Domain):
            raise GfoError(f"optimizer '{self.name}': domain = {domain!r} must be a gfo.core Domain")
        if not self.integers and domain.integer.any():
            raise GfoError(
                f"optimizer '{self.name}' cannot take integer genes (gene {int(domain.integer.argmax())} "
                "is one); use 'ga' or 'random', or leave the domain continuous"
            )
        self.domain = domain
        self.seed = whole(self.name, "seed", seed, least=0)
        self.rng = np.random.default_rng(self.seed)
        self.best_z = start_point(domain)
        self.best_loss = np.inf
        self._asked: Array | None = None
        self._failed_steps = 0

    @abstractmethod
    def _ask(self) -> Array:
        """New points [K, d]."""

    @abstractmethod
    def _tell(self, z: Array, loss: Array) -> None:
        """Learn from z [K, d] and loss [K], nan where a candidate failed, at least one finite."""

    def ask(self) -> Array:
        """The next points to evaluate, [K, d], inside the domain."""
        if self._asked is None:
            self._asked = np.array(self._ask(), dtype=np.float64)
        return self._asked.copy()

    def tell(self, z: Array, loss: Array) -> None:
        """The losses [K] of the points [K, d] that `ask` gave; nan is a failed candidate."""
        if self._asked is None:
            raise GfoError(
                f"optimizer '{self.name}': tell without ask; call ask, evaluate its points, then tell"
            )
        z = np.array(z, dtype=np.float64)
        loss = np.array(loss, dtype=np.float64)
        if z.shape != self._asked.shape or loss.shape != self._asked.shape[:1]:
            raise GfoError(
                f"optimizer '{self.name}': tell got z {z.shape} and loss {loss.shape} where ask gave "
                f"{self._asked.shape}; tell all K points with one loss each, nan for a failed candidate"
            )
        lost = ~np.isfinite(z).all(axis=1)
        z[lost] = self._asked[lost]
        loss[lost | ~np.isfinite(loss)] = np.nan
        if np.isnan(loss).all():
            self._failed_steps += 1
            self._skip(z)
        else:
            self._failed_steps = 0
            i = int(np.nanargmin(loss))
            if loss[i] < self.best_loss:
                self.best_z, self.best_loss = z[i].copy(), float(loss[i])
            self._tell(z, loss)
        self._asked = None

    def _skip(self, z: Array) -> None:  # noqa: B027 (most methods have nothing to note)
        """Told when all of z [K, d] failed."""

    def recommend(self) -> Array:
        """The incumbent [d], unless the method has a distribution whose mean is better."""
        return self.best_z.copy()

    def should_stop(self) -> str | None:
        """Why the method wants to stop, in words, or None."""
        if self._failed_steps >= MAX_FAILED_STEPS:
            return f"all candidates of the last {self._failed_steps} steps failed"
        return None

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, as plain Python values and numpy arrays."""
        state: dict[str, Any] = {"optimizer": self.name, "rng": deepcopy(self.rng.bit_generator.state)}
        for key in ("best_z", "best_loss", "_asked", "_failed_steps", *self._state):
            state[key.lstrip("_")] = deepcopy(getattr(self, key))
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict` was called; the options must be the same."""
        keys = ("best_z", "best_loss", "_asked", "_failed_steps", *self._state)
        self._check_state(state, keys)
        self.rng.bit_generator.state = deepcopy(state["rng"])
        for key in keys:
            setattr(self, key, deepcopy(state[key.lstrip("_")]))

    def _check_state(self, state: Mapping[str, Any], keys: Collection[str] = ()) -> None:
        if state.get("optimizer") != self.name:
            raise GfoError(f"optimizer '{self.name}' cannot load a state of '{state.get('optimizer')}'")
        missing = [k.lstrip("_") for k in keys if k.lstrip("_") not in state]
        if missing:
            raise GfoError(f"optimizer '{self.name}': the state lacks {', '.join(missing)}")
        if "best_z" in state and np.shape(state["best_z"]) != (self.domain.d,):
            d = np.size(state["best_z"])
            raise GfoError(
                f"optimizer '{self.name}' with d = {self.domain.d} cannot load a state with d = {d}"
            )


def start_point(domain: Domain) -> Array:
    """Zero, where every search space decodes to its starting point, moved into the domain: [d]."""
    return domain.clip(np.zeros(domain.d))


def scatter(domain: Domain, u: Array) -> Array:
    """Points of the unit cube u [..., d] spread over the domain, [..., d].

    Uniform between two bounds (over the whole numbers for integer genes), standard normal where
    there is none, and the half of it on the open side where there is one.
    """
    low, high = domain.low, domain.high
    below, above = np.isfinite(low), np.isfinite(high)
    half = below ^ above
    gauss = ndtri(np.clip(np.where(half, (1 + u) / 2, u), 2.0**-53, 1 - 2.0**-53))
    box = below & above
    finite_low, finite_high = np.where(below, low, 0.0), np.where(above, high, 0.0)
    width = np.where(box, finite_high - finite_low + domain.integer, 0.0)
    uniform = finite_low + u * width
    uniform = np.where(domain.integer, np.floor(uniform), uniform)
    one_sided = np.where(below, finite_low + gauss, finite_high - gauss)
    return domain.clip(np.where(box, uniform, np.where(half, one_sided, gauss)))


def first_population(domain: Domain, rng: np.random.Generator, K: int, sigma0: float, x0: Array) -> Array:
    """x0 and K - 1 points about it, [K, d]: uniform where the domain is a box, else N(x0, sigma0^2)."""
    uniform = scatter(domain, rng.random((K, domain.d)))
    normal = domain.clip(x0 + sigma0 * rng.standard_normal((K, domain.d)))
    z = np.where(np.isfinite(domain.low) & np.isfinite(domain.high), uniform, normal)
    z[0] = x0
    return z


def scale(domain: Domain, sigma: float) -> Array:
    """A step of `sigma` in unit-scale z for each dimension [d], at most a quarter of the box's width."""
    return np.minimum(sigma, (domain.high - domain.low) / 4)


def worst_for_failed(loss: Array) -> Array:
    """loss [K] with nan replaced by a finite value worse than every finite one, [K]."""
    best, worst = np.nanmin(loss), np.nanmax(loss)
    return np.where(np.isnan(loss), worst + max(worst - best, abs(worst) * 1e-6, 1e-12), loss)


def default_population(d: int) -> int:
    """4 + floor(3 ln d), the default of CMA-ES (Hansen 2016, arXiv:1604.00772, eq. 48) and SNES."""
    return 4 + int(3 * np.log(d))


def population_option(method: str, domain: Domain, value: int | None, *, least: int = 2) -> int:
    """The population given, or the default one."""
    return default_population(domain.d) if value is None else whole(method, "population", value, least=least)


def even_population(method: str, domain: Domain, value: int | None) -> int:
    """The population given, or the default one made even, for methods that draw pairs."""
    population = population_option(method, domain, value)
    if value is not None and population % 2:
        raise option_error(method, "population", value, "even: points come in pairs")
    return population + population % 2


def start_option(method: str, domain: Domain, x0: Sequence[float] | Array | None) -> Array:
    """x0 as an array [d], or zero moved into the domain."""
    if x0 is None:
        return start_point(domain)
    point = np.array(x0, dtype=np.float64)
    if point.shape != (domain.d,) or not domain.contains(point):
        raise option_error(method, "x0", x0, f"{domain.d} numbers inside the domain")
    return point


def option_error(method: str, option: str, value: object, wanted: str) -> GfoError:
    """The error for an option's value that cannot be used."""
    return GfoError(f"optimizer '{method}': {option} = {value!r} must be {wanted}")


def whole(method: str, option: str, value: Any, *, least: int = 1) -> int:
    """value as an int, if it is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise option_error(method, option, value, f"a whole number of at least {least}")
    return int(value)


def number(
    method: str,
    option: str,
    value: Any,
    *,
    above: float = -np.inf,
    least: float = -np.inf,
    below: float = np.inf,
    most: float = np.inf,
) -> float:
    """value as a float, if it is a finite number > above, >= least, < below and <= most."""
    real = isinstance(value, Real) and not isinstance(value, bool) and bool(np.isfinite(float(value)))
    if not (real and value > above and value >= least and value < below and value <= most):
        limits = [
            f"{word} {limit:g}"
            for word, limit in (("above", above), ("at least", least), ("below", below), ("at most", most))
            if np.isfinite(limit)
        ]
        raise option_error(method, option, value, " ".join(["a finite number", " and ".join(limits)]).strip())
    return float(value)


def one_of(method: str, option: str, value: Any, choices: Collection[str]) -> str:
    """value, if it is one of the choices."""
    if value not in choices:
        raise option_error(method, option, value, f"one of {', '.join(sorted(choices))}")
    return str(value)
