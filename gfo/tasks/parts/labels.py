"""The labels of rows as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError, unknown_name
from gfo.tasks.parts.templates import is_missing


def label_indices(
    rows: Sequence[Mapping[str, Any]], field: str, labels: Mapping[str, Any], split: str
) -> Array:
    """The rows' labels as indices into the labels, int [N].

    Raises:
        GfoError: for a row without the field, or with another label.
    """
    index = {label: i for i, label in enumerate(labels)}
    found = np.empty(len(rows), dtype=np.int64)
    for i, row in enumerate(rows):
        where = f"{split} row {i + 1}"
        if field not in row:
            raise GfoError(f"{where}: {unknown_name('label_field', field, map(str, row))}")
        if row[field] is None or is_missing(row[field]):
            raise GfoError(f"{where}: its {field} is {row[field]!r}, a missing value; drop the row")
        label = str(row[field])
        if label not in index:
            raise GfoError(f"{where}: label '{label}' has no word; add it to labels ({', '.join(labels)})")
        found[i] = index[label]
    return found


def label_values(labels: Sequence[str]) -> Array:
    """The labels as numbers, float64 [C], if all are finite numbers; else as texts."""
    try:
        numbers = np.array([float(label) for label in labels])
    except ValueError:
        return np.array(labels)
    return numbers if np.isfinite(numbers).all() else np.array(labels)
