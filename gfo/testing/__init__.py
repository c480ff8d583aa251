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
from gfo.testing.space_contract import SPACE_CHECKS, check_space, logit_response

__all__ = [
    "OPTIMIZER_CHECKS",
    "SPACE_CHECKS",
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
    "check_space",
    "logit_response",
]
