"""What is compared with what, and how each reference implementation is run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.optimizers.problems import BOX, DIMENSIONS, INTEGER, REAL, Recorder
from gfo import optimizers
from gfo.core.domain import Array, Domain
from gfo.core.errors import unknown_name
from gfo.core.protocols import Planning


@dataclass(frozen=True)
class Pair:
    """One of our methods, its references and where they are compared.

    Attributes:
        name: of our method.
        references: the first is the one that the rule is about, the others are shown.
        box: whether the search is in [-5, 5]^d, for references that need bounds.
        functions: real ones, and for methods with integer genes these too.
        dimensions: where it makes sense to look.
        why: the reference in a sentence.
    """

    name: str
    references: tuple[str, ...]
    why: str
    box: bool = False
    functions: tuple[str, ...] = REAL
    dimensions: tuple[int, ...] = DIMENSIONS


PAIRS = (
    Pair("cma", ("pycma",), "the library that ours wraps, run by itself"),
    Pair("sep-cma", ("pycma:diagonal",), "the same with `CMA_diagonal`"),
    Pair("snes", ("pypop7:SNES", "pycma:diagonal"), "another implementation of the paper"),
    Pair(
        "openai-es",
        ("nevergrad:OnePlusOne",),
        "no installed library has OpenAI-ES; the simplest evolution strategy stands for it",
    ),
    Pair(
        "spsa",
        ("noisyopt:SPSA", "nevergrad:SPSA"),
        "Spall's recursion, given a gain by his rule, as ours finds its own; nevergrad's has a gain of 1e-5 "
        "that its source calls arbitrary",
    ),
    Pair("pso", ("nevergrad:PSO",), "the standard swarm of 40 particles", box=True),
    Pair(
        "ga",
        ("pymoo:GA", "nevergrad:DE"),
        "simulated binary crossover and polynomial mutation, 100 points",
        box=True,
        functions=(*REAL, *INTEGER),
    ),
    Pair(
        "sa",
        ("scipy:dual_annealing", "scipy:dual_annealing+local"),
        "generalized simulated annealing without local search, as ours has none",
        box=True,
    ),
    Pair("random", ("nevergrad:RandomSearch",), "the same distribution", box=True, dimensions=(2, 10)),
    Pair("sobol", ("scipy:Sobol",), "the same sequence", box=True, dimensions=(2, 10)),
)


UNBOUNDED = ":unbounded"  # what a method's name ends with that does not look at the domain's bounds

# a method of ours with other options than its defaults -> itself, and those
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "openai-es:noise": ("openai-es", {"population": 48, "sigma": 0.4, "alpha": 0.2}),
}


@dataclass(frozen=True)
class Method:
    """A method as it is run: `run(recorder, seed)` until the recorder raises `Finished` or it stops."""

    run: Callable[[Recorder, int], None]
    package: str
    slow: bool = False


def method(name: str) -> Method:
    """One of ours, as `cma`, without bounds as `cma:unbounded` or of SETTINGS, or one of the table below.

    Raises:
        GfoError: for a name that is neither.
    """
    if name in REFERENCES:
        return REFERENCES[name]
    name, bounded = name.removesuffix(UNBOUNDED), not name.endswith(UNBOUNDED)
    name, options = SETTINGS.get(name, (name, {}))
    if name not in optimizers.names():
        raise unknown_name("method", name, [*optimizers.names(), *REFERENCES])

    def run(recorder: Recorder, seed: int) -> None:
        _ours(name, recorder, seed, bounded=bounded, options=options)

    return Method(run, "gfo", slow=name == "cma")


def pair(name: str) -> Pair:
    """The pair of one of our methods; one without a reference is run alone, without bounds."""
    known = {p.name: p for p in PAIRS}
    return known.get(name) or Pair(name, (), "none")


def installed(name: str) -> bool:
    """Whether the package of a method is there."""
    return find_spec(method(name).package) is not None


def _ours(name: str, recorder: Recorder, seed: int, *, bounded: bool, options: Mapping[str, Any]) -> None:
    domain, scale = recorder.domain, {}
    if not bounded:
        domain, scale = Domain.unbounded(domain.d), {"scale": 2 * recorder.step}
    optimizer = optimizers.make(name, domain=domain, seed=seed, **scale, **options)
    if isinstance(optimizer, Planning):
        optimizer.plan(recorder.budget, batches_differ=recorder.batches_differ)
    while optimizer.should_stop() is None:
        z = optimizer.ask()
        optimizer.tell(z, recorder(z))
        recorder.look(optimizer.recommend())


def _pycma(recorder: Recorder, seed: int, *, diagonal: bool = False, bounded: bool = True) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cma
    options = {
        "CMA_diagonal": diagonal, "seed": np.nan, "randn": np.random.RandomState(seed).randn, "verbose": -9,
        "signals_filename": "",
    }  # fmt: skip
    if bounded and recorder.domain.bounded:
        options["bounds"] = [recorder.domain.low, recorder.domain.high]
    es = cma.CMAEvolutionStrategy(recorder.start, recorder.step, options)
    while not es.stop():
        z = es.ask()
        es.tell(z, list(recorder(np.array(z))))
        recorder.look(es.result.xfavorite)


def box_of(domain: Domain) -> tuple[Array, Array]:
    """Bounds of real numbers [d] that round into the domain; [-5, 5] where it has none."""
    low = np.where(np.isfinite(domain.low), domain.low, -BOX) - 0.499 * domain.integer
    high = np.where(np.isfinite(domain.high), domain.high, BOX) + 0.499 * domain.integer
    return low, high


def _nevergrad(name: str, recorder: Recorder, seed: int, *, box: bool) -> None:
    import nevergrad as ng

    array = ng.p.Array(init=recorder.start)
    array.set_mutation(sigma=recorder.step)
    if box:
        low, high = box_of(recorder.domain)
        array.set_bounds(low, high, full_range_sampling=True)
    array.random_state = np.random.RandomState(seed)
    np.random.seed(seed)  # noqa: NPY002 (some of its methods draw from the global generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = ng.optimizers.registry[name](array, budget=recorder.budget)
        while True:
            candidate = optimizer.ask()
            loss = recorder.one(recorder.domain.clip(candidate.value))
            optimizer.tell(candidate, loss)
            if optimizer.num_tell % 10 == 0:
                recorder.look(recorder.domain.clip(optimizer.provide_recommendation().value))


def _pypop7_snes(recorder: Recorder, seed: int) -> None:
    from pypop7.optimizers.nes.snes import SNES

    d = recorder.domain.d
    wide = np.full(d, 1e3)  # it wants bounds and does not use them
    problem = {
        "fitness_function": recorder.one, "ndim_problem": d, "lower_boundary": -wide, "upper_boundary": wide,
    }  # fmt: skip
    options = {
        "max_function_evaluations": recorder.budget + 1, "seed_rng": seed, "mean": recorder.start,
        "sigma": recorder.step, "verbose": False, "saving_fitness": 0,
    }  # fmt: skip
    optimizer = SNES(problem, options)
    optimizer.rng_optimization = np.random.default_rng(seed)  # the random numbers of ours
    update = optimizer._update_distribution

    def look_after(*arguments: Any) -> Any:
        mean, steps = update(*arguments)
        recorder.look(mean)
        return mean, steps

    optimizer._update_distribution = look_after
    optimizer.optimize()


def _noisyopt_spsa(recorder: Recorder, seed: int) -> None:
    from noisyopt import minimizeSPSA

    rng = np.random.default_rng(seed)
    c, first_step = 0.1, 0.3  # the defaults of ours
    side = c * rng.choice([-1.0, 1.0], recorder.domain.d)
    slope = abs(recorder.one(recorder.start + side) - recorder.one(recorder.start - side)) / (2 * c)
    steps = recorder.budget // 2
    np.random.seed(seed)  # noqa: NPY002 (it draws from the global generator)
    minimizeSPSA(
        recorder.one,
        recorder.start,
        niter=steps,
        paired=False,
        a=first_step * (1 + 0.01 * steps) ** 0.602 / slope,
        c=c,
        callback=recorder.look,
    )


def _pymoo_ga(recorder: Recorder, seed: int) -> None:
    from pymoo.algorithms.soo.nonconvex.ga import GA
    from pymoo.core.evaluator import Evaluator
    from pymoo.core.problem import Problem
    from pymoo.problems.static import StaticProblem

    low, high = box_of(recorder.domain)
    integer = recorder.domain.integer
    if integer.any():
        low, high = np.where(integer, np.ceil(low), low), np.where(integer, np.floor(high), high)
    problem = Problem(n_var=recorder.domain.d, n_obj=1, xl=low, xu=high)
    algorithm = GA(**_pymoo_operators(recorder.domain))
    algorithm.setup(problem, termination=("n_eval", 10 * recorder.budget), seed=seed, verbose=False)
    while algorithm.has_next():
        points = algorithm.ask()
        z = recorder.domain.clip(points.get("X").astype(float))
        found = StaticProblem(problem, F=recorder(z)[:, None])
        Evaluator().eval(found, points)
        algorithm.tell(infills=points)


def _pymoo_operators(domain: Domain) -> dict[str, Any]:
    """The operators that pymoo's manual has for real, whole and binary genes."""
    from pymoo.core.repair import Repair
    from pymoo.operators.crossover.pntx import TwoPointCrossover
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.bitflip import BitflipMutation
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.sampling.rnd import BinaryRandomSampling, FloatRandomSampling

    if not domain.integer.any():
        return {}
    if (domain.integer & (domain.low == 0) & (domain.high == 1)).all():
        return {
            "sampling": BinaryRandomSampling(),
            "crossover": TwoPointCrossover(),
            "mutation": BitflipMutation(),
        }

    class Rounding(Repair):  # type: ignore[misc]
        def _do(self, problem: Any, X: Array, **kwargs: Any) -> Array:
            return domain.clip(X)

    return {
        "sampling": FloatRandomSampling(),
        "crossover": SBX(prob=1.0, eta=3.0, vtype=float, repair=Rounding()),
        "mutation": PM(prob=1.0, eta=3.0, vtype=float, repair=Rounding()),
        "repair": Rounding(),
    }


def _dual_annealing(recorder: Recorder, seed: int, *, local: bool) -> None:
    from scipy.optimize import dual_annealing

    dual_annealing(
        recorder.one,
        list(zip(*box_of(recorder.domain), strict=True)),
        maxiter=10**9,
        maxfun=10 * recorder.budget,
        no_local_search=not local,
        x0=recorder.start,
        rng=np.random.default_rng(seed),
    )


def _scipy_sobol(recorder: Recorder, seed: int) -> None:
    from scipy.stats import qmc

    low, high = box_of(recorder.domain)
    sequence = qmc.Sobol(recorder.domain.d, scramble=True, seed=np.random.default_rng(seed))
    while True:
        recorder(low + (high - low) * sequence.random(16))


def of_nevergrad(name: str, *, box: bool) -> Method:
    def run(recorder: Recorder, seed: int) -> None:
        _nevergrad(name, recorder, seed, box=box)

    return Method(run, "nevergrad", slow=True)


REFERENCES: dict[str, Method] = {
    "pycma": Method(_pycma, "cma", slow=True),
    "pycma:diagonal": Method(lambda recorder, seed: _pycma(recorder, seed, diagonal=True), "cma"),
    "pycma:unbounded": Method(lambda r, seed: _pycma(r, seed, bounded=False), "cma", slow=True),
    "pycma:diagonal:unbounded": Method(lambda r, seed: _pycma(r, seed, diagonal=True, bounded=False), "cma"),
    "pypop7:SNES": Method(_pypop7_snes, "pypop7"),
    "noisyopt:SPSA": Method(_noisyopt_spsa, "noisyopt"),
    "pymoo:GA": Method(_pymoo_ga, "pymoo"),
    "scipy:dual_annealing": Method(lambda r, seed: _dual_annealing(r, seed, local=False), "scipy"),
    "scipy:dual_annealing+local": Method(lambda r, seed: _dual_annealing(r, seed, local=True), "scipy"),
    "scipy:Sobol": Method(_scipy_sobol, "scipy"),
    "nevergrad:OnePlusOne": of_nevergrad("OnePlusOne", box=False),
    "nevergrad:SPSA": of_nevergrad("SPSA", box=False),
    "nevergrad:PSO": of_nevergrad("PSO", box=True),
    "nevergrad:DE": of_nevergrad("DE", box=True),
    "nevergrad:RandomSearch": of_nevergrad("RandomSearch", box=True),
}
