"""Restarts of any optimizer: IPOP and BIPOP.

IPOP: Auger and Hansen (2005), A restart CMA evolution strategy with increasing population size,
doi:10.1109/CEC.2005.1554902. BIPOP: Hansen (2009), Benchmarking a BI-population CMA-ES on the BBOB-2009
function testbed, doi:10.1145/1570256.1570333.

    IPOP    run i has the population factor^i lambda
    BIPOP   such large runs, and in turn with them, whichever spent fewer evaluations, small ones:
            lambda_s = lambda (lambda_l / (2 lambda))^(u^2),  sigma_s = sigma0 10^(-2 u'),  u, u' ~ U[0, 1]

A run ends when its optimizer wants to stop, or when the best losses of the last
10 + ceil(30 d / lambda) steps differ by at most `tolfun` (equalfunvalhist of Auger and Hansen). The
next one starts at a random point of the domain, N(0, I) where it has no bounds. The recommendation
is that of the run with the lowest loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.core.protocols import Optimizer
from gfo.optimizers import make_with, options_of
from gfo.optimizers.base import BaseOptimizer, number, scatter, whole


class IPOP(BaseOptimizer):
    """Restarts, each with `factor` times the population.

    Args:
        domain: the box searched.
        seed: of the choice of starts and of every run's own seed.
        optimizer: name of the method restarted; it must have the options population and x0.
        options: its options in the first run; later runs change population, x0 and sigma0.
        factor: growth of the population (Auger and Hansen: 2).
        restarts: the most restarts with a larger population (Hansen 2009: 9).
        tolfun: spread of the best losses at which a run has come to its end.
    """

    name = "ipop"
    integers = True  # as far as the method restarted takes them
    _state = ("run", "_recent", "_run_best", "_kept_z", "_kept_loss", "_grown", "_spent", "_reason")

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        optimizer: str = "cma",
        options: Mapping[str, Any] | None = None,
        factor: float = 2.0,
        restarts: int = 9,
        tolfun: float = 1e-12,
    ) -> None:
        super().__init__(domain, seed)
        self.optimizer = optimizer
        self.options = dict(options or {})
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
        self._sigma0 = float(self.options.get("sigma0", getattr(self._inner, "sigma0", 0.5)))
        self._grown = 0
        self._spent = [0, 0]  # evaluations in runs with a large and with a small population
        self._recent: list[float] = []
        self._run_best = np.inf
        self._kept_z, self._kept_loss = self._inner.recommend(), np.inf
        self._reason = ""

    def _build(self) -> Optimizer:
        run = {key: value for key, value in self.run.items() if key not in ("seed", "small")}
        return make_with(self.optimizer, self.domain, self.run["seed"], {**self.options, **run})

    def _ask(self) -> Array:
        if self._reason and self._grown < self.restarts:
            self._restart()
        return self._inner.ask()

    def _tell(self, z: Array, loss: Array) -> None:
        self._inner.tell(z, loss)
        self._spent[self.run["small"]] += len(z)
        best = float(np.nanmin(loss))
        self._run_best = min(self._run_best, best)
        window = 10 + math.ceil(30 * self.domain.d / len(z))
        self._recent = [*self._recent, best][-window:]
        self._reason = self._inner.should_stop() or ""
        if not self._reason and len(self._recent) == window and np.ptp(self._recent) <= self.tolfun:
            self._reason = f"the best losses of the last {window} steps no longer differ"

    def _skip(self, z: Array) -> None:
        self._inner.tell(z, np.full(len(z), np.nan))

    def _restart(self) -> None:
        if self._run_best < self._kept_loss:
            self._kept_z, self._kept_loss = np.array(self._inner.recommend()), self._run_best
        self.run = {"seed": int(self.rng.integers(2**31)), **self._next_run()}
        self.run["x0"] = scatter(self.domain, self.rng.random(self.domain.d))
        self._inner = self._build()
        self._recent, self._run_best, self._reason = [], np.inf, ""

    def _next_run(self) -> dict[str, Any]:
        """What the next run changes in the options."""
        self._grown += 1
        return {"small": False, "population": self._large()}

    def _large(self) -> int:
        return _even(self._population * self.factor**self._grown)

    def recommend(self) -> Array:
        """The recommendation of the run with the lowest loss, [d]."""
        if self._kept_loss < self._run_best:
            return np.array(self._kept_z)
        return self._inner.recommend()

    def should_stop(self) -> str | None:
        if self._reason and self._grown >= self.restarts:
            return f"all {self.restarts} restarts are used; the last run ended because {self._reason}"
        return super().should_stop()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "inner": self._inner.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._inner = self._build()
        self._inner.load_state_dict(state["inner"])


class BIPOP(IPOP):
    """Restarts with large populations as IPOP's, and between them small ones with small first steps."""

    name = "bipop"

    def _next_run(self) -> dict[str, Any]:
        if self._grown == 0 or self._spent[0] <= self._spent[1]:
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
