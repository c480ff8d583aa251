"""Evaluators that workers make: functions of a module that loads nothing heavy."""

from __future__ import annotations

import functools
import os
import time

import numpy as np

from gfo.core.errors import GfoError
from gfo.core.metric import LOSS, Metric
from gfo.core.protocols import Cost, Evaluation, Scores

D = 6
STEP = 0.01  # seconds of a candidate


class Bowl:
    """Two rows: a sphere, and the sphere elsewhere; a point that begins with a number of these does something else.

    Args:
        late: seconds that worker processes with an odd number sleep more, a call.
    """

    metrics = (LOSS, Metric("near"))
    batches_differ = False

    def __init__(self, late: float = 0.0, seconds: float = STEP) -> None:
        self.late, self.seconds = late, seconds

    def __call__(self, z, step):
        time.sleep(self.seconds * len(z) + self.late)
        if (z[:, 0] == ERROR).any():
            raise ArithmeticError("too deep\nfor a bowl")
        if (z[:, 0] == BAD).any():
            raise GfoError("z: it is bad; give another")
        if (z[:, 0] == DEADLY).any():
            os.kill(os.getpid(), 9)
        rows = np.stack([((z - 1) ** 2).sum(axis=1), ((z + 2) ** 2).sum(axis=1)], axis=1)
        return Evaluation(rows.mean(axis=1), Cost(len(z), 10 * len(z)), {"size": z[:, 0]}, rows)

    def score(self, z, split):
        if split not in ("train", "dev"):
            raise GfoError(f"split '{split}': there are train and dev")
        found = self(z, 0)
        return Scores({"loss": found.loss, "near": -found.loss}, found.cost, {"loss": found.rows})


ERROR, BAD, DEADLY = 77.0, 78.0, 79.0


def bowl():
    return Bowl()


def quick():
    return Bowl(seconds=0.0)


def uneven():
    """The first process that asks is ten times as slow as all others."""
    return Bowl()


def refuses():
    raise GfoError("data: there are none; give some")


def no_evaluator():
    return 3


@functools.cache
def model():
    from gfo.testing import tiny_model

    return tiny_model()


def rows(words):
    return [
        {"text": f"the film was {word} " * n, "label": "good" if n % 2 else "bad"} for n, word in enumerate(words, 1)
    ]


def task(**options):
    import gfo

    train, dev = rows(("dull", "fine", "a joy", "too long", "short")), rows(("slow", "kind", "right"))
    return gfo.Classification(
        train, dev, template="{text}{soft} It was", labels={"bad": " bad", "good": " good"}, **options
    )


def space(kind):
    import gfo

    if kind == "soft prompt":
        return gfo.SoftPrompt(model(), tokens=3, dim=D, alpha=8.0)
    return gfo.LoRASubspace(model(), rank=1, dim=D) if kind == "lora" else gfo.Structure(model())


def local(kind, **options):
    import gfo

    return gfo.LocalEvaluator(model(), task(), space(kind), **options)


def soft_prompt():
    return local("soft prompt")


def lora():
    return local("lora")


def structure():
    return local("structure")
