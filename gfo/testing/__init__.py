"""Contract checks, test functions and tiny models, for gfo's own parts and for plug-ins."""

from gfo.testing.evaluator_contract import EVALUATOR_CHECKS, check_evaluator
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
from gfo.testing.task_contract import TASK_CHECKS, check_task
from gfo.testing.tiny import tiny_image_model, tiny_model

__all__ = [
    "EVALUATOR_CHECKS",
    "OPTIMIZER_CHECKS",
    "SPACE_CHECKS",
    "TASK_CHECKS",
    "BenchmarkFunction",
    "Ellipsoid",
    "IntegerSphere",
    "MixedSphere",
    "NoisySphere",
    "OneMax",
    "Rastrigin",
    "Rosenbrock",
    "Sphere",
    "check_evaluator",
    "check_optimizer",
    "check_space",
    "check_task",
    "logit_response",
    "tiny_image_model",
    "tiny_model",
]
