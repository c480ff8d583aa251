"""Small tables, as text for terminals and as HTML for notebooks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from gfo.core.errors import printable
from gfo.core.metric import Metric
from gfo.report.scores import AllScores, SplitScores, metrics_named


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
        cells = [list(map(printable, row)) for row in (self.header, *self.rows)] if self.rows else []
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [_line(row, widths) for row in cells]
        return "\n".join([*lines, *map(printable, self.notes)])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        table = ""
        if self.rows:
            body = "".join(_html(row, "td") for row in self.rows)
            table = f"<table><thead>{_html(self.header, 'th')}</thead><tbody>{body}</tbody></table>"
        return table + "".join(f"<div>{escape(printable(note))}</div>" for note in self.notes)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    """A row as text, its first cell on the left."""
    cells = (row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:]))
    return "  ".join(cells).rstrip()


def _html(row: Sequence[str], tag: str) -> str:
    """A row as HTML, its first cell on the left."""
    sides = ("left", *["right"] * (len(row) - 1))
    cells = (
        f'<{tag} style="text-align: {side}">{escape(printable(cell))}</{tag}>'
        for cell, side in zip(row, sides, strict=True)
    )
    return f"<tr>{''.join(cells)}</tr>"


class Tabled(ABC):
    """Shows itself as its table, in terminals and in notebooks."""

    @abstractmethod
    def table(self) -> Table:
        """What is shown."""

    def __str__(self) -> str:
        return str(self.table())

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def scores_table(
    scores: AllScores, splits: Sequence[str], notes: Sequence[str] = (), metrics: Sequence[Metric] = ()
) -> Table:
    """Scores before and after, with standard errors where they are known, and what changed.

    Args:
        scores: "before" and "after" -> split -> metric -> value.
        splits: those to show.
        notes: lines below.
        metrics: what they are; by default what the scores say themselves, or gfo's own of those names.
    """
    before, after = scores.get("before", {}), scores.get("after", {})
    rows: list[tuple[str, ...]] = []
    sizes: dict[str, int] = {}
    for split in splits:
        now = _with_errors(after.get(split, {}))
        then = _with_errors(before.get(split, {}))
        for metric in metrics_named(metrics or now.metrics, now):
            rows.append((f"{split} {metric.name}", *_change(metric, then, now)))
        if now.n is not None and now.standard_errors:
            sizes[split] = now.n
    said = ", ".join(f"{split} n = {n:,}" for split, n in sizes.items())
    errors = [f"± standard error over rows, {said}"] if sizes else []
    return Table(("", "before", "after", "change"), tuple(rows), (*errors, *notes))


def _change(metric: Metric, then: SplitScores, now: SplitScores) -> tuple[str, str, str]:
    """A metric before and after, and what changed."""
    old = then.get(metric.name)
    change = None if old is None else now[metric.name] - old
    return then.show(metric), now.show(metric), metric.show_change(change)


def _with_errors(scores: Mapping[str, float]) -> SplitScores:
    return scores if isinstance(scores, SplitScores) else SplitScores(scores)
