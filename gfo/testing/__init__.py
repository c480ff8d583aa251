"""Contract checks and test functions, for gfo's own parts and for plug-ins."""

from gfo.testing.functions import (
    BenchmarkFunction,
    Ellipsoid,
    IntegerSphere,
    MixedSphere,
    NoisySphere,
    OneMax,
    Rastrigin,
    Rosenbrock,
    Sphere,
)
from gfo.testing.optimizer_contract import OPTIMIZER_CHECKS, check_optimizer

__all__ = [
    "OPTIMIZER_CHECKS",
    "BenchmarkFunction",
    "Ellipsoid",
    "IntegerSphere",
    "MixedSphere",
    "NoisySphere",
    "OneMax",
    "Rastrigin",
    "Rosenbrock",
    "Sphere",
    "check_optimizer",
]
