"""Evaluators that workers make: functions of a module that loads nothing heavy."""

from __future__ import annotations

import functools
import multiprocessing
import os
import time

import numpy as np

from gfo.core.errors import GfoError
from gfo.core.metric import LOSS, Metric
from gfo.core.protocols import Cost, Evaluation, Scores

D = 6
WIDTHS = {"soft prompt": 5, "lora": 7, "structure": 6}
ERROR, BAD, DEADLY = 77.0, 78.0, 79.0
"""First coordinates of points that end in an exception, in a GfoError, in the death of the process."""
MARK = "GFO_TEST_MARK"  # names a file that the one worker makes that is to be slow
SECONDS = "GFO_TEST_SECONDS"  # how long its calls take


class Bowl:
    """Two rows: a sphere, and the sphere elsewhere."""

    metrics = (LOSS, Metric("near"))
    batches_differ = False

    def __init__(self, seconds=0.0):
        self.seconds = seconds  # of a call

    def __call__(self, z, step):
        time.sleep(self.seconds)
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


def bowl():
    return Bowl(0.02)


def uneven():
    """The first process that makes one is slow."""
    try:
        os.close(os.open(os.environ[MARK], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return Bowl(0.02)
    return Bowl(float(os.environ[SECONDS]))


def hangs():
    """Worker 0 hangs, and is made first."""
    if multiprocessing.current_process().name.endswith("0"):
        return Bowl(3600.0)
    time.sleep(float(os.environ[SECONDS]))
    return Bowl()


def refuses():
    raise GfoError("data: there are none; give some")


def no_evaluator():
    return 3


def dies():
    os.kill(os.getpid(), 9)


@functools.cache
def model():
    from gfo.testing import tiny_model

    return tiny_model()


def rows(words):
    return [
        {"text": f"the film was {word} " * n, "label": "good" if n % 2 else "bad"}
        for n, word in enumerate(words, 1)
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
        return gfo.SoftPrompt(model(), tokens=3, dim=WIDTHS[kind], alpha=8.0)
    return gfo.LoRASubspace(model(), rank=1, dim=WIDTHS[kind]) if kind == "lora" else gfo.Structure(model())


def local(kind, **options):
    import gfo

    return gfo.LocalEvaluator(model(), task(), space(kind), **options)


class ByWidth:
    """Three evaluators in one, so that few processes serve all; the width of the points says which."""

    def __init__(self):
        self.all = {width: local(kind) for kind, width in WIDTHS.items()}
        self.one = self.all[D]
        self.metrics, self.batches_differ = self.one.metrics, self.one.batches_differ

    @property
    def meter(self):
        return self.one.meter

    def __call__(self, z, step):
        self.one = self.all[z.shape[1]]
        return self.one(z, step)

    def score(self, z, split):
        self.one = self.all[z.shape[1]]
        return self.one.score(z, split)

    def settings(self):
        return self.all[D].settings()

    def use(self, settings):
        for each in self.all.values():
            each.use(settings)


def by_width():
    return ByWidth()


def soft_prompt():
    return local("soft prompt")
