"""The two searches that are compared, over one trial with the same rungs, each for the same tokens at most.

gfo: `gfo.search` by "bo", a trial a step, and ASHA. Optuna (Akiba et al. 2019, doi:10.1145/3292500.3330701):
its `TPESampler` and `HyperbandPruner` with their defaults but for the seed, the budgets and eta; a trial
reports its loss at each rung, and goes on if it is not pruned.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gfo
from gfo.core.files import make_folder, write_whole
from gfo.core.hyperparameters import Hyperparameters, Int, Log
from gfo.run.halving import ASHA
from gfo.run.trials import Outcome, Trial

KEPT = "reached.json"


@dataclass
class Tried:
    """What a trial of a search got.

    Attributes:
        values: of its hyperparameters.
        reached: budget -> its `Outcome` there, and `spent`, what all trials had taken by then.
    """

    values: dict[str, Any]
    reached: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def budget(self) -> int:
        """The largest that it has reached, 0 for none."""
        return max(map(int, self.reached), default=0)

    @property
    def tokens(self) -> int:
        """What it took."""
        return int(self.reached[str(self.budget)]["forward_tokens"]) if self.reached else 0

    @property
    def loss(self) -> float:
        """Its last."""
        return float(self.reached[str(self.budget)]["loss"])


class Metered:
    """A trial that counts what all trials took, and ends the search before that is too much.

    What a trial got is kept in its folder, so that a search that is begun again gets it at once.

    Args:
        trial: what is run.
        most: forward tokens of all trials.
        folder: with those of the trials, if they are kept.

    Attributes:
        tried: the trials, by the names of their folders, or by their values.
        ended: whether the search was ended because the next part of a trial would have been too much.
    """

    def __init__(self, trial: Trial, most: int, folder: Path | None = None) -> None:
        self._trial, self._most = trial, most
        kept = [] if folder is None else sorted(folder.glob(f"*/{KEPT}"))
        self.tried = {path.parent.name: Tried(**json.loads(path.read_text())) for path in kept}
        self.ended = False

    @property
    def spent(self) -> int:
        """Tokens that all trials took."""
        return sum(each.tokens for each in self.tried.values())

    @property
    def best(self) -> str:
        """The name of that with the lowest loss among the trials with the largest budget."""
        ranked = {name: (-each.budget, each.loss) for name, each in self.tried.items() if each.reached}
        return min(ranked, key=lambda name: ranked[name])

    def __call__(self, values: Mapping[str, Any], budget: int | None, folder: Path | None) -> Outcome:
        """What the trial gets.

        Raises:
            KeyboardInterrupt: if there are not enough tokens left, as Ctrl-C would.
        """
        assert budget is not None
        name = json.dumps(dict(values)) if folder is None else folder.name
        tried = self.tried.setdefault(name, Tried(dict(values)))
        if str(budget) not in tried.reached:
            if self.spent + budget - tried.tokens > self._most:
                self.ended = True
                raise KeyboardInterrupt
            before = self.spent - tried.tokens
            found = self._trial(values, budget, folder)
            tried.reached[str(budget)] = asdict(found) | {"spent": before + found.forward_tokens}
            if folder is not None:
                write_whole(folder / KEPT, json.dumps(asdict(tried)))
        return Outcome(**{k: v for k, v in tried.reached[str(budget)].items() if k != "spent"})


Search = Callable[[Metered, Hyperparameters, ASHA, int, "Path | None"], None]
"""Searches until the meter ends it: the trial, its hyperparameters, the rungs, a seed, a folder."""


def by_gfo(trial: Metered, space: Hyperparameters, halving: ASHA, seed: int, folder: Path | None) -> None:
    """`gfo.search`, which learns from each trial."""
    study = gfo.search(
        trial,
        space,
        optimizer="bo",
        options={"population": 1},
        halving=halving,
        budget=gfo.Budget(evaluations=1_000),
        seed=seed,
        out=folder,
        resume=folder is not None,
        progress=False,
    )
    if study.result.stopped == "interrupted" and not trial.ended:
        raise KeyboardInterrupt


def by_optuna(trial: Metered, space: Hyperparameters, halving: ASHA, seed: int, folder: Path | None) -> None:
    """TPE and Hyperband."""
    import optuna

    rungs = halving.rungs

    def objective(asked: Any) -> float:
        values = {name: suggested(asked, name, given) for name, given in space.space.items()}
        home = None if folder is None else make_folder(folder / "trials" / f"{asked.number:04d}")
        for rung in rungs:
            loss = trial(values, rung, home).loss
            asked.report(loss, rung)
            if rung < rungs[-1] and asked.should_prune():
                raise optuna.TrialPruned
        return loss

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name=f"seed {seed}",  # by which it draws the brackets of its trials
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.HyperbandPruner(rungs[0], rungs[-1], halving.eta),
    )
    try:
        study.optimize(objective)
    except KeyboardInterrupt:
        if not trial.ended:
            raise


def suggested(asked: Any, name: str, given: Any) -> Any:
    """A value as Optuna suggests it."""
    if isinstance(given, Log):
        return asked.suggest_float(name, given.low, given.high, log=True)
    if isinstance(given, Int):
        return asked.suggest_int(name, given.low, given.high, log=given.log)
    if isinstance(given, tuple):
        return asked.suggest_float(name, *given)
    return asked.suggest_categorical(name, given)


METHODS: dict[str, Search] = {"gfo": by_gfo, "optuna": by_optuna}
