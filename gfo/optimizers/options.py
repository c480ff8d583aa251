"""The checks of options, and what the options that all methods share mean."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from gfo.core.checking import fits
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError, shown

SHARE_OF_A_BOX = 5
"""A typical change is the width of a box divided by this."""


def default_population(d: int) -> int:
    """4 + floor(3 ln d), the default of CMA-ES (Hansen 2016, arXiv:1604.00772, eq. 48) and SNES."""
    return 4 + int(3 * np.log(d))


def population_option(method: str, domain: Domain, value: int | None, *, least: int = 2) -> int:
    """The population given, or the default one."""
    return default_population(domain.d) if value is None else whole(method, "population", value, least=least)


def even_population(method: str, domain: Domain, value: int | None) -> int:
    """The population given, or the default one made even, for methods that draw pairs."""
    population = population_option(method, domain, value)
    if value is not None and population % 2:
        raise option_error(method, "population", value, "even: points come in pairs")
    return population + population % 2


def start_point(domain: Domain) -> Array:
    """Zero, where every search space decodes to its starting point, moved into the domain: [d]."""
    return domain.clip(np.zeros(domain.d))


def start_option(method: str, domain: Domain, x0: Sequence[float] | Array | None) -> Array:
    """x0 as an array [d], or zero moved into the domain."""
    if x0 is None:
        return start_point(domain)
    try:
        point = np.array(x0, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        point = np.empty(0)
    if point.shape != (domain.d,) or not domain.contains(point):
        raise option_error(method, "x0", x0, f"{domain.d} numbers inside the domain")
    return point


def scale_option(method: str, domain: Domain, value: float | Sequence[float] | Array | None) -> Array:
    """A typical change of each coordinate of z [d]: given, or 1, or a fifth of the width within a box.

    A given one is one number for all coordinates, or one for each.
    """
    if value is None:
        width = domain.high - domain.low
        return np.where(np.isfinite(width), width / SHARE_OF_A_BOX, 1.0)
    if isinstance(value, Real):
        return np.full(domain.d, number(method, "scale", value, above=0))
    try:
        given = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        given = np.empty(0)
    if given.shape != (domain.d,) or not (np.isfinite(given) & (given > 0)).all():
        raise option_error(method, "scale", value, f"a finite number above 0, or {domain.d} of them")
    return given


def within(domain: Domain, size: Array | float) -> Array:
    """A step's size for each coordinate [d], at most a quarter of the width of a box."""
    return np.minimum(size, (domain.high - domain.low) / 4)


def option_error(method: str, option: str, value: object, wanted: str) -> GfoError:
    """The error for an option's value that cannot be used."""
    return GfoError(f"optimizer '{method}': {option} = {shown(value)} must be {wanted}")


def whole(method: str, option: str, value: Any, *, least: int = 1) -> int:
    """value as an int, if it is a whole number of at least `least`."""
    if not fits(value, int) or value < least:
        raise option_error(method, option, value, f"a whole number of at least {least}")
    return int(value)


def number(
    method: str,
    option: str,
    value: Any,
    *,
    above: float = -np.inf,
    least: float = -np.inf,
    below: float = np.inf,
    most: float = np.inf,
) -> float:
    """value as a float, if it is a finite number > above, >= least, < below and <= most."""
    real = fits(value, float) and bool(np.isfinite(float(value)))
    if not (real and value > above and value >= least and value < below and value <= most):
        limits = {"above": above, "at least": least, "below": below, "at most": most}
        raise option_error(method, option, value, _within_limits(limits))
    return float(value)


def _within_limits(limits: Mapping[str, float]) -> str:
    """What a number must be, in words, with those limits that are finite."""
    said = [f"{word} {limit:g}" for word, limit in limits.items() if np.isfinite(limit)]
    return " ".join(["a finite number", " and ".join(said)]).strip()


def flag(method: str, option: str, value: Any) -> bool:
    """A truth value."""
    if not fits(value, bool):
        raise option_error(method, option, value, "True or False")
    return bool(value)


def check_objectives(method: str, names: Sequence[str]) -> None:
    """Raise GfoError for no objective, or one that is given twice."""
    if not names or len(set(names)) < len(names):
        raise option_error(method, "objectives", list(names), "names, each of them once")


def mapping(method: str, option: str, value: Any) -> dict[str, Any]:
    """value as a dict, if it is a mapping of texts; empty for None."""
    if not fits(value, Mapping[str, Any] | None):
        raise option_error(method, option, value, "a mapping of names to values")
    return dict(value or {})


def one_of(method: str, option: str, value: Any, choices: Collection[str]) -> str:
    """value, if it is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise option_error(method, option, value, f"one of {', '.join(sorted(choices))}")
    return str(value)
