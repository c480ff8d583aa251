"""Choices of levels under a limit, and what each loses on other documents."""

from __future__ import annotations

import argparse
import functools
from typing import Any

import numpy as np

import gfo
from benchmarks.compression.off_grid import off_grid
from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.run.sensitivity import Sensitivities
from gfo.spaces.parts.knapsack import demoted, knapsack


class Bench:
    """A model off its grid, rows to choose on and documents to test on.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.model = off_grid(gfo.load_model(options.model))
        choose = self._documents("validation", options.calibration)
        test = self._documents("test", options.test)
        self.task = gfo.Distance(choose, test=test, window=options.window)
        texts = [row["text"] for row in choose] if options.scaled else None
        self.space = gfo.Compression(self.model, options.levels, calibration=texts)

    def measured(self, limit: float, method: str, seed: int) -> dict[str, Any]:
        """What a method's choice takes and loses."""
        z = self._choice(limit, method, seed)
        taken = self.space.measure(z[None])
        modules = float(taken["bytes"][0]) - self.space.rest_bytes
        return {
            "share": modules / self._eight_bits,
            "bits": float(taken["bits"][0]),
            "predicted": float(self.found.predicted(z[None])[0]),
            "loss": self._loss(z, "train"),
            "test": self._loss(z, "test"),
            "z": z.astype(int).tolist(),
        }

    @functools.cached_property
    def found(self) -> Sensitivities:
        """Each module alone at the coarsest level."""
        return gfo.sensitivities(self.model, self.task, self.space)

    @functools.cached_property
    def evaluator(self) -> gfo.LocalEvaluator:
        """Of the documents."""
        return gfo.LocalEvaluator(self.model, self.task, self.space)

    def _loss(self, z: Array, split: str) -> float:
        """KL from the model to that with the levels z [d], nats a token."""
        return float(self.evaluator.score(z[None], split).metrics["loss"][0])

    @property
    def _eight_bits(self) -> float:
        """Bytes of the modules in Q8_0."""
        return sum(self.model.weight(name).numel() for name in self.space.names) * 8.5 / 8

    def _choice(self, limit: float, method: str, seed: int) -> Array:
        """A method's point [d] within a limit."""
        room, sizes = limit * self._eight_bits, self.space.sizes
        if method == "uniform":
            fits = sizes.sum(axis=0) <= room
            if not fits.any():
                raise GfoError(f"--limits {limit:g}: not even the coarsest of --levels fits everywhere")
            return np.full(len(sizes), float(fits.argmax()))
        if method == "greedy":
            return demoted(np.zeros(len(sizes), dtype=int), self.found.costs, sizes, room).astype(float)
        if method == "search":
            return self._searched(limit, seed)
        costs = {"weight error": self._weight_errors, "output error": self._output_errors}
        chosen = costs.get(method, self.found.costs)
        return knapsack(chosen, sizes, room).astype(float)

    @functools.cached_property
    def _weight_errors(self) -> Array:
        """|dW|^2 of each module at each level, [d, L]."""
        return gfo.Compression(self.model, self.options.levels).errors

    @functools.cached_property
    def _output_errors(self) -> Array:
        """|X dW^T|^2 where there is a calibration, [d, L]."""
        return self.space.errors

    def _searched(self, limit: float, seed: int) -> Array:
        """The best of a genetic algorithm that starts at the knapsack's choice."""
        start = self._choice(limit, "knapsack", seed)
        space = gfo.Compression(
            self.model,
            self.options.levels,
            limit=self.space.rest_bytes + limit * self._eight_bits,
            sensitivity=self.found.costs,
        )
        space.banks, space.calibration = self.space.banks, self.space.calibration  # made once
        result = gfo.tune(
            self.model,
            self.task,
            space,
            optimizer="ga",
            options={"x0": start, "population": 20},
            budget=gfo.Budget(evaluations=self.options.evaluations),
            seed=seed,
            progress=False,
        )
        return result.z

    def _documents(self, split: str, tokens: int) -> list[dict[str, str]]:
        """Documents of so many tokens, the last one cut."""
        found: list[dict[str, str]] = []
        for row in gfo.datasets.load(self.options.data / "wikitext2" / f"{split}.jsonl"):
            ids = self.model.encode(row["text"])[:tokens]
            found.append({"text": str(self.model.tokenizer.decode(ids))})
            tokens -= len(ids)
            if tokens <= 0:
                break
        return found
