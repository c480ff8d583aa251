"""Ask-and-tell optimizers by name; each is imported when it is first made."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from gfo.core.domain import Domain
from gfo.core.errors import GfoError, unknown_name
from gfo.core.protocols import Optimizer

Factory = Callable[..., Optimizer]

# name -> (module:class, one line)
_METHODS: dict[str, tuple[str, str]] = {
    "cma": ("cma_es:CMAES", "CMA-ES, full covariance matrix (pycma)"),
    "ga": ("genetic:GeneticAlgorithm", "genetic algorithm; also for integer, binary and mixed genes"),
    "openai-es": ("openai_es:OpenAIES", "OpenAI's evolution strategy: antithetic pairs, ranks, Adam"),
    "pso": ("particle_swarm:ParticleSwarm", "particle swarm"),
    "random": ("random_search:RandomSearch", "random search: standard normal, uniform in boxes"),
    "sa": ("simulated_annealing:SimulatedAnnealing", "simulated annealing, a population of chains"),
    "sep-cma": ("cma_es:SepCMAES", "CMA-ES with a diagonal covariance matrix (pycma), for high dimensions"),
    "snes": ("snes:SNES", "separable natural evolution strategy: a step size for each dimension"),
    "sobol": ("random_search:SobolSearch", "quasi-random search: a scrambled Sobol' sequence"),
    "spsa": ("spsa:SPSA", "simultaneous perturbation stochastic approximation; MeZO's estimator"),
}
_PLUGINS: dict[str, Factory] = {}


def names() -> list[str]:
    """The names that `make` knows."""
    return sorted([*_METHODS, *_PLUGINS])


def describe() -> dict[str, str]:
    """name -> one line on the method."""
    lines = {name: line for name, (_, line) in _METHODS.items()}
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


def make(name: str, *, domain: Domain, seed: int, **options: Any) -> Optimizer:
    """The optimizer `name` on `domain`, with its own random generator from `seed`.

    Raises:
        GfoError: for an unknown name, an unknown option, or an option's value that cannot be used.
    """
    factory = _factory(name)
    parameters = inspect.signature(factory).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for option, value in options.items():
            if option not in known:
                raise GfoError(
                    f"optimizer '{name}' has no option '{option}' (given {value!r}); "
                    f"its options are {', '.join(known) or 'none'}"
                )
    return factory(domain, seed, **options)


def _factory(name: str) -> Factory:
    if name in _PLUGINS:
        return _PLUGINS[name]
    if name not in _METHODS:
        raise unknown_name("optimizer", name, names())
    module, _, attribute = _METHODS[name][0].partition(":")
    factory: Factory = getattr(import_module(f"gfo.optimizers.{module}"), attribute)
    return factory
