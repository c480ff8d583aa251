"""Small tables: for terminals, notebooks (HTML), papers (LaTeX), and what comes next (CSV, pandas)."""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from gfo.core.checking import checked
from gfo.core.errors import check_name, printable
from gfo.core.files import absolute, write_whole
from gfo.core.metric import Metric
from gfo.report.scores import AllScores, SplitScores, metrics_named

if TYPE_CHECKING:
    import pandas

LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%",
    "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "…": r"\ldots{}",
}  # fmt: skip


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

    @checked
    def to_csv(self, path: str | Path | None = None) -> str:
        """The cells as CSV, without the notes; also written to a file, if a path is given."""
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows((self.header, *self.rows))
        return _written(buffer.getvalue(), path)

    @checked
    def to_markdown(self, path: str | Path | None = None) -> str:
        """A table of Markdown, the notes behind it; also written to a file, if a path is given."""
        rule = ("---", *["---:"] * (len(self.header) - 1))
        cells = ([printable(c).replace("|", r"\|") for c in row] for row in (self.header, rule, *self.rows))
        lines = [f"| {' | '.join(row)} |" for row in cells]
        return _written("\n".join([*lines, *(f"\n{printable(note)}" for note in self.notes)]) + "\n", path)

    @checked
    def to_latex(self, path: str | Path | None = None) -> str:
        """A `tabular` with the rules of the package booktabs, the notes as comments behind it.

        Also written to a file, if a path is given.
        """
        lines = [rf"\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}", r"\toprule"]
        head, *body = (" & ".join(map(_latex, row)) + r" \\" for row in (self.header, *self.rows))
        lines += [head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
        return _written("\n".join([*lines, *(f"% {printable(note)}" for note in self.notes)]) + "\n", path)

    def to_pandas(self) -> pandas.DataFrame:
        """The cells, as text, with the first column as the index."""
        import pandas

        frame = pandas.DataFrame(list(self.rows), columns=list(self.header))
        return frame.set_index(self.header[0])


def write_table(table: Table, path: Path) -> None:
    """Write a table in the form that the path ends in.

    Raises:
        GfoError: for another one, or a path that cannot be written.
    """
    forms = {".csv": table.to_csv, ".md": table.to_markdown, ".tex": table.to_latex}
    check_name("form of a table", path.suffix, forms)
    forms[path.suffix](path)


def _latex(cell: str) -> str:
    """Text for LaTeX, in which no character is a command."""
    return "".join(LATEX.get(character, character) for character in printable(cell))


def _written(text: str, path: str | Path | None) -> str:
    if path is not None:
        write_whole(absolute(path, "table: path"), text, name="table")
    return text


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

    def to_csv(self, path: str | Path | None = None) -> str:
        """Its table: see `Table.to_csv`."""
        return self.table().to_csv(path)

    def to_markdown(self, path: str | Path | None = None) -> str:
        """Its table: see `Table.to_markdown`."""
        return self.table().to_markdown(path)

    def to_latex(self, path: str | Path | None = None) -> str:
        """Its table: see `Table.to_latex`."""
        return self.table().to_latex(path)

    def to_pandas(self) -> pandas.DataFrame:
        """Its table: see `Table.to_pandas`."""
        return self.table().to_pandas()


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
