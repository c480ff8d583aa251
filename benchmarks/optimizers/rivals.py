"""Further implementations of the same methods, for the suites of others."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.optimizers.methods import REFERENCES, Method, box_of, of_nevergrad
from benchmarks.optimizers.problems import Recorder

# our method -> implementations of the same method that search where it does, on all suites
SAME: dict[str, tuple[str, ...]] = {
    "cma": ("pycma", "cmaes:CMA", "nevergrad:CMA"),
    "sep-cma": ("pycma:diagonal", "cmaes:SepCMA"),
    "de": ("scipy:DE", "pymoo:DE", "nevergrad:DE"),
    "pso": ("pymoo:PSO", "nevergrad:PSO"),
    "ga": ("pymoo:GA",),
    "sa": ("scipy:dual_annealing",),
    "1+1-ea": ("nevergrad:DiscreteOnePlusOne",),
    "random": ("nevergrad:RandomSearch",),
    "sobol": ("scipy:Sobol",),
}
# ours without bounds, from the same point with the same first step -> those that know none, or not here
SAME_UNBOUNDED: dict[str, tuple[str, ...]] = {
    "cma": ("pycma:unbounded",),
    "sep-cma": ("pycma:diagonal:unbounded",),
    "lm-ma-es": ("pypop7:LMMAES",),
    "snes": ("pypop7:SNES",),
    "spsa": ("noisyopt:SPSA",),
}
FOR_BITS = ("ga", "sa", "1+1-ea", "random")  # those that take integer genes
LEFT_OUT = {
    "bbob": ("nevergrad:CMA", "nevergrad:RandomSearch"),  # pycma inside; the same uniform draws
    "noisy": ("cmaes:CMA",),  # a decomposition in each step: a minute a run
}
IN_STEPS = ("pycma", "pycma:diagonal", "cmaes:CMA", "cmaes:SepCMA")  # rivals that tell a population at once


def _cmaes(recorder: Recorder, seed: int, *, separable: bool) -> None:
    import cmaes

    kind = cmaes.SepCMA if separable else cmaes.CMA
    bounded = recorder.domain.bounded
    bounds = np.stack([recorder.domain.low, recorder.domain.high], axis=1) if bounded else None
    optimizer = kind(mean=recorder.start, sigma=recorder.step, bounds=bounds, seed=seed)
    while not optimizer.should_stop():
        z = np.array([optimizer.ask() for _ in range(optimizer.population_size)])
        optimizer.tell(list(zip(z, recorder(z), strict=True)))
        recorder.look(optimizer._mean)


def _pypop7_lmmaes(recorder: Recorder, seed: int) -> None:
    from pypop7.optimizers.es.lmmaes import LMMAES

    d = recorder.domain.d
    wide = np.full(d, 1e3)  # it wants bounds and does not use them
    problem = {
        "fitness_function": recorder.one, "ndim_problem": d, "lower_boundary": -wide, "upper_boundary": wide,
    }  # fmt: skip
    options = {
        "max_function_evaluations": recorder.budget + 1, "seed_rng": seed, "mean": recorder.start,
        "sigma": recorder.step, "verbose": False, "saving_fitness": 0, "is_restart": False,
    }  # fmt: skip
    LMMAES(problem, options).optimize()


def _scipy_de(recorder: Recorder, seed: int) -> None:
    from scipy.optimize import differential_evolution

    low, high = box_of(recorder.domain)
    differential_evolution(
        lambda z: recorder(z.T),
        list(zip(low, high, strict=True)),
        maxiter=10**9,
        popsize=max(1, 64 // recorder.domain.d),
        tol=0.0,
        polish=False,
        x0=recorder.start,
        rng=np.random.default_rng(seed),
        vectorized=True,
        updating="deferred",
    )


def _pymoo(recorder: Recorder, seed: int, name: str) -> None:
    from pymoo.algorithms.soo.nonconvex.de import DE
    from pymoo.algorithms.soo.nonconvex.pso import PSO
    from pymoo.core.evaluator import Evaluator
    from pymoo.core.problem import Problem
    from pymoo.problems.static import StaticProblem

    low, high = box_of(recorder.domain)
    problem = Problem(n_var=recorder.domain.d, n_obj=1, xl=low, xu=high)
    algorithm: Any = {"DE": DE, "PSO": PSO}[name]()
    algorithm.setup(problem, termination=("n_eval", 10 * recorder.budget), seed=seed, verbose=False)
    while algorithm.has_next():
        points = algorithm.ask()
        loss = recorder(points.get("X").astype(float))
        Evaluator().eval(StaticProblem(problem, F=loss[:, None]), points)
        algorithm.tell(infills=points)


RIVALS: dict[str, Method] = {
    "cmaes:CMA": Method(lambda r, seed: _cmaes(r, seed, separable=False), "cmaes"),
    "cmaes:SepCMA": Method(lambda r, seed: _cmaes(r, seed, separable=True), "cmaes"),
    "pypop7:LMMAES": Method(_pypop7_lmmaes, "pypop7"),
    "scipy:DE": Method(_scipy_de, "scipy"),
    "pymoo:DE": Method(lambda r, seed: _pymoo(r, seed, "DE"), "pymoo"),
    "pymoo:PSO": Method(lambda r, seed: _pymoo(r, seed, "PSO"), "pymoo"),
    "nevergrad:CMA": of_nevergrad("CMA", box=True),
    "nevergrad:DiscreteOnePlusOne": of_nevergrad("DiscreteOnePlusOne", box=True),
}
REFERENCES.update(RIVALS)
