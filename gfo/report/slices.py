"""The loss in a plane around a result: what an optimizer's landscape looks like, cut once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.core.protocols import Cost, Evaluation

if TYPE_CHECKING:
    from gfo.report.figures import Figure

ALONG, ACROSS = (-0.5, 1.5), (-1.0, 1.0)  # of the plane, in units of the two directions
MOST_POINTS = 1000  # along a side
SHOWN = 0.9  # quantile of the losses up to which colours are told apart; hills above are one colour


@dataclass(frozen=True)
class Plane:
    """Points start + a * u + b * v.

    Attributes:
        start: a = b = 0, [d].
        u: from the start to the result, [d].
        v: orthogonal to u and as long, [d].
        third: whether v leads towards a given point, not in a random direction.
    """

    start: Array
    u: Array
    v: Array
    third: bool

    @classmethod
    def through(cls, start: Array, result: Array, third: Array | None, rng: np.random.Generator) -> Plane:
        """The plane of start, result and a third point, or a random direction for None.

        Raises:
            GfoError: if the points do not span a plane.
        """
        u = result - start
        _check_span(u, third)
        v = rng.standard_normal(len(u)) if third is None else np.asarray(third, dtype=np.float64) - start
        size = np.linalg.norm(v)
        v = v - u * (v @ u) / (u @ u)
        if not np.linalg.norm(v) > 1e-9 * size:
            raise GfoError("slice: through lies on the line from start to result; give another point")
        return cls(start, u, v * np.linalg.norm(u) / np.linalg.norm(v), third is not None)

    def points(self, a: Array, b: Array) -> Array:
        """a [...], b [...] -> points [..., d]."""
        return np.asarray(self.start + a[..., None] * self.u + b[..., None] * self.v)


def _check_span(u: Array, third: Array | None) -> None:
    """Raise GfoError for no direction from the start to the result, or a point that is none of the search."""
    if not np.linalg.norm(u) > 0:
        raise GfoError("slice: the result is the starting point; there is no direction between them")
    if len(u) < 2:
        raise GfoError("slice: the search space has one dimension; a plane needs two")
    if third is not None and np.shape(third) != u.shape:
        raise GfoError(
            f"slice: through has the shape {np.shape(third)}; give {u.shape}, a point of the search"
        )


@dataclass(frozen=True)
class Slice:
    """Losses on a grid of a plane.

    Attributes:
        plane: where the grid lies.
        a: along u, [n]; 0 is the start and 1 the result.
        b: along v, [n].
        loss: [n, n], a along the second axis; nan where a candidate failed, or out of bounds.
        ends: the losses of start and result.
        cost: of all of it.
    """

    plane: Plane
    a: Array
    b: Array
    loss: Array
    ends: tuple[float, float]
    cost: Cost

    def plot(self, path: str | Path | None = None) -> Figure:
        """Contours of the loss, with start and result marked.

        Raises:
            GfoError: if no loss is finite, or the path cannot be written.
        """
        from gfo.report import figures

        levels, norm = _levels(self.loss)
        hills = "max" if np.nanmax(self.loss) > levels[-1] else "neither"
        figure = figures.Figure(5.0, width=6.0)
        axes = figure.add_subplot()
        shown = np.ma.masked_invalid(self.loss)
        filled = axes.contourf(self.a, self.b, shown, levels, cmap="cividis", norm=norm, extend=hills)
        axes.contour(self.a, self.b, shown, levels, colors="white", linewidths=0.4, alpha=0.6)
        figure.colorbar(filled, label="loss", format="%.3g")
        box = {"boxstyle": "round,pad=0.25", "fc": "white", "ec": "none", "alpha": 0.85}
        for at, name, loss, marker in zip((0, 1), ("start", "result"), self.ends, "o*", strict=True):
            size = 8 if marker == "o" else 13
            axes.plot(at, 0, marker, ms=size, color=figures.ORANGE, mec="white", label=name, clip_on=False)
            text = f"{name} {loss:.4g}" if np.isfinite(loss) else f"{name}, failed"
            axes.annotate(
                text, (at, 0), (0, 11), textcoords="offset points", ha="center", fontsize=9, bbox=box
            )
        axes.set_aspect("equal")
        axes.tick_params(labelsize=9)
        axes.set_facecolor("#e5e7eb")
        axes.set_xlabel("from start (0) to result (1)")
        axes.set_ylabel("towards the third point" if self.plane.third else "a random orthogonal direction")
        axes.set_title(self._cost(), fontsize=9, color=figures.GREY)
        return figure.write(path)

    def _cost(self) -> str:
        tokens = f", {self.cost.forward_tokens:,} forward tokens" if self.cost.forward_tokens else ""
        return f"{self.cost.candidates:,} evaluations{tokens}, {self.cost.seconds:,.0f} s"


def take_slice(
    evaluate: Callable[[Array], Evaluation], plane: Plane, domain: Domain, points: int = 15
) -> Slice:
    """Evaluate points x points of a plane, a row at a time, and both ends.

    Args:
        evaluate: z [K, d] -> losses [K] and their cost; the same rows of the task for all.
        plane: of start and result.
        domain: points outside of its bounds are not evaluated.
        points: along each side, at least 2.

    Raises:
        GfoError: for too few points, or integer genes, which have no plane.
    """
    if not 2 <= points <= MOST_POINTS:
        raise GfoError(f"slice: points = {points} must be 2 to {MOST_POINTS:,}")
    if domain.integer.any():
        raise GfoError("slice: the search space has integer genes, between which there is no plane")
    a, b = np.linspace(*ALONG, points), np.linspace(*ACROSS, points)
    ends = evaluate(plane.points(np.array([0.0, 1.0]), np.zeros(2)))
    cost, loss = ends.cost, np.full((points, points), np.nan)
    for row, height in zip(loss, b, strict=True):
        z = plane.points(a, np.full(points, height))
        inside = domain.contains(z)
        if inside.any():
            found = evaluate(z[inside])
            row[inside] = found.loss
            cost += found.cost
    return Slice(plane, a, b, loss, (float(ends.loss[0]), float(ends.loss[1])), cost)


def _levels(loss: Array) -> tuple[Sequence[float], object]:
    """Levels of contours, and matplotlib's norm for their colours: logarithmic over a wide range."""
    from matplotlib.colors import LogNorm, Normalize

    from gfo.report.figures import WIDE_RANGE

    good = loss[np.isfinite(loss)]
    if not good.size:
        raise GfoError("slice: no loss in the plane is finite; there is nothing to draw")
    low, high = float(good.min()), float(np.quantile(good, SHOWN))
    if not high > low:
        low, high = low - 0.5, low + 0.5
    wide = low > 0 and high / low > WIDE_RANGE
    levels = np.geomspace(low, high, 13) if wide else np.linspace(low, high, 13)
    return levels.tolist(), (LogNorm if wide else Normalize)(low, high)
