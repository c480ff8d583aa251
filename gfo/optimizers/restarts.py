"""Restarts of any optimizer: IPOP and BIPOP.

IPOP: Auger and Hansen (2005), A restart CMA evolution strategy with increasing population size,
doi:10.1109/CEC.2005.1554902. BIPOP: Hansen (2009), Benchmarking a BI-population CMA-ES on the BBOB-2009
function testbed, doi:10.1145/1570256.1570333; its accounts as pycma keeps them.

    IPOP    run i has the population factor^i lambda
    BIPOP   such large runs, and in turn with them, as long as they spent fewer evaluations, small ones:
            lambda_s = lambda (lambda_l / (2 lambda))^(u^2),  sigma_s = sigma0 10^(-2 u'),  u, u' ~ U[0, 1]
            A small run ends after half the evaluations of all large ones; the first run counts as small.

A run ends when its optimizer wants to stop, or when the best losses of the last
10 + ceil(30 d / lambda) steps differ by at most `tolfun` (equalfunvalhist of Auger and Hansen). The
next one starts at a random point of the domain, N(0, scale^2) where it has no bounds. The recommendation
is that of the run with the lowest loss; where batches differ, the best run's recommendation so far is
evaluated in each step beside that of the present run, and the one with the lower losses on average is it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gfo.core.checking import named
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.core.protocols import Optimizer
from gfo.optimizers import make_with, options_of
from gfo.optimizers.base import BaseOptimizer
from gfo.optimizers.drawing import scatter
from gfo.optimizers.inner import inner_options, plan, quiet
from gfo.optimizers.options import number, whole

DUELS = 20
"""Steps of the present run whose comparisons with the best run so far count."""


@named
class IPOP(BaseOptimizer):
    """Restarts, each with `factor` times the population.

    Args:
        domain: the box searched.
        seed: of the choice of starts and of every run's own seed.
        optimizer: name of the method restarted; it must have the options population and x0.
        scale: a typical change of a coordinate, handed on; 1 by default, within a box a fifth of its width.
        options: its options in the first run, its own defaults without; later runs change population, x0 and
            sigma0.
        factor: growth of the population (Auger and Hansen: 2).
        restarts: how often the population grows (Hansen 2009: 9); later restarts keep the largest.
        tolfun: spread of the best losses at which a run has come to its end.
    """

    name = "ipop"
    integers = True  # as far as the method restarted takes them
    _state = (
        "run", "_recent", "_run_best", "_kept_z", "_kept_loss", "_grown", "_spent", "_run_spent", "_reason",
        "_duels", "_rivals",
    )  # fmt: skip

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        optimizer: str = "cma",
        scale: float | Sequence[float] | None = None,
        options: Mapping[str, Any] | None = None,
        factor: float = 2.0,
        restarts: int = 9,
        tolfun: float = 1e-12,
    ) -> None:
        super().__init__(domain, seed)
        self._take(scale=scale)
        self.optimizer = optimizer
        self.options = inner_options(optimizer, options, None if scale is None else self.scale)
        known = options_of(optimizer)
        self._known = set(known if known is not None else ("population", "x0", "sigma0"))
        if not {"population", "x0"} <= self._known:
            raise GfoError(
                f"optimizer '{self.name}' cannot restart '{optimizer}': it lacks the option population or x0"
            )
        self.factor = number(self.name, "factor", factor, above=1)
        self.restarts = whole(self.name, "restarts", restarts, least=0)
        self.tolfun = number(self.name, "tolfun", tolfun, least=0)
        self.run: dict[str, Any] = {"seed": int(self.rng.integers(2**31)), "small": False}
        self._inner = self._build()
        self._population = int(getattr(self._inner, "population", 0)) or len(self._build().ask())
        sigma0 = self.options.get("sigma0", getattr(self._inner, "sigma0", 0.5))
        self._sigma0 = float(np.max(sigma0))
        self._grown = 0
        self._spent = [0, 0]  # evaluations in runs with a large and with a small population
        self._run_spent = 0
        self._recent: list[float] = []
        self._run_best = np.inf
        self._kept_z, self._kept_loss = self._inner.recommend(), np.inf
        self._reason = ""
        self._duels: list[float] = []  # losses of the best run's recommendation minus the present run's
        self._rivals = 0  # rows of the step that are such recommendations: 0 or 2

    def _build(self) -> Optimizer:
        run = {key: value for key, value in self.run.items() if key not in ("seed", "small")}
        inner = make_with(self.optimizer, self.domain, self.run["seed"], {**self.options, **run})
        quiet(inner)
        plan(inner, None, batches_differ=self.batches_differ)
        return inner

    def plan(self, evaluations: int | None = None, *, batches_differ: bool = False) -> None:
        super().plan(evaluations, batches_differ=batches_differ)
        plan(self._inner, None, batches_differ=batches_differ)

    def inject(self, z: Array) -> None:
        """Points of others for the present run."""
        inner: Any = self._inner
        inner.inject(z)

    def _ask(self) -> Array:
        if self._reason:
            self._restart()
        z = self._inner.ask()
        self._rivals = 2 if self.noisy and np.isfinite(self._kept_loss) else 0
        if self._rivals:
            z = np.concatenate([self._kept_z[None], self._inner.recommend()[None], z])
        return z

    def _tell(self, z: Array, loss: Array) -> None:
        if self._rivals and np.isfinite(loss[:2]).all():
            self._duels = [*self._duels, float(loss[0] - loss[1])][-DUELS:]
        z, loss = z[self._rivals :], loss[self._rivals :]
        self._inner.tell(z, loss)
        self._run_spent += len(z)
        self._spent[self.run["small"] or not self._grown] += len(z)
        best = float(np.nanmin(loss)) if np.isfinite(loss).any() else np.inf
        self._run_best = min(self._run_best, best)
        window = 10 + math.ceil(30 * self.domain.d / len(z))
        self._recent = [*self._recent, best][-window:]
        self._reason = self._why_ended(window)

    def _why_ended(self, window: int) -> str:
        """Why the present run has ended, told of a `window` of steps; empty if it goes on."""
        reason = self._inner.should_stop() or ""
        if self.run["small"] and self._run_spent >= self._spent[0] / 2:
            return "a small run takes at most half the evaluations of the large ones"
        if reason or len(self._recent) < window or not np.isfinite(self._recent).all():
            return reason
        if max(self._recent) - min(self._recent) > self.tolfun:
            return ""
        return f"the best losses of the last {window} steps no longer differ"

    def _skip(self, z: Array) -> None:
        z = z[self._rivals :]
        self._inner.tell(z, np.full(len(z), np.nan))

    def _restart(self) -> None:
        if self._ahead():
            self._kept_z, self._kept_loss = np.array(self._inner.recommend()), self._run_best
        self.run = {"seed": int(self.rng.integers(2**31)), **self._next_run()}
        self.run["x0"] = scatter(self.domain, self.rng.random(self.domain.d), self.scale)
        self._inner = self._build()
        self._recent, self._run_best, self._reason, self._run_spent = [], np.inf, "", 0
        self._duels = []

    def _ahead(self) -> bool:
        """Whether the present run is better than the best one before it."""
        if self.noisy and np.isfinite(self._kept_loss):
            return bool(self._duels) and float(np.mean(self._duels)) > 0
        return self._run_best < self._kept_loss

    def _next_run(self) -> dict[str, Any]:
        """What the next run changes in the options."""
        self._grown = min(self._grown + 1, self.restarts)
        return {"small": False, "population": self._large()}

    def _large(self) -> int:
        return _even(self._population * self.factor**self._grown)

    def recommend(self) -> Array:
        """The recommendation of the best run, [d]."""
        if self._ahead() or not np.isfinite(self._kept_loss):
            return self._inner.recommend()
        return np.array(self._kept_z)

    @property
    def standard_deviations(self) -> Array | None:
        """That of the present run."""
        return getattr(self._inner, "standard_deviations", None)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "inner": self._inner.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._inner = self._build()
        self._inner.load_state_dict(state["inner"])


@named
class BIPOP(IPOP):
    """Restarts with large populations as IPOP's, and between them small ones with small first steps."""

    name = "bipop"

    def _next_run(self) -> dict[str, Any]:
        if self._spent[1] >= self._spent[0]:
            return super()._next_run()
        u = self.rng.random(2)
        share = (self._large() / (2 * self._population)) ** (u[0] ** 2)
        run: dict[str, Any] = {"small": True, "population": _even(self._population * share)}
        if "sigma0" in self._known:
            run["sigma0"] = float(self._sigma0 * 10 ** (-2 * u[1]))
        return run


def _even(population: float) -> int:
    """The next whole number below that is even, at least 2: some methods draw pairs."""
    return max(2, int(population) // 2 * 2)
