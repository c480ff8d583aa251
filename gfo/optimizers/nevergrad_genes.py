"""A domain as nevergrad's own parameters, and points back from their values.

real genes          one array with bounds where all have two, and one of the others
whole numbers       TransitionChoice, whose values have an order; of a wide range an array cast to integers
categorical genes   Choice, a weight for each value, or TransitionChoice where that would be many weights
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gfo.core.domain import Array, Domain

MOST_VALUES = 10
"""Values of a whole number up to which they are listed."""
MOST_WEIGHTS = 64
"""Values of a categorical gene up to which each has a weight."""


class Genes(NamedTuple):
    """Genes that are one parameter of nevergrad: `which` [n] of the domain's, of one kind."""

    which: Array
    kind: str  # "box", "free", "wide", "ordered" or "named"


def grouped(domain: Domain) -> list[Genes]:
    """The domain's genes by kind and, where values are listed, by range; in order of their first one."""
    boxed = np.isfinite(domain.high - domain.low)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i in range(domain.d):
        low, values = float(domain.low[i]), float(domain.high[i] - domain.low[i]) + 1
        key: tuple[Any, ...] = ("box",) if boxed[i] else ("free",)
        if domain.integer[i]:
            key = ("ordered", low, values) if values <= MOST_VALUES else ("wide",)
        if domain.categorical[i] and values <= MOST_WEIGHTS:
            key = ("named", low, values)
        groups.setdefault(key, []).append(i)
    return [Genes(np.array(which), key[0]) for key, which in groups.items()]


def parameter(ng: Any, domain: Domain, genes: Genes, sigma: Array, x0: Array) -> Any:
    """nevergrad's parameter of a group of genes, at x0 [d], mutated with standard deviations sigma [d]."""
    which, kind = genes
    low, high = domain.low[which], domain.high[which]
    if kind in ("ordered", "named"):
        choice = ng.p.TransitionChoice if kind == "ordered" else ng.p.Choice
        values = range(int(low[0]), int(high[0]) + 1)
        made = choice(values, repetitions=len(which))
        made.value = tuple(int(x) for x in x0[which])
        return made
    array = ng.p.Array(init=x0[which])
    steps = (high - low) / 6 if kind == "wide" else sigma[which]
    array.set_mutation(sigma=steps if np.ptp(steps) else float(steps[0]))  # some methods want a number
    if kind != "free":
        array.set_bounds(low, high)
    if kind == "wide":
        array.set_integer_casting()
    return array


def point(groups: list[Genes], value: Any, d: int) -> Array:
    """The point [d] of nevergrad's value: of one group, or a tuple of the groups' values."""
    z = np.empty(d)
    for genes, part in zip(groups, (value,) if len(groups) == 1 else value, strict=True):
        z[genes.which] = np.asarray(part, dtype=np.float64)
    return z
