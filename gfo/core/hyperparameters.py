"""Hyperparameters by name: what their values may be, as a domain that any optimizer searches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import numpy as np

from gfo.core.checking import checked
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError, shown, unknown_name
from gfo.core.recording import recorded


@checked
@dataclass(frozen=True)
class Log:
    """Real numbers on a logarithmic scale.

    Attributes:
        low, high: bounds, both above 0.
    """

    low: float
    high: float


@checked
@dataclass(frozen=True)
class Int:
    """Whole numbers.

    Attributes:
        low, high: bounds, inclusive.
        log: whether the scale is logarithmic; both must then be above 0.
    """

    low: int
    high: int
    log: bool = False


@checked
@dataclass(frozen=True)
class When:
    """A hyperparameter that there is only where another, a choice, has a certain value.

    Attributes:
        name: the other's.
        value: the value, or a list of several.
        values: what this one's may be, as in `Hyperparameters`.
    """

    name: str
    value: Any
    values: Any

    @property
    def among(self) -> list[Any]:
        """The other's values for which there is this one."""
        return list(self.value) if isinstance(self.value, list) else [self.value]


@dataclass(frozen=True)
class Gene:
    """One dimension of the domain, and its values.

    Attributes:
        low, high: of the gene.
        value: gene -> value.
        gene: value -> gene; raises GfoError for a value that it cannot have.
        integer, categorical: of the gene, see `gfo.Domain`.
        choices: the values, where they are few.
        real: whether values are real numbers of a range.
    """

    low: float
    high: float
    value: Callable[[float], Any]
    gene: Callable[[Any], float]
    integer: bool = False
    categorical: bool = False
    choices: tuple[Any, ...] = ()
    real: bool = False


@recorded
class Hyperparameters:
    """Hyperparameters by name, each with the values it may have.

    - `(low, high)`: real numbers, by a gene from 0 to 1;
    - `gfo.Log(low, high)`: real numbers on a logarithmic scale, by a gene from 0 to 1;
    - `gfo.Int(low, high)`: whole numbers, their own genes; with `log=True` by a gene from 0 to 1;
    - `[4, 8, 16]`, rising numbers: by their places, which have an order;
    - `["sgd", "adam"]`, other choices: by their places, which have none;
    - `gfo.When("optimizer", "sgd", values)`: there only where `optimizer` is "sgd".

    Args:
        space: name -> values.
        continuous: whether all genes are real numbers from 0 to 1, for optimizers that take no others: whole
            numbers and choices are then equal parts of that.

    Attributes:
        domain: a gene for each name, in order.
        names: the names.
        space: name -> values, as given.

    Raises:
        GfoError: for a range upside down, a logarithmic one that begins at 0, fewer than two choices, or
            a condition on what is no choice.
    """

    def __init__(self, space: Mapping[str, Any], *, continuous: bool = False) -> None:
        self.space = dict(space)
        if not space:
            raise GfoError("hyperparameters: there are none; give a name and its values at least")
        self._when = {name: given for name, given in space.items() if isinstance(given, When)}
        self._genes = {name: _gene(name, _unconditional(given)) for name, given in space.items()}
        if continuous:
            self._genes = {name: _in_parts(gene) for name, gene in self._genes.items()}
        for name in self._when:
            self._check_condition(name)
        self.names = tuple(self._genes)
        self.domain = _domain(self._genes)

    def values(self, z: Array) -> dict[str, Any]:
        """The values of a point z [d], without those whose condition does not hold."""
        z = self.domain.clip(z)
        found: dict[str, Any] = {}
        for number, (name, gene) in zip(z.tolist(), self._genes.items(), strict=True):
            found[name] = gene.value(number)
        return {name: value for name, value in found.items() if self._is_there(name, found)}

    def point(self, values: Mapping[str, Any]) -> Array:
        """The point [d] of some values; what has no value, and needs none, is in its middle.

        Raises:
            GfoError: for an unknown name, a value out of range, or one that is missing.
        """
        for name in values:
            if name not in self._genes:
                raise unknown_name("hyperparameter", name, self._genes)
        z = [self._number(name, values) for name in self.names]
        return self.domain.clip(np.array(z, dtype=np.float64))

    def repair(self, z: Array) -> Array:
        """z [K, d] inside the domain, so that points that stand for the same values are equal.

        Genes of what is not there go to their middle, of whole numbers and choices to that of their part.
        """
        moved = self.domain.clip(z)
        for row in moved:
            there = self.values(row)
            for i, (name, gene) in enumerate(self._genes.items()):
                if name not in there:
                    row[i] = _middle(gene)
                elif not gene.real:
                    row[i] = gene.gene(there[name])
        return moved

    def is_log(self, name: str) -> bool:
        """Whether the scale of a hyperparameter is logarithmic."""
        given = _unconditional(self.space[name])
        return isinstance(given, Log) or (isinstance(given, Int) and given.log)

    def choices(self, name: str) -> tuple[Any, ...]:
        """The values of a choice; none for a range."""
        return self._genes[name].choices

    def _number(self, name: str, values: Mapping[str, Any]) -> float:
        """The gene of a name's value."""
        if name in values:
            return self._genes[name].gene(values[name])
        if self._is_there(name, values):
            raise GfoError(f"hyperparameter '{name}' has no value; give one")
        return _middle(self._genes[name])

    def _is_there(self, name: str, values: Mapping[str, Any]) -> bool:
        """Whether there is a hyperparameter, given the others' values."""
        when = self._when.get(name)
        if when is None:
            return True
        return self._is_there(when.name, values) and values.get(when.name) in when.among

    def _check_condition(self, name: str) -> None:
        """Raise GfoError for a condition that cannot hold, or that goes round in a circle."""
        at = self._when[name]
        other = self._genes.get(at.name)
        if other is None:
            raise GfoError(f"hyperparameter '{name}': {unknown_name('other', at.name, self._genes)}")
        for value in at.among:
            if value not in other.choices:
                raise GfoError(
                    f"hyperparameter '{name}': '{at.name}' is never {value!r}; its choices are "
                    f"{', '.join(map(repr, other.choices)) or 'none, it is a range'}"
                )
        self._check_circle(name)

    def _check_circle(self, name: str) -> None:
        """Raise GfoError for a condition that goes round in a circle."""
        seen, at = {name}, self._when.get(name)
        while at is not None:
            if at.name in seen:
                raise GfoError(
                    f"hyperparameter '{name}': its condition goes round in a circle; leave one out"
                )
            seen.add(at.name)
            at = self._when.get(at.name)


def _unconditional(given: Any) -> Any:
    """What a hyperparameter's values may be where there is one."""
    return given.values if isinstance(given, When) else given


def _domain(genes: Mapping[str, Gene]) -> Domain:
    """A gene for each name, in order."""
    low, high = np.array([[gene.low, gene.high] for gene in genes.values()], dtype=np.float64).T
    integer, categorical = np.array([[gene.integer, gene.categorical] for gene in genes.values()]).T
    return Domain(low, high, integer, categorical, tuple(genes))


def _middle(gene: Gene) -> float:
    middle = (gene.low + gene.high) / 2
    return math.floor(middle) if gene.integer else middle


def _in_parts(gene: Gene) -> Gene:
    """A gene of whole numbers as one of real numbers, each an equal part of 0 to 1."""
    if not gene.integer:
        return gene
    count = gene.high - gene.low + 1

    def value(at: float) -> Any:
        return gene.value(min(gene.low + math.floor(at * count), gene.high))

    return Gene(0.0, 1.0, value, lambda v: (gene.gene(v) - gene.low + 0.5) / count, choices=gene.choices)


def _gene(name: str, given: Any) -> Gene:
    """The gene of a hyperparameter."""
    if isinstance(given, Log):
        return _range(name, given.low, given.high, log=True)
    if isinstance(given, Int):
        return _whole(name, given)
    if isinstance(given, tuple) and len(given) == 2 and all(map(_is_real, given)):
        return _range(name, float(given[0]), float(given[1]), log=False)
    if isinstance(given, list):
        return _choice(name, given)
    raise GfoError(
        f"hyperparameter '{name}' = {shown(given)}; give (low, high), gfo.Log(low, high), gfo.Int(low, high) "
        "or a list of choices"
    )


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_range(name: str, low: float, high: float, *, log: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise GfoError(f"hyperparameter '{name}': low = {low} must be below high = {high}, both finite")
    if log and low <= 0:
        raise GfoError(f"hyperparameter '{name}': low = {low} on a logarithmic scale; give one above 0")


def _range(name: str, low: float, high: float, *, log: bool) -> Gene:
    """Real numbers, linear in the gene or in its logarithm."""
    _check_range(name, low, high, log=log)
    scaled, back = SCALES[log]
    a, b = scaled(low), scaled(high)

    def value(gene: float) -> float:
        return min(max(back(a + gene * (b - a)), low), high)

    def gene(value: Any) -> float:
        if not (_is_real(value) and low <= value <= high):
            raise GfoError(f"hyperparameter '{name}' = {shown(value)} must be a number from {low} to {high}")
        return (scaled(value) - a) / (b - a)

    return Gene(0.0, 1.0, value, gene, real=True)


def _linear(number: float) -> float:
    """The number itself."""
    return number


SCALES: dict[bool, tuple[Callable[[float], float], Callable[[float], float]]] = {
    False: (_linear, _linear),
    True: (math.log, math.exp),
}
"""Whether a scale is logarithmic -> number to scale, and back."""


def _whole(name: str, given: Int) -> Gene:
    """Whole numbers: themselves, or on a logarithmic scale each as wide as its neighbours allow."""
    low, high = given.low, given.high
    _check_range(name, low, high, log=given.log)
    real = _range(name, low - 0.5, high + 0.5, log=given.log)
    check = partial(_whole_number, name, low, high)
    if given.log:
        return Gene(
            0.0,
            1.0,
            lambda gene: min(max(round(real.value(gene)), low), high),
            lambda value: real.gene(check(value)),
        )
    return Gene(low, high, lambda gene: round(gene), lambda value: float(check(value)), integer=True)


def _whole_number(name: str, low: int, high: int, value: Any) -> int:
    """A value of a hyperparameter, as Python's; GfoError for one that it cannot have."""
    if not (isinstance(value, Integral) and not isinstance(value, bool) and low <= int(value) <= high):
        raise GfoError(
            f"hyperparameter '{name}' = {shown(value)} must be a whole number from {low} to {high}"
        )
    return int(value)


def _choice(name: str, given: Sequence[Any]) -> Gene:
    """One of a few values; rising numbers have an order."""
    values = tuple(given)
    if len(values) < 2:
        raise GfoError(f"hyperparameter '{name}' = {shown(given)}; give two choices at least")
    if any(value in values[:i] for i, value in enumerate(values)):
        raise GfoError(f"hyperparameter '{name}' = {shown(given)} has a choice twice; give each once")
    rising = all(map(_is_real, values)) and all(a < b for a, b in pairwise(values))

    def gene(value: Any) -> float:
        if value not in values:
            raise GfoError(
                f"hyperparameter '{name}' = {shown(value)}; its choices are {', '.join(map(repr, values))}"
            )
        return float(values.index(value))

    return Gene(
        0, len(values) - 1, lambda at: values[round(at)], gene, True, categorical=not rising, choices=values
    )
