"""What a point says of new rows, and on which of a split's it differs from the starting point."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gfo.core.checking import checked
from gfo.core.domain import Array
from gfo.core.errors import GfoError, check_name
from gfo.core.files import absolute, write_whole
from gfo.core.metric import Metric
from gfo.core.protocols import Evaluator, Scores, metrics_of
from gfo.report.tables import Table, Tabled

if TYPE_CHECKING:
    import pandas

MOST = 60  # letters of a text in a table
FORMS = (".jsonl", ".csv")


@dataclass(frozen=True, repr=False)
class Predictions(Tabled):
    """What the model says of rows; shows itself as a table.

    Attributes:
        rows: as given.
        found: of each row "prediction"; of labels and options "probability", and "probabilities" of all.
    """

    rows: tuple[Mapping[str, Any], ...]
    found: tuple[Mapping[str, Any], ...]

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, i: int) -> str:
        """What is said of a row."""
        return str(self.found[i]["prediction"])

    def records(self) -> list[dict[str, Any]]:
        """A mapping a row: its fields, "prediction", and "probability" where there is one."""
        said = ({key: value for key, value in each.items() if key != "probabilities"} for each in self.found)
        return [{**row, **each} for row, each in zip(self.rows, said, strict=True)]

    def table(self) -> Table:
        """The first text of each row, what is said of it, and how probable that is."""
        shown = [f"{each['probability']:.1%}" if "probability" in each else "" for each in self.found]
        texts = [_short(next((v for v in row.values() if isinstance(v, str)), "")) for row in self.rows]
        header = ("row", "text", "prediction", *(["probability"] if any(shown) else []))
        cells = zip(texts, [_short(self[i]) for i in range(len(self))], shown, strict=True)
        rows = ((str(i), *each[: len(header) - 1]) for i, each in enumerate(cells, 1))
        return Table(header, tuple(rows))

    def to_pandas(self) -> pandas.DataFrame:
        """A row a row: its fields and what is said of it."""
        import pandas

        return pandas.DataFrame(self.records())

    @checked
    def to_csv(self, path: str | Path | None = None) -> str:
        """`records` as CSV; also written to a file, if a path is given."""
        records, buffer = self.records(), io.StringIO()
        fields = list(dict.fromkeys(key for record in records for key in record))
        writer = csv.DictWriter(buffer, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return _kept(buffer.getvalue(), path)

    @checked
    def to_jsonl(self, path: str | Path | None = None) -> str:
        """`records` as lines of JSON; also written to a file, if a path is given."""
        lines = (json.dumps(record, ensure_ascii=False, default=str) for record in self.records())
        return _kept("".join(f"{line}\n" for line in lines), path)

    def write(self, path: Path) -> None:
        """Write `records` in the form that the path ends in, .jsonl or .csv."""
        check_form(path)
        (self.to_csv if path.suffix == ".csv" else self.to_jsonl)(path)


def check_form(path: Path | None) -> None:
    """Raise GfoError for a file of predictions that ends in no form."""
    if path is not None:
        check_name("form of predictions", path.suffix, FORMS)


@dataclass(frozen=True, repr=False)
class Changes(Tabled):
    """Rows that a point has right and the starting point wrong, or the other way; shows itself as a table.

    Attributes:
        split: of the rows.
        metric: by which a row is right, at 1, or wrong, at 0.
        gained, lost: numbers of the rows that became right and wrong, from 0.
        n: how many rows there are.
        texts: number -> the row's text, of the rows that changed.
    """

    split: str
    metric: Metric
    gained: tuple[int, ...]
    lost: tuple[int, ...]
    n: int
    texts: Mapping[int, str]

    @property
    def p(self) -> float:
        """Of an exact McNemar test: how probable a difference as large is, if a changed row were as likely
        to become right as wrong. McNemar (1947), doi:10.1007/BF02295996."""
        from scipy.stats import binomtest

        changed = len(self.gained) + len(self.lost)
        return 1.0 if not changed else float(binomtest(len(self.gained), changed, 0.5).pvalue)

    def table(self) -> Table:
        """A row for each that changed, and the test below."""
        found = {**dict.fromkeys(self.gained, "wrong to right"), **dict.fromkeys(self.lost, "right to wrong")}
        rows = tuple((str(i + 1), found[i], _short(self.texts.get(i, ""))) for i in sorted(found))
        said = (
            f"{self.split} {self.metric.name}: of {self.n:,} rows {len(self.gained):,} became right and "
            f"{len(self.lost):,} wrong; exact McNemar test p = {self.p:.3g}"
        )
        return Table(("row", "change", "text"), rows, (said,))


def changes_of(evaluator: Evaluator, z: Array, split: str) -> Changes:
    """The rows of a split that changed between the starting point and z [d]; see `gfo.Result.changes`."""
    scored = evaluator.score(np.stack([np.zeros_like(z), z]), split)
    metric = _right_or_wrong(scored, metrics_of(evaluator))
    before, after = scored.rows[metric.name] > 0
    task: Any = getattr(evaluator, "task", None)
    batch = task.all_rows(split) if hasattr(task, "all_rows") else None
    numbers = getattr(batch, "numbers", ()) or range(len(before))
    changed = {int(numbers[i]): i for i in np.flatnonzero(before != after)}
    texts = task.texts(split) if hasattr(task, "texts") else []
    return Changes(
        split,
        metric,
        tuple(number for number, i in changed.items() if after[i]),
        tuple(number for number, i in changed.items() if before[i]),
        len(before),
        {number: " ".join(texts[i]) for number, i in changed.items() if i < len(texts)},
    )


def _right_or_wrong(scored: Scores, metrics: tuple[Metric, ...]) -> Metric:
    """The first share whose rows are all 0 or 1."""
    for metric in metrics:
        rows = scored.rows.get(metric.name)
        if rows is not None and metric.form == "share" and np.isin(rows, (0, 1)).all():
            return metric
    raise GfoError(
        "changes: no metric of the task calls a row right or wrong, as accuracy and exact_match do"
    )


def _kept(text: str, path: str | Path | None) -> str:
    if path is not None:
        write_whole(absolute(path, "predictions: path"), text, name="predictions")
    return text


def _short(text: str) -> str:
    one = " ".join(text.split())
    return one if len(one) <= MOST else one[: MOST - 1] + "…"
