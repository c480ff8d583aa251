"""Small runs whose folders are to be broken, and what came of them to the last bit."""

from __future__ import annotations

import json

import gfo
from gfo.core.protocols import Cost, Evaluation, Scores
from gfo.optimizers.snes import SNES
from gfo.testing import Rosenbrock

F = Rosenbrock(4, seed=1)


class Judge:
    """An evaluator of two functions."""

    def __call__(self, z, step):
        return Evaluation(F(z), Cost(len(z), 7 * len(z), 5 * len(z)))

    def score(self, z, split):
        return Scores({"loss": F(z + 0.1)}, Cost(len(z), 3, 2))


class Saved(SNES):
    """One whose state is saved beside the history."""

    saves_state = True


def go(folder, evaluations=48, **options):
    """Begin the run in a folder, or go on with it, and score it."""
    result = gfo.minimize(
        Saved(F.domain, seed=3, population=8),
        Judge(),
        budget=gfo.Budget(evaluations=evaluations),
        dev_every=2,
        out=folder,
        resume=True,
        **options,
    )
    if "test" not in result.scores.get("after", {}):
        result.score("test")
    return result


def outcome(result):
    """All that a result is, without times and machine."""
    return json.dumps(
        [
            result.history.trajectory(),
            result.z.tobytes().hex(),
            result.stopped,
            result.selection,
            result.scores,
            [result.cost.candidates, result.cost.forward_tokens, result.cost.tokens_needed],
            [result.scoring.candidates, result.scoring.forward_tokens, result.scoring.tokens_needed],
        ]
    )


def snapshot(folder):
    """What is in a folder: bytes of files, targets of links."""
    return {
        str(path.relative_to(folder)): path.readlink() if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }
