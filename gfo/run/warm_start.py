"""A run that starts where another one of the same space ended: point, step sizes and covariance matrix.

The point is the other run's result, chosen on dev if it had dev rows. Step sizes and the covariance matrix
are those that its optimizer had at the end, where it adapts them (`standard_deviations`, `covariance`); both
lie beside the point in the run folder. What a run started with is kept in its own folder, so that it can be
resumed without the other one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gfo import optimizers
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError, shown
from gfo.core.files import absolute, write_whole
from gfo.core.protocols import Optimizer
from gfo.core.reading import read_bytes
from gfo.core.recording import plain
from gfo.optimizers.options import scale_option
from gfo.run.files import point_checksum
from gfo.run.folder import RunFolder
from gfo.run.result import Result
from gfo.run.schema import read_result
from gfo.run.stored import POINT, load_point

START = "start.safetensors"
SAME = ("d", "space", "model")
LEAST = 0.05
"""Of a usual first step: a run that had converged left none to search with."""


@dataclass(frozen=True)
class WarmStart:
    """Where a run starts.

    Attributes:
        z: the point [d].
        spread: "std" [d] and "covariance" [d, d] of what the other run's optimizer drew at its end, if known.
    """

    z: Array
    spread: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Result | str | Path, facts: Mapping[str, Any]) -> WarmStart:
        """The end of a run, given as its result or its folder.

        Args:
            run: the other one.
            facts: of this one, as result.json has them.

        Raises:
            GfoError: for a folder without a finished run, or one of another space, model or dimension.
        """
        if isinstance(run, Result):
            record, start = run.record, cls(run.z, run.spread)
        else:
            folder = absolute(run)
            record, start = read_result(folder), cls.read(folder / POINT, load_point(folder))
        for key in SAME:
            then, now = plain(record.get(key)), plain(facts[key])
            if then != now:
                raise GfoError(
                    f"warm_start: {key} was {shown(then)} in that run and is {shown(now)} in this one; a "
                    "point means the same in the same space alone (its seed, too) and of the same model"
                )
        return start

    @classmethod
    def read(cls, path: Path, z: Array | None = None) -> WarmStart:
        """What a file has; `z` stands for its point if it is known already."""
        from safetensors.numpy import load

        tensors = load(read_bytes(path, "warm_start", remedy="give the folder of a finished run"))
        point = tensors.pop("z")
        return cls(point if z is None else z, tensors)

    @classmethod
    def kept(cls, run: Result | str | Path, facts: Mapping[str, Any], out: RunFolder | None) -> WarmStart:
        """The start of a run in `out`: that of the first time, if it goes on, else the other run's end."""
        from safetensors.numpy import save

        if out is None:
            return cls.of(run, facts)
        with out as folder:
            if out.resume and (folder / START).is_file():
                return cls.read(folder / START)
            start = cls.of(run, facts)
            write_whole(folder / START, save({"z": start.z, **start.spread}))
        return start

    def record(self) -> dict[str, Any]:
        """What result.json says of it."""
        return {"point": point_checksum(self.z), "with": sorted(self.spread)}

    def options(self, name: str, domain: Domain, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of an optimizer that starts here; those given stay.

        Raises:
            GfoError: for an optimizer that has no start.
        """
        known = optimizers.options_of(name)
        if known is None or "x0" not in known:
            able = ", ".join(n for n in optimizers.names() if "x0" in (optimizers.options_of(n) or ()))
            raise GfoError(f"warm_start: optimizer '{name}' has no start to be set; take one of {able}")
        start: dict[str, Any] = {"x0": self.z}
        if "scale" in known and (std := self.spread.get("std")) is not None:
            usual = scale_option(name, domain, None)
            start["scale"] = 2 * std * max(1.0, LEAST / float(np.max(2 * std / usual)))
        return {**start, **options}

    def correlate(self, optimizer: Optimizer) -> None:
        """Hand the covariance matrix on, to an optimizer that has one."""
        correlate = getattr(optimizer, "correlate", None)
        if correlate is not None and "covariance" in self.spread:
            correlate(self.spread["covariance"])
