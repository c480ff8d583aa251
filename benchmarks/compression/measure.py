"""Choices of levels under a limit, and what each loses on other documents."""

from __future__ import annotations

import argparse
import functools
from typing import Any

import numpy as np
import torch

import gfo
from benchmarks.compression.off_grid import off_grid
from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.models.apply import Change, applied
from gfo.run.sensitivity import Sensitivities
from gfo.spaces.parts.knapsack import demoted, knapsack

TEXTS = 8  # that columns are scaled by


class Bench:
    """A model off its grid, rows to choose on and documents to test on.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.model = off_grid(gfo.load_model(options.model))
        choose = self._windows("validation", options.calibration)
        rows = [{"text": text} for text in map(self.model.tokenizer.decode, choose.tolist())]
        # KL of the next word behind each window
        self.task = gfo.Distillation(rows, template="{text}", teacher=self.model)
        self.test = self._windows("test", options.test)
        texts = [row["text"] for row in rows[: TEXTS * 512 // options.window]]
        self.space = gfo.Compression(
            self.model, options.levels, calibration=texts if options.scaled else None
        )

    def measured(self, limit: float, method: str, seed: int) -> dict[str, Any]:
        """What a method's choice takes and loses."""
        z = self._choice(limit, method, seed)
        taken = self.space.measure(z[None])
        modules = float(taken["bytes"][0]) - self.space.rest_bytes
        return {
            "share": modules / self._eight_bits,
            "bits": float(taken["bits"][0]),
            "predicted": float(self.found.predicted(z[None])[0]),
            "loss": float(self.evaluator.score(z[None], "train").metrics["loss"][0]),
            "test": self._divergence(z),
            "z": z.astype(int).tolist(),
        }

    @functools.cached_property
    def found(self) -> Sensitivities:
        """Each module alone at the coarsest level."""
        return gfo.sensitivities(self.model, self.task, self.space)

    @functools.cached_property
    def evaluator(self) -> gfo.LocalEvaluator:
        """Of the rows that choices are made on."""
        return gfo.LocalEvaluator(self.model, self.task, self.space)

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

    def _windows(self, split: str, tokens: int) -> torch.Tensor:
        """Token ids [rows, window] of documents, one after the other."""
        window: int = self.options.window
        ids: list[int] = []
        for row in gfo.datasets.load(self.options.data / "wikitext2" / f"{split}.jsonl"):
            ids += self.model.encode(row["text"])
            if len(ids) >= tokens:
                break
        rows = min(tokens, len(ids)) // window
        return torch.tensor(ids[: rows * window]).view(rows, window)

    @torch.no_grad()
    def _divergence(self, z: Array) -> float:
        """KL from the model to that with the levels z [d], nats a token of the test documents."""
        change = self.space.decode(torch.from_numpy(z[None]))
        total = 0.0
        for ids in torch.split(self.test, 32):
            p = self.model.module(input_ids=ids).logits.log_softmax(-1)
            place = torch.full(ids.shape, -1)
            with applied(Change(change, place), self.model.module, self.model.all_layers):
                q = self.model.module(input_ids=ids).logits.log_softmax(-1)
            total += float((p.exp() * (p - q)).sum())
        return total / self.test.numel()
