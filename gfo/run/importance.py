"""How much each hyperparameter matters, by Optuna's functional ANOVA."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gfo.core.errors import GfoError
from gfo.core.hyperparameters import Hyperparameters


def shares(
    space: Hyperparameters, values: Sequence[Mapping[str, Any]], loss: Sequence[float]
) -> dict[str, float]:
    """Name -> share of the losses' variance that it explains alone, most first.

    Those with a condition count by their genes, which are in their middle where they are not there.

    Args:
        space: the hyperparameters.
        values: of each trial.
        loss: of each; failed ones are left out.

    Raises:
        GfoError: without Optuna, or for fewer than two losses.
    """
    try:
        import optuna
    except ImportError:
        raise GfoError("importance: Optuna is not installed; pip install 'gfo-llm[optuna]'") from None
    pairs = [(space.point(v).tolist(), x) for v, x in zip(values, loss, strict=False) if math.isfinite(x)]
    if len(pairs) < 2:
        raise GfoError(f"importance: {len(pairs)} trials have a loss; search with more")
    low, high = space.domain.low.tolist(), space.domain.high.tolist()
    kinds: dict[str, Any] = {
        name: optuna.distributions.CategoricalDistribution(list(range(int(b) + 1)))
        if space.domain.categorical[i]
        else optuna.distributions.FloatDistribution(a, b)
        for i, (name, a, b) in enumerate(zip(space.names, low, high, strict=True))
    }
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study()
        for z, x in pairs:
            given = dict(zip(space.names, z, strict=True))
            study.add_trial(optuna.trial.create_trial(params=given, distributions=kinds, value=x))
        judge = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return dict(optuna.importance.get_param_importances(study, evaluator=judge))
    finally:
        optuna.logging.set_verbosity(verbosity)
