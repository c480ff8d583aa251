"""The pieces: adapters, trained and random; controls; searches."""

from __future__ import annotations

import argparse
import functools
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gfo
from benchmarks.merging.tasks import ADAPTERS, target_task, training_task
from benchmarks.shared import say

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel

FRONT = {"objectives": ["sst2.loss", "agnews.loss"]}


class Bench:
    """A model, and where its adapters are.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    def made(self, name: str) -> dict[str, Any]:
        """What the piece of this name finds."""
        say(name)
        what, kind, *rest = name.split("-", 2)
        if what == "adapter":
            return self._adapter(kind, rest[0])
        if what == "controls":
            return self._controls(kind, rest[0])
        target, optimizer, seed = rest[0].rsplit("-", 2)
        return self._searched(kind, target, optimizer, int(seed))

    @functools.cached_property
    def model(self) -> FrozenModel:
        """What is adapted."""
        return gfo.load_model(self.options.model)

    def _folder(self, kind: str, name: str) -> Path:
        """Of an adapter."""
        found: Path = self.options.out / kind / name
        return found

    def _adapter(self, kind: str, name: str) -> dict[str, Any]:
        """Train an adapter by gfo's baseline, or draw one as large as a trained one."""
        folder = self._folder(kind, name)
        shutil.rmtree(folder, ignore_errors=True)  # of a piece that was cut off
        if kind == "random":
            gfo.random_adapter(self._folder("trained", name), folder)
            return {"folder": name}
        run = self.options.out / "runs" / name
        shutil.rmtree(run, ignore_errors=True)
        result = gfo.baselines.run(
            "lora",
            self.model,
            training_task(name, self.options.data, self.options.test),
            budget=gfo.Budget(forward_tokens=self.options.adapter_tokens),
            out=run,
            progress=False,
        )
        shutil.copytree(run / "adapter", folder)
        return {"test": dict(result.score("test")), "forward_tokens": result.cost.forward_tokens}

    def _space(self, kind: str) -> gfo.Merge:
        folders = [self._folder(kind, name) for name in ADAPTERS]
        groups, filters = self.options.groups, ["q_proj", "v_proj"]
        return gfo.Merge(self.model, folders, method="task_arithmetic", groups=groups, filters=filters)

    def _controls(self, kind: str, target: str) -> dict[str, Any]:
        """Parents, mean, the best coefficient of one number, and the model as it is."""
        task = target_task(target, self.options.data, self.options.test)
        found = gfo.merge_controls(self.model, task, self._space(kind))
        scores = {
            name: {split: dict(each) for split, each in some.items()} for name, some in found.scores.items()
        }
        return {"scores": scores, "sweep": {f"{value:g}": loss for value, loss in found.sweep.items()}}

    def _searched(self, kind: str, target: str, optimizer: str, seed: int) -> dict[str, Any]:
        """The merge that a search finds, chosen on dev."""
        space = self._space(kind)
        several: dict[str, Any] = FRONT if optimizer == "nsga2" else {}
        result = gfo.tune(
            self.model,
            target_task(target, self.options.data, self.options.test),
            space,
            optimizer=optimizer,
            budget=gfo.Budget(evaluations=self.options.evaluations),
            seed=seed,
            progress=False,
            **several,
        )
        found: dict[str, Any] = {
            "dev": dict(result.score("dev")),
            "test": dict(result.score("test")),
            "coefficients": space.coefficients(result.z),
            "forward_tokens": result.cost.forward_tokens,
        }
        if several and result.found is not None:
            scored = result.evaluator.score(result.found.z, "test").metrics
            found["front"] = {name: scored[name].tolist() for name in scored if name.endswith("accuracy")}
        return found
