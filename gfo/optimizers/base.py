"""What every optimizer of gfo shares: the books of ask and tell, and the options that all of them have.

A method adds its constructor, `_ask`, `_tell` and, where it has one, the mean of its distribution;
it names in `_state` the attributes that make up its state.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar

import numpy as np

from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError, GfoWarning, shown
from gfo.optimizers.matching import completed, matched
from gfo.optimizers.options import (
    even_population,
    number,
    population_option,
    scale_option,
    start_option,
    start_point,
    whole,
    within,
)

MAX_FAILED_STEPS = 20
FLAT_STEPS, FLAT_POINTS = 5, 40
"""Steps in a row, and points in them, that scored alike before a method searches more widely."""
WIDER, WIDEST = 1.25, 10.0
"""A flat step's factor on a method's steps, and the most that such steps make of the first one."""
NEAR = 1e-7
"""Points nearer to each other than this share of a typical change may well have equal losses."""


class BaseOptimizer(ABC):
    """Ask and tell with the checks done.

    - `ask` twice without `tell` gives the same points again.
    - `tell` takes the points that were asked; in another order they are put back into order by what they
      are, and those missing of a part have failed. A moved row (rounded, repaired) stays in its place and
      is used where it was moved to. A loss that is nan or infinite is a failed candidate.
    - A step in which every candidate failed changes nothing but the random generator: the next
      `ask` draws new points from the same distribution.
    - Equal losses are no sign of convergence: after `flat_stretch` steps of them a method widens its search,
      and says so once.
    - Points of others (`inject`) take the place of own ones in the next steps, where they get losses that can
      be compared with those beside them.
    - Losses of different batches are not compared: where the objective is `noisy`, a method asks for what it
      remembers once more, beside the new points, and compares within the step.

    Attributes:
        domain: the box searched.
        rng: the method's own random generator.
        population: points a step, where the method has a fixed number.
        scale: a typical change of each coordinate [d].
        x0: the start [d].
        evaluations: how many the run may take, None where it is not known.
        best_z: the incumbent [d], the best point ever told, or of the newest step where the objective is
            noisy; before that, the start.
        best_loss: its loss, inf before the first.
    """

    name: ClassVar[str]
    rank_based: bool = False
    """True if only the order of the losses matters, never their size."""
    integers: ClassVar[bool] = False
    """True if the method can take integer and categorical genes."""
    varies: ClassVar[bool] = False
    """True if steps may have any number of points, so that `ask(n)` gives n."""
    injects: ClassVar[bool] = True
    """True if points of others can take the places of own ones."""
    saves_state: ClassVar[bool] = False
    """True if asking takes long and loading a state does not: a resumed run then loads one that was saved."""
    _several: tuple[int, ...] = ()
    """The shape of what is told of a candidate: one loss, or several numbers."""
    _state: ClassVar[tuple[str, ...]] = ()
    _books: ClassVar[tuple[str, ...]] = (
        "best_z", "best_loss", "_asked", "_failed_steps", "_flat_steps", "_last_loss", "_noise_seen",
    )  # fmt: skip

    def __init__(self, domain: Domain, seed: int) -> None:
        if not isinstance(domain, Domain):
            raise GfoError(f"optimizer '{self.name}': domain = {shown(domain)} must be a gfo.core Domain")
        if not self.integers and domain.integer.any():
            raise GfoError(
                f"optimizer '{self.name}' cannot take integer genes (gene {int(domain.integer.argmax())} "
                "is one); use 'ga' or 'random', or leave the domain continuous"
            )
        self.domain = domain
        self.seed = whole(self.name, "seed", seed, least=0)
        self.rng = np.random.default_rng(self.seed)
        self.population = 0
        self.scale = scale_option(self.name, domain, None)
        self.x0 = start_point(domain)
        self.evaluations: int | None = None
        self.batches_differ = False
        self.best_z = start_point(domain)
        self.best_loss = np.inf
        self._asked: Array | None = None
        self._failed_steps = 0
        self._flat_steps = 0
        self._last_loss = np.inf
        self._noise_seen = False
        self._said = False
        self._injected = np.empty((0, domain.d))  # points of others that wait for a place
        self._others = 0  # how many rows of the step are such points
        self._least, self._even = 1, False

    def _take(
        self,
        *,
        population: int | None = None,
        default: int | None = None,
        least: int = 2,
        even: bool = False,
        scale: float | Sequence[float] | Array | None = None,
        x0: Sequence[float] | Array | None = None,
    ) -> None:
        """Check and keep the options that all methods share; `default` replaces the usual population."""
        self._least, self._even = least, even
        self.population = self._count(default if population is None else population)
        self.scale = scale_option(self.name, self.domain, scale)
        self.x0 = start_option(self.name, self.domain, x0)

    def _count(self, size: int | None) -> int:
        """A number of points a step that the method can work with."""
        if self._even:
            return even_population(self.name, self.domain, size)
        return population_option(self.name, self.domain, size, least=self._least)

    def _size(self, option: str, value: float | None, share: float) -> Array:
        """A step's size for each coordinate [d]: given in z, or this share of `scale`.

        At most a quarter of the width of a box.
        """
        size = share * self.scale if value is None else number(self.name, option, value, above=0)
        return within(self.domain, size)

    def _wider(self, step: Array, first: Array) -> Array:
        """step [d] made wider after a flat stretch, up to `WIDEST` times the first one [d]."""
        return np.maximum(step, np.minimum(WIDER * step, within(self.domain, WIDEST * first)))

    @abstractmethod
    def _ask(self) -> Array:
        """New points [K, d]."""

    @abstractmethod
    def _tell(self, z: Array, loss: Array) -> None:
        """Learn from z [K, d] and loss [K], nan where a candidate failed, at least one finite."""

    def plan(self, evaluations: int | None = None, *, batches_differ: bool = False) -> None:
        """What the loop knows of the run, called before the first `ask`.

        Args:
            evaluations: how many the run may take; None where it is not known.
            batches_differ: whether losses of different steps are of different batches, or noisy.
        """
        if evaluations is not None:
            evaluations = whole(self.name, "plan's evaluations", evaluations)
        self.evaluations = evaluations
        self.batches_differ = bool(batches_differ)

    def _another(self, then: Array, now: Array) -> bool:
        """Whether points asked again score otherwise, [n] and [n], by more than rounding."""
        known = np.isfinite(then) & np.isfinite(now)
        rounding = 1e-5 * np.abs(then[known]).max(initial=0.0)
        return bool((np.abs(now[known] - then[known]) > rounding).any())

    @property
    def noisy(self) -> bool:
        """Whether losses of different steps may not be compared: planned so, or found out."""
        return self.batches_differ or self._noise_seen

    def ask(self, n: int | None = None) -> Array:
        """The next points to evaluate, [K, d], inside the domain.

        Args:
            n: how many in this step, for methods with `varies`; by default the population.

        Raises:
            GfoError: for a number of points that the method's step cannot have.
        """
        if self._asked is None:
            z = np.asarray(self._ask() if n is None else self._ask_for(n), dtype=np.float64)
            self._asked, self._others = z, 0
            if len(self._injected):
                self._asked = self._with_injected(z)
        elif n is not None and n != len(self._asked):
            raise GfoError(
                f"optimizer '{self.name}': ask(n = {n}) where {len(self._asked)} points were asked and not "
                "told yet; tell them first"
            )
        return self._asked.copy()

    def _ask_for(self, n: int) -> Array:
        """n points of this step, beside what a method asks for again."""
        usual = self.population
        if not self.varies and n != usual:
            step = f"{usual} points" if usual else "as many points as the method inside"
            raise GfoError(
                f"optimizer '{self.name}': ask(n = {n}), but its steps have {step}; leave n out, or make it "
                "with another population"
            )
        self.population = self._count(n)
        try:
            return self._ask()
        finally:
            self.population = usual

    def inject(self, z: Array) -> None:
        """Have points of others [n, d], or one [d], evaluated among the next ones.

        They take the last places of the next steps, at most half of each.

        Raises:
            GfoError: for points that are not in the domain, or a method that cannot take them.
        """
        points = np.array(z, dtype=np.float64).reshape(-1, np.shape(z)[-1] if np.ndim(z) else 1)
        if not self.injects:
            raise GfoError(f"optimizer '{self.name}': it cannot take points of others; start it there by x0")
        if points.shape[1] != self.domain.d or not self.domain.contains(points).all():
            raise GfoError(
                f"optimizer '{self.name}': inject got z {np.shape(z)}; give points [n, {self.domain.d}] "
                "inside the domain"
            )
        self._injected = np.concatenate([self._injected, points])

    def _with_injected(self, z: Array) -> Array:
        """z [K, d] with points of others in the last places."""
        n = min(len(self._injected), len(z) // 2 or 1)
        z = np.concatenate([z[:-n], self._injected[:n]])
        self._injected, self._others = self._injected[n:], n
        return z

    def tell(self, z: Array, loss: Array) -> None:
        """The losses [K] of the points [K, d] that `ask` gave, or of a part of them; nan is a failure."""
        if self._asked is None:
            raise GfoError(
                f"optimizer '{self.name}': tell without ask; call ask, evaluate its points, then tell"
            )
        loss, told = np.array(loss, dtype=np.float64), np.asarray(z, dtype=np.float64)
        as_asked = loss.shape == (len(self._asked), *self._several)
        if as_asked and np.array_equal(told, self._asked):  # as mostly: no copies
            z = self._asked
        else:
            z, loss = self._in_order(self._asked, told.copy(), loss)
        loss[~np.isfinite(loss)] = np.nan
        z, loss = self._split(z, loss)
        if np.isnan(loss).all():
            self._failed_steps += 1
            self._skip(z)
        else:
            self._failed_steps = 0
            self._book(z, loss)
            self._tell(z, loss)
            if self._flat_steps >= flat_stretch(len(z)):
                self._widen()
        self._asked = None

    def _in_order(self, asked: Array, z: Array, loss: Array) -> tuple[Array, Array]:
        """z [K, d] and loss [K] as asked [K, d]: of a part, in another order, or of rows that were moved."""
        fits = z.ndim == 2 and loss.shape == (len(z), *self._several)
        if fits and z.shape[1] == self.domain.d and len(z) < len(asked):
            z, loss = completed(self.name, asked, z, loss)
        if z.shape != asked.shape or not fits:
            raise GfoError(
                f"optimizer '{self.name}': tell got z {z.shape} and loss {loss.shape} where ask gave "
                f"{asked.shape}; tell all K or a part of them with one loss each, nan for failed ones"
            )
        return matched(self.name, asked, z, loss, self.domain)

    def _inside(self, z: Array) -> Array:
        """z [K, d] moved into the domain; where all points are inside z itself, not a copy."""
        return z if self.domain.free else self.domain.clip(z)

    def _split(self, z: Array, loss: Array) -> tuple[Array, Array]:
        """What is for the method itself, of z [K, d] and loss [K] told."""
        return z, loss

    def _book(self, z: Array, loss: Array) -> None:
        """Keep the incumbent, and count steps in which all candidates scored alike."""
        i = int(np.nanargmin(loss))
        if loss[i] < self.best_loss or self.noisy:
            self.best_z, self.best_loss = z[i].copy(), float(loss[i])
        known = loss[np.isfinite(loss)]
        if len(known) > 1:
            alike = bool(known.min() == known.max())
            flat = alike and bool((np.ptp(z, axis=0) > NEAR * self.scale).any())
        elif len(loss) == 1:
            flat = bool(known[0] == self._last_loss)
        else:
            return  # one loss beside failed ones says nothing
        self._flat_steps = self._flat_steps + 1 if flat else 0
        self._last_loss = float(known[-1])
        if self._flat_steps == flat_stretch(len(loss)):
            self._say_flat(len(loss))

    def _say_flat(self, K: int) -> None:
        if not self._said:
            self._said = True
            which = f"{K} of {K} candidates" if K > 1 else "the last candidates all"
            warnings.warn(
                f"optimizer '{self.name}': {which} scored alike, {self._flat_steps} steps in a row; a "
                "finer metric such as accuracy+ce, more rows or a larger alpha would help",
                GfoWarning,
                stacklevel=4,
            )

    def _skip(self, z: Array) -> None:  # noqa: B027 (most methods have nothing to note)
        """Told when all of z [K, d] failed."""

    def _widen(self) -> None:  # noqa: B027 (methods without a step have nothing to widen)
        """Told after `_tell` in each step of a flat stretch from its `flat_stretch`-th on."""

    def recommend(self) -> Array:
        """The incumbent [d], unless the method has a distribution whose mean is better."""
        return self.best_z.copy()

    @property
    def standard_deviations(self) -> Array | None:
        """The standard deviations of what it draws [d], where it adapts them, for a later run."""
        return None

    def should_stop(self) -> str | None:
        """Why the method wants to stop, in words, or None."""
        if self._failed_steps >= MAX_FAILED_STEPS:
            return f"all candidates of the last {self._failed_steps} steps failed"
        return None

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, as plain Python values and numpy arrays."""
        state: dict[str, Any] = {"optimizer": self.name, "rng": deepcopy(self.rng.bit_generator.state)}
        for key in (*self._books, *self._state):
            state[key.lstrip("_")] = deepcopy(getattr(self, key))
        if len(self._injected) or self._others:
            state["injected"], state["others"] = self._injected.copy(), self._others
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict` was called; the options must be the same."""
        keys = (*self._books, *self._state)
        self._check_state(state, keys)
        self.rng.bit_generator.state = deepcopy(state["rng"])
        for key in keys:
            setattr(self, key, deepcopy(state[key.lstrip("_")]))
        self._injected = np.array(state.get("injected", np.empty((0, self.domain.d))))
        self._others = int(state.get("others", 0))

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


def flat_stretch(K: int) -> int:
    """How many steps in a row, of K candidates that scored alike, are a flat stretch."""
    return max(FLAT_STEPS, -(-FLAT_POINTS // K))
