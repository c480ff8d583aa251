"""Ask-and-tell optimizers by name; each is imported when it is first made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, cast

from gfo.core.domain import Domain
from gfo.core.errors import GfoError, unknown_name
from gfo.core.protocols import Optimizer

Factory = Callable[..., Optimizer]

# name -> (module:class, one line)
_METHODS: dict[str, tuple[str, str]] = {
    "1+1-ea": ("one_plus_one:OnePlusOneEA", "(1 + lambda) EA with heavy-tailed mutation, for genes"),
    "bipop": ("restarts:BIPOP", "restarts of any optimizer with large and small populations in turn"),
    "bo": ("bayesian:BayesianOptimization", "Bayesian optimization (BoTorch), from d = 21 a trust region"),
    "blockwise": ("blockwise:Blockwise", "any optimizer on one block of z at a time, as BBTv2 visits layers"),
    "cma": ("cma_es:CMAES", "CMA-ES, full covariance matrix (pycma)"),
    "de": ("differential_evolution:DifferentialEvolution", "differential evolution as L-SHADE"),
    "fzoo": ("fzoo:FZOO", "one-sided +-1 directions, a step over the standard deviation of losses"),
    "ga": ("genetic:GeneticAlgorithm", "genetic algorithm; also for integer, binary and mixed genes"),
    "ipop": ("restarts:IPOP", "restarts of any optimizer, each with twice the population"),
    "lm-ma-es": ("lm_ma_es:LMMAES", "limited-memory matrix adaptation, for high dimensions"),
    "openai-es": ("openai_es:OpenAIES", "OpenAI's evolution strategy: antithetic pairs, ranks, Adam"),
    "pso": ("particle_swarm:ParticleSwarm", "particle swarm"),
    "random": ("random_search:RandomSearch", "random search: standard normal, uniform in boxes"),
    "sa": ("simulated_annealing:SimulatedAnnealing", "simulated annealing, a population of chains"),
    "sep-cma": ("cma_es:SepCMAES", "CMA-ES with a diagonal covariance matrix (pycma), for high dimensions"),
    "snes": ("snes:SNES", "separable natural evolution strategy: a step size for each dimension"),
    "sobol": ("random_search:SobolSearch", "quasi-random search: a scrambled Sobol' sequence"),
    "spsa": ("spsa:SPSA", "simultaneous perturbation stochastic approximation; MeZO's estimator"),
    "vkd-cma": ("cma_es:VkDCMAES", "CMA-ES with a diagonal matrix and a few directions (pycma)"),
}
_PLUGINS: dict[str, Factory] = {}


def names() -> list[str]:
    """The names that `make` knows."""
    return sorted([*_METHODS, *_PLUGINS])


def describe() -> dict[str, str]:
    """name -> one line on the method; `nevergrad:<name>` stands for all of nevergrad's registry."""
    lines = {name: line for name, (_, line) in _METHODS.items()}
    lines["nevergrad:<name>"] = "any optimizer of nevergrad's registry, as nevergrad:DE"
    for name, factory in _PLUGINS.items():
        lines[name] = (inspect.getdoc(factory) or "plug-in").splitlines()[0]
    return dict(sorted(lines.items()))


def register(name: str, factory: Factory) -> None:
    """Add a plug-in: `factory(domain, seed, **options)` gives an `Optimizer`.

    `gfo.testing.check_optimizer` checks one.
    """
    if name in _METHODS or name in _PLUGINS:
        raise GfoError(f"optimizer '{name}' is registered already; choose another name")
    _PLUGINS[name] = factory


def options_of(name: str) -> list[str] | None:
    """The options of the optimizer `name`; None if it takes any."""
    parameters = inspect.signature(_factory(name)).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def make(name: str, *, domain: Domain, seed: int, **options: Any) -> Optimizer:
    """The optimizer `name` on `domain`, with its own random generator from `seed`.

    `nevergrad:<name>` is any optimizer of nevergrad's registry.

    Raises:
        GfoError: for an unknown name, an unknown option, or an option's value that cannot be used.
    """
    return make_with(name, domain, seed, options)


def make_with(name: str, domain: Domain, seed: int, options: Mapping[str, Any]) -> Optimizer:
    """`make` with options that may have any name, such as those of a config."""
    known = options_of(name)
    for option, value in options.items():
        if option in ("domain", "seed") or (known is not None and option not in known):
            raise GfoError(
                f"optimizer '{name}' has no option '{option}' (given {value!r}); "
                f"its options are {', '.join(known or ()) or 'none'}"
            )
    return _factory(name)(domain, seed, **options)


def _factory(name: str) -> Factory:
    if name in _PLUGINS:
        return _PLUGINS[name]
    kind, _, method = name.partition(":")
    if kind == "nevergrad" and method:
        return cast(Factory, _load("nevergrad:nevergrad_method")(method))
    if name not in _METHODS:
        raise unknown_name("optimizer", name, [*names(), "nevergrad:<name>"])
    return cast(Factory, _load(_METHODS[name][0]))


def _load(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(import_module(f"gfo.optimizers.{module}"), attribute)
