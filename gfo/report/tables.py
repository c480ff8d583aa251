"""Small tables, as text for terminals and as HTML for notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from gfo.report.scores import show, show_change


@dataclass(frozen=True)
class Table:
    """Rows of text under a header, and lines behind them; the first column is left-aligned.

    Attributes:
        header: names of the columns.
        rows: as many cells each.
        notes: lines below.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        cells = [self.header, *self.rows] if self.rows else []
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        return "\n".join([*lines, *self.notes])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        def line(row: Sequence[str], tag: str) -> str:
            sides = ("left", *["right"] * (len(row) - 1))
            cells = (
                f'<{tag} style="text-align: {side}">{escape(cell)}</{tag}>'
                for cell, side in zip(row, sides, strict=True)
            )
            return f"<tr>{''.join(cells)}</tr>"

        table = ""
        if self.rows:
            body = "".join(line(row, "td") for row in self.rows)
            table = f"<table><thead>{line(self.header, 'th')}</thead><tbody>{body}</tbody></table>"
        return table + "".join(f"<div>{escape(note)}</div>" for note in self.notes)


def scores_table(
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]], splits: Sequence[str], notes: Sequence[str] = ()
) -> Table:
    """Scores before and after, and what changed.

    Args:
        scores: "before" and "after" -> split -> metric -> value.
        splits: those to show.
        notes: lines below.
    """
    before, after = scores.get("before", {}), scores.get("after", {})
    rows = [
        (
            f"{split} {metric}",
            show(metric, before[split][metric]),
            show(metric, value),
            show_change(metric, value - before[split][metric]),
        )
        for split in splits
        for metric, value in after.get(split, {}).items()
    ]
    return Table(("", "before", "after", "change"), tuple(rows), tuple(notes))
