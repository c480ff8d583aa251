"""PSO: particle swarm optimization.

Kennedy and Eberhart (1995), doi:10.1109/ICNN.1995.488968; inertia: Shi and Eberhart (1998),
doi:10.1109/ICEC.1998.699146; constriction: Clerc and Kennedy (2002), doi:10.1109/4235.985692; ring and
other defaults: Bratton and Kennedy (2007), Defining a standard for PSO, doi:10.1109/SIS.2007.368035.

    v <- w v + c1 r1 (p - x) + c2 r2 (g - x)                inertia
    v <- chi (v + c1 r1 (p - x) + c2 r2 (g - x))            constriction
    chi = 2 / |2 - phi - sqrt(phi^2 - 4 phi)|,  phi = c1 + c2 > 4
    x <- x + v

p is the best point of the particle, g the best of its neighbourhood (all particles, or the two next
ones on a ring and itself), r1 and r2 uniform in [0, 1] for each coordinate. The recommendation is the
incumbent.

Where batches differ there are half as many particles, and each step asks for the best point of each particle
once more, beside the particle, so that losses are compared within the step and a lucky one does not stay (and
the champion guards against drift, champion.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gfo.core.checking import named
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.optimizers.champion import Championed
from gfo.optimizers.drawing import first_population
from gfo.optimizers.options import number, one_of, whole
from gfo.optimizers.steady_state import SteadyState


@named
class ParticleSwarm(Championed, SteadyState):
    """Particle swarm, all particles moved at once.

    Args:
        domain: the box searched.
        seed: of the method's own random generator.
        population: K, particles; 8 + floor(3 ln d) by default: larger swarms (20 to 50 in the papers) are
            safer on multimodal losses and slower where evaluations are few.
        scale: a typical change of a coordinate; 1 by default, within a box a fifth of its width.
        sigma0: spread of the first particles and of their first velocities in z; half of `scale` by default,
            the particles then uniform within a box.
        x0: the first particle [d]; zero, moved into the domain, by default.
        c1, c2: pull of the own and of the neighbourhood's best point (Clerc and Kennedy: 2.05).
        inertia: "constriction" (chi from c1 and c2) or "linear" (w from `w_start` to `w_end`).
        w_start, w_end, w_steps: the linear schedule (Shi and Eberhart: 0.9 to 0.4) and its steps, by default
            those of the plan, 200 without one.
        topology: "global" or "ring".
        v_max: largest velocity of a coordinate, in widths of the box, in `scale` without one.
        bounds: at a bound the velocity is set to 0 ("absorb") or turned round ("reflect").
    """

    name = "pso"
    rank_based = True
    _state = ("x", "v", "p", "p_loss", "k", "w_steps", "_again")

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        population: int | None = None,
        scale: float | Sequence[float] | None = None,
        sigma0: float | None = None,
        x0: Sequence[float] | Array | None = None,
        c1: float = 2.05,
        c2: float = 2.05,
        inertia: str = "constriction",
        w_start: float = 0.9,
        w_end: float = 0.4,
        w_steps: int | None = None,
        topology: str = "global",
        v_max: float = 1.0,
        bounds: str = "absorb",
    ) -> None:
        super().__init__(domain, seed)
        default = 8 + int(3 * math.log(domain.d))
        self._take(population=population, default=default, scale=scale, x0=x0)
        self.sigma0 = self._size("sigma0", sigma0, 0.5)
        self._uniform = sigma0 is None
        self.c1 = number(self.name, "c1", c1, least=0)
        self.c2 = number(self.name, "c2", c2, least=0)
        self.inertia = one_of(self.name, "inertia", inertia, ("constriction", "linear"))
        self.w_start = number(self.name, "w_start", w_start, least=0)
        self.w_end = number(self.name, "w_end", w_end, least=0)
        self.w_steps = 200 if w_steps is None else whole(self.name, "w_steps", w_steps)
        self._w_steps_given = w_steps is not None
        self.topology = one_of(self.name, "topology", topology, ("global", "ring"))
        self.bounds = one_of(self.name, "bounds", bounds, ("absorb", "reflect"))
        phi = self.c1 + self.c2
        if self.inertia == "constriction" and phi <= 4:
            raise GfoError(f"optimizer 'pso': c1 + c2 = {phi} must be above 4 with inertia = 'constriction'")
        width = domain.high - domain.low
        self.v_max = number(self.name, "v_max", v_max, above=0) * np.where(
            np.isfinite(width), width, self.scale
        )
        self.x = self._draw()
        self.v = self._velocities()
        self.p = self.x.copy()
        self.p_loss = np.full(self.population, np.inf)
        self.k = 0.0  # moves of the whole swarm
        self._again = 0  # how many rows of the step are best points asked again

    def plan(self, evaluations: int | None = None, *, batches_differ: bool = False) -> None:
        super().plan(evaluations, batches_differ=batches_differ)
        if evaluations is not None and not self._w_steps_given and not self.k:
            self.w_steps = max(1, evaluations // self.population)

    def _draw(self) -> Array:
        """The start and points about it, [K, d]."""
        return first_population(
            self.domain, self.rng, self.population, self.sigma0, self.x0, boxes=self._uniform
        )

    def _velocities(self) -> Array:
        """Half-way to another random point, as in SPSO 2006: [K, d]."""
        other = self._draw()[: len(self.x)]
        return np.clip((other - self.x) / 2, -self.v_max, self.v_max)

    def coefficients(self) -> tuple[float, float, float]:
        """The factors now on v, on r1 (p - x) and on r2 (g - x)."""
        if self.inertia == "constriction":
            phi = self.c1 + self.c2
            chi = 2 / abs(2 - phi - math.sqrt(phi**2 - 4 * phi))
            return chi, chi * self.c1, chi * self.c2
        done = min(self.k / self.w_steps, 1.0)
        return self.w_start + done * (self.w_end - self.w_start), self.c1, self.c2

    def _ask(self) -> Array:
        self._again = 0
        if self.noisy and len(self.x) > (particles := max(2, self.population // 2)):
            best = np.sort(np.argsort(self.p_loss, kind="stable")[:particles])
            self.x, self.v, self.p, self.p_loss = (a[best] for a in (self.x, self.v, self.p, self.p_loss))
        if not self.noisy or np.isinf(self.p_loss).all():
            return self.x
        self._again = len(self.p)
        return np.concatenate([self.p, self.x])

    def _tell(self, z: Array, loss: Array) -> None:
        if n := self._again:
            self.p, self.p_loss = z[:n], np.where(np.isnan(loss[:n]), np.inf, loss[:n])
            z, loss = z[n:], loss[n:]
        self.x = z
        better = loss < self.p_loss  # nan is never better
        self.p[better] = z[better]
        self.p_loss[better] = loss[better]
        self._move()

    def _skip(self, z: Array) -> None:
        self.x = z[self._again :]
        self._move()

    def _go_back(self, z: Array) -> None:
        self.p[np.argmax(self.p_loss)] = z

    def _widen(self) -> None:
        """Particles and velocities anew: those that score alike would only draw together."""
        self.x = self._scattered(len(self.x), self.sigma0)
        self.v = self._velocities()

    def _neighbours_best(self) -> Array:
        """g, the best point of each particle's neighbourhood, [K, d]."""
        if self.topology == "global":
            return np.broadcast_to(self.p[np.argmin(self.p_loss)], self.p.shape)
        indices = np.arange(self.population)
        ring = np.stack([indices, np.roll(indices, 1), np.roll(indices, -1)])  # (3, K)
        return np.asarray(self.p[ring[self.p_loss[ring].argmin(axis=0), indices]])

    def _ask_some(self, n: int) -> tuple[Array, Any]:
        """Each particle in turn, the first time where it begins, then moved by what is known by now."""
        some = self._in_turn(n, len(self.x))
        moves = self._given + np.arange(n) >= len(self.x)
        if moves.any():
            which = some[moves]
            self.x[which], self.v[which] = self._moved(which)
            self.k += len(which) / len(self.x)
        return self.x[some], some

    def _tell_some(self, z: Array, loss: Array, known: Any) -> None:
        better = loss < self.p_loss[known]
        self.p[known[better]], self.p_loss[known[better]] = z[better], loss[better]

    def _move(self) -> None:
        self.x, self.v = self._moved(slice(None))
        self.k += 1

    def _moved(self, which: Any) -> tuple[Array, Array]:
        """Where some particles go next, and with what velocity."""
        w, c1, c2 = self.coefficients()
        x, v = self.x[which], self.v[which]
        v *= w
        pull, r = np.empty_like(x), np.empty(x.shape, dtype=np.float32)  # new ones take longer
        for c, to in ((c1, self.p[which]), (c2, self._neighbours_best()[which])):
            np.subtract(to, x, out=pull)
            self.rng.random(out=r, dtype=np.float32)
            r *= c
            pull *= r
            v += pull
        np.clip(v, -self.v_max, self.v_max, out=v)
        moved = x + v
        if self.domain.free:
            return moved, v
        inside = self.domain.clip(moved)
        out = moved != inside
        if self.bounds == "absorb":
            v[out] = 0.0
        else:
            inside = self.domain.clip(2 * inside - moved)
            v[out] *= -1.0
        return inside, v

    def should_stop(self) -> str | None:
        if self.k and np.ptp(self.x, axis=0).max() < 1e-12 and np.abs(self.v).max() < 1e-12:
            return "all particles are at one point and at rest"
        return super().should_stop()
