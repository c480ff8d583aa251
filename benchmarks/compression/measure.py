"""Choices of levels under a limit, and what each loses on other documents or in a task."""

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

STRETCH = 256  # tokens of a document, of which so many are taken as are wanted
LORA = 50  # dimensions of the low-rank changes that are searched beside levels
SPLITS = ("train", "dev", "test")


class Bench:
    """A model off its grid, rows to choose on, others to select by, and documents to test on.

    Args:
        options: of the command line.
        model: off its grid.
        seed: of the rows and of what is drawn.
    """

    def __init__(self, options: argparse.Namespace, model: Any, seed: int) -> None:
        self.options, self.model, self.seed = options, model, seed
        train, dev = self._documents("validation", seed, options.calibration, options.dev)
        (test,) = self._documents("test", 0, options.test)
        self.task = gfo.Distance(train, dev, test, window=options.window)
        self.texts = [row["text"] for row in train] if options.scaled else None
        self.space = gfo.Compression(model, options.levels, calibration=self.texts)

    def measured(self, limit: float, method: str) -> dict[str, Any]:
        """What a method's choice takes and loses, in KL to the model."""
        space, z = self._choice(limit, method, self.task)
        levels = z[: self.space.domain.d]
        return {**self._taken(levels), **self._scores(self.task, space, z, "loss"), "z": _numbers(z)}

    def in_task(self, limit: float, method: str) -> dict[str, Any]:
        """The same with SST-2 as what is searched and scored: accuracies, and losses under "loss"."""
        task = self.sst2
        if method == "manual":  # the model as it is
            space, z = self._floats(), np.zeros(1)
            return {**self._scores(task, space, z, "accuracy"), "share": 32 / 8.5, "bits": 32.0}
        space, z = self._choice(limit, method, task)
        found = self._scores(task, space, z, "accuracy")
        return {**self._taken(z[: self.space.domain.d]), **found, "z": _numbers(z)}

    def front(self) -> dict[str, Any]:
        """The points of nsga2 for loss and bytes, with what each loses on all splits."""
        found = self._tuned(self.task, self.space, objectives=["loss", "bytes"])
        chosen = found.front().z
        scores = {split: self._losses(self.task, self.space, chosen, split) for split in SPLITS}
        rows = [
            {**self._taken(z), **{split: float(scores[split][i]) for split in SPLITS}, "z": _numbers(z)}
            for i, z in enumerate(chosen)
        ]
        return {"points": rows, "forward_tokens": found.cost.forward_tokens}

    def everywhere(self, level: str) -> dict[str, Any]:
        """What one level in all modules loses."""
        levels = [level, "F32"] if level != "F32" else ["F32", "F16"]
        space = gfo.Compression(self.model, levels, calibration=self.texts)
        m = [each.name for each in space.levels].index(level)
        z = np.full(space.domain.d, float(m))
        bits = float(space.measure(z[None])["bits"][0])
        return {"share": bits / 8.5, "bits": bits, **self._scores(self.task, space, z, "loss")}

    @functools.cached_property
    def found(self) -> Sensitivities:
        """Each module alone at the coarsest level."""
        return gfo.sensitivities(self.model, self.task, self.space)

    @functools.cached_property
    def sst2(self) -> Any:
        """Classification by the manual prompt, of as many rows as `--rows` to choose on and to select by."""
        folder, rows = self.options.data / "sst2", self.options.rows
        train = gfo.datasets.load(folder / "train.jsonl")
        order = np.random.default_rng(self.seed).permutation(len(train))[: 2 * rows]
        some = [train[i] for i in order]
        test = gfo.datasets.load(folder / "test.jsonl")[: self.options.test_rows]
        labels = {"negative": " negative", "positive": " positive"}
        template = "Review: {text}\nSentiment:"
        splits = (some[:rows], some[rows:], test)
        return gfo.Classification(*splits, template=template, labels=labels, label_field="label_text")

    def _taken(self, levels: Array) -> dict[str, float]:
        """What levels [d] take, and what single sensitivities say that they lose."""
        taken = self.space.measure(levels[None])
        modules = float(taken["bytes"][0]) - self.space.rest_bytes
        predicted = float(self.found.predicted(levels[None])[0])
        return {"share": modules / self._eight_bits, "bits": float(taken["bits"][0]), "predicted": predicted}

    def _scores(self, task: Any, space: Any, z: Array, metric: str) -> dict[str, float]:
        """The metric of one point on each split."""
        evaluator = gfo.LocalEvaluator(self.model, task, space)
        return {split: float(evaluator.score(z[None], split).metrics[metric][0]) for split in SPLITS}

    def _losses(self, task: Any, space: Any, z: Array, split: str) -> Array:
        """Losses of points [K, d] on a split, [K]."""
        evaluator = gfo.LocalEvaluator(self.model, task, space)
        return np.concatenate([evaluator.score(point[None], split).metrics["loss"] for point in z])

    def _floats(self) -> Any:
        """A space whose start is the model as it is."""
        return gfo.Scaling(self.model, 1)

    @functools.cached_property
    def _eight_bits(self) -> float:
        """Bytes of the modules in Q8_0."""
        return float(sum(self.model.weight(name).numel() for name in self.space.names) * 8.5 / 8)

    def _choice(self, limit: float, method: str, task: Any) -> tuple[Any, Array]:
        """A method's space and its point within a limit."""
        room, sizes = limit * self._eight_bits, self.space.sizes
        if method == "uniform":
            fits = sizes.sum(axis=0) <= room
            if not fits.any():
                raise GfoError(f"--limits {limit:g}: not even the coarsest of --levels fits everywhere")
            return self.space, np.full(len(sizes), float(fits.argmax()))
        if method == "greedy":
            start = np.zeros(len(sizes), dtype=int)
            return self.space, demoted(start, self.found.costs, sizes, room).astype(float)
        if method in ("search", "with LoRA"):
            return self._searched(limit, task, lora=method == "with LoRA")
        costs = {"weight error": self._weight_errors, "output error": self._output_errors}
        chosen = costs[method]() if method in costs else self.found.costs
        return self.space, knapsack(chosen, sizes, room).astype(float)

    def _weight_errors(self) -> Array:
        """|dW|^2 of each module at each level, [d, L]."""
        return gfo.Compression(self.model, self.options.levels).errors

    def _output_errors(self) -> Array:
        """|X dW^T|^2 where there is a calibration, [d, L]."""
        return self.space.errors

    def _searched(self, limit: float, task: Any, *, lora: bool) -> tuple[Any, Array]:
        """The best on dev of a genetic algorithm that starts at the knapsack's choice, which it may keep."""
        _, start = self._choice(limit, "knapsack", task)
        space: Any = gfo.Compression(
            self.model,
            self.options.levels,
            limit=self.space.rest_bytes + limit * self._eight_bits,
            sensitivity=self.found.costs,
        )
        space.banks, space.calibration = self.space.banks, self.space.calibration  # made once
        if lora:  # to recover what was lost
            space = gfo.ProductSpace(space, gfo.LoRASubspace(self.model, LORA, seed=self.seed))
            start = np.concatenate([start, np.zeros(LORA)])
        both = np.stack([start, self._tuned(task, space, x0=start).z])
        return space, both[int(self._losses(task, space, both, "dev").argmin())]

    def _tuned(self, task: Any, space: Any, **more: Any) -> gfo.Result:
        """A search with the budget of the options; `x0` is where it starts."""
        options: dict[str, Any] = {"population": min(20, self.options.evaluations)}
        if "x0" in more:
            options["x0"] = more.pop("x0")
        return gfo.tune(
            self.model,
            task,
            space,
            optimizer="nsga2" if more else "ga",
            options=options,
            budget=gfo.Budget(evaluations=self.options.evaluations),
            seed=self.seed,
            progress=False,
            **more,
        )

    def _documents(self, split: str, seed: int, *tokens: int) -> list[list[dict[str, str]]]:
        """For each number of tokens so many of documents, which are in an order by the seed."""
        rows = gfo.datasets.load(self.options.data / "wikitext2" / f"{split}.jsonl")
        order = iter(np.random.default_rng(seed).permutation(len(rows)))
        found = []
        for wanted in tokens:
            some: list[dict[str, str]] = []
            while wanted > 0 and (i := next(order, None)) is not None:
                ids = self.model.encode(rows[i]["text"])[: min(wanted, STRETCH)]
                some.append({"text": str(self.model.tokenizer.decode(ids))})
                wanted -= len(ids)
            if not some:
                raise GfoError(f"--data: wikitext2/{split}.jsonl has too few documents; give more")
            found.append(some)
        return found


def model_of(options: argparse.Namespace) -> Any:
    """The model, off the grid of its 4-bit file."""
    return off_grid(gfo.load_model(options.model))


def _numbers(z: Array) -> list[float]:
    """A point [d] as it is written down."""
    return [round(float(x), 6) for x in z]
