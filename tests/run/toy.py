"""A space of genes with sizes, small enough to look at every point, and a task for it."""

from __future__ import annotations

import itertools

import numpy as np
import torch

import gfo

LABELS = {"bad": " bad", "good": " good"}


@gfo.recorded
class Parts:
    """A soft prompt summed of parts: gene j of m values adds values[gene] of part j; each part has a size."""

    def __init__(self, model, genes: int = 10, values: int = 2, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.parts = torch.from_numpy(0.08 * rng.standard_normal((genes, 2 * model.hidden_size))).to(
            model.device
        )
        self.sizes = 10.0 * rng.integers(2, 30, genes)
        self.domain = gfo.Domain.box(0, values - 1, genes, integer=True)

    def decode(self, z):
        prompt = z.to(self.parts.dtype) @ self.parts
        return gfo.Delta(prompt=prompt.view(len(z), 2, -1).float())

    def measure(self, z):
        return {"bytes": 100 + z @ self.sizes}


class Half(Parts):
    """Of the parts half are there, always: the first ones come, the last ones go."""

    def repair(self, z):
        order = np.argsort(-z, axis=1, kind="stable")
        found = np.zeros_like(z)
        np.put_along_axis(found, order[:, : z.shape[1] // 2], 1.0, axis=1)
        return found


def all_points(space):
    """Every point of a space of whole numbers, [N, d]."""
    low, high = space.domain.low.astype(int), space.domain.high.astype(int)
    return np.array(
        list(itertools.product(*(range(a, b + 1) for a, b in zip(low, high, strict=True)))), float
    )


def rows(n, start=0):
    words = ("fine", "dull", "odd", "grand", "plain")
    return [
        {"text": f"film {i} {words[i % 5]}", "label": "good" if i * 7 % 3 else "bad"}
        for i in range(start, start + n)
    ]


def task(dev=5, **options):
    held_out = rows(dev, 50) if dev else None
    return gfo.Classification(
        rows(6), held_out, rows(4, 90), template="{text}{soft} is", labels=LABELS, **options
    )
