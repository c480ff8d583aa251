"""`runs`: the runs below a folder as a table, finished or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfo.core.checking import checked
from gfo.core.errors import GfoError, check_name
from gfo.core.metric import LOSS, Metric
from gfo.report.labels import flatten
from gfo.report.scores import metrics_named, recorded_metrics
from gfo.report.tables import Table, Tabled
from gfo.run.history import HISTORY, History
from gfo.run.schema import RESULT
from gfo.run.stored import recorded_setup, stored_summary

MOST_WORDS = 48  # letters of why a run ended
FACTS = {  # what is shown of a run -> where its record has it, the first that is there
    "method": ("optimizer.name", "optimizer", "baseline.name", "baseline"),
    "space": ("space.kind",),
    "task": ("task.kind",),
    "model": ("model.name", "model"),
    "seed": ("seed",),
}
NUMBERS = ("evaluations", "forward_tokens", "seconds", "loss")


@dataclass(frozen=True)
class FoundRun:
    """A run in a folder, as plain values.

    Attributes:
        name: its folder, below the one that was looked through.
        facts: "a.b" -> text, of its config or what else was recorded, and the names of FACTS.
        numbers: evaluations, forward_tokens, seconds, loss (the lowest on train) and SPLIT.METRIC.
        ended: why it ended; "" for one that has not.
        metrics: what the numbers of splits are.
    """

    name: str
    facts: dict[str, str]
    numbers: dict[str, float]
    ended: str
    metrics: tuple[Metric, ...] = ()

    def row(self, facts: Sequence[str], shown: Mapping[str, Metric]) -> tuple[str, ...]:
        """The run in a table: facts, evaluations, tokens, numbers as metrics show them, and why it ended."""
        return (
            self.name,
            *(self.facts.get(key, "-") for key in facts),
            *(f"{self.numbers.get(key, 0):,.0f}" for key in NUMBERS[:2]),
            *(metric.show(self.numbers.get(name)) for name, metric in shown.items()),
            _short(self.ended) or "not yet",
        )


@dataclass(frozen=True, repr=False)
class Runs(Tabled):
    """Runs in an order; shows itself as a table, `to_pandas` gives all numbers."""

    found: tuple[FoundRun, ...]
    notes: tuple[str, ...] = ()

    def table(self) -> Table:
        """What differs between the runs, test scores, cost and why each ended."""
        scores, shown = _test_scores(self.found), list(dict.fromkeys(["method", *_differing(self.found)]))
        header = ("run", *shown, "evaluations", "tokens", "train loss", *scores, "ended")
        metrics = _metrics(self.found, [name.removeprefix("test.") for name in scores])
        numbers = {"loss": LOSS, **dict(zip(scores, metrics, strict=True))}
        return Table(header, tuple(run.row(shown, numbers) for run in self.found), self.notes)

    def to_pandas(self) -> Any:
        """A row a run: its facts by their names in the config, and its numbers."""
        import pandas

        rows = [{"run": run.name, **run.facts, **run.numbers, "ended": run.ended} for run in self.found]
        return pandas.DataFrame(rows).set_index("run")


@checked
def runs(folder: str | Path, *, sort: str | None = None, filter: Sequence[str] | str = ()) -> Runs:
    """The runs below a folder, in order of their names.

    Args:
        folder: looked through with all folders in it, links left out.
        sort: a number, such as "test.accuracy", "loss" or "forward_tokens": the best first, of costs the
            lowest; runs without it are last.
        filter: what runs must have, as "optimizer=cma" or "task.kind=classification"; several must all hold.
            A key is one of a config, or of `method`, `space`, `task`, `model`, `seed`.

    Raises:
        GfoError: for a folder that is none or holds no run, an unknown key, or a filter without "=".
    """
    place = Path(folder)
    if not place.is_dir():
        raise GfoError(f"runs: {folder} is no folder; give one that run folders are in")
    found, notes = _read_all(place)
    if not found:
        raise GfoError("; ".join([f"runs: {folder} holds no run that can be read", *notes[:1]]))
    for text in [filter] if isinstance(filter, str) else filter:
        found = _filtered(found, text)
    return Runs(tuple(_sorted(found, sort) if sort else found), tuple(notes))


def folders_in(place: Path) -> Iterator[Path]:
    """Run folders in a folder, itself among them, by name."""
    if (place / HISTORY).is_file() or (place / RESULT).is_file():
        yield place
        return
    for inner in sorted(place.iterdir()):
        if inner.is_dir() and not inner.is_symlink():
            yield from folders_in(inner)


def _read_all(place: Path) -> tuple[list[FoundRun], list[str]]:
    """The runs in a folder that can be read, and a note on each that cannot."""
    found, notes = [], []
    for path in folders_in(place):
        try:
            found.append(_read(path, path.relative_to(place).as_posix()))
        except GfoError as error:
            notes.append(f"left out: {error}")
    return found, notes


def _read(folder: Path, name: str) -> FoundRun:
    summary = stored_summary(folder)
    numbers = _costs(folder, summary)
    for split, scores in summary.get("scores", {}).get("after", {}).items():
        numbers |= {f"{split}.{metric}": value for metric, value in scores.items() if value is not None}
    return FoundRun(name, facts_of(summary), numbers, summary.get("stopped", ""), recorded_metrics(summary))


def facts_of(summary: Mapping[str, Any]) -> dict[str, str]:
    """What was run, by the names in the config and those of FACTS."""
    seed = summary.get("seed")
    facts = flatten(recorded_setup(summary)) | {"seed": "-" if seed is None else str(seed)}
    facts |= {key: next((facts[at] for at in places if at in facts), "-") for key, places in FACTS.items()}
    return facts


def _costs(folder: Path, summary: dict[str, Any]) -> dict[str, float]:
    """Evaluations, tokens, seconds and the lowest loss: of its result, or of its last step."""
    if "cost" in summary:
        cost, loss = summary["cost"], summary.get("loss")
        found = {"evaluations": cost["candidates"], **{key: cost[key] for key in NUMBERS[1:3]}}
    else:
        steps = History.read(folder / HISTORY)
        if not len(steps):
            return {}
        last = steps[-1]
        found, loss = {key: getattr(last, key) for key in NUMBERS[:3]}, last.best
    return found if loss is None else {**found, "loss": loss}


def _filtered(found: Sequence[FoundRun], text: str) -> list[FoundRun]:
    key, equals, value = text.partition("=")
    if not equals:
        raise GfoError(f"runs: filter = {text!r} must be KEY=VALUE, such as optimizer=cma")
    key = _fact(found, key)
    return [run for run in found if run.facts.get(key) == value]


def _fact(found: Sequence[FoundRun], key: str) -> str:
    """A key of runs' facts; of those without an optimizer's the method.

    Raises:
        GfoError: for one that none of them has.
    """
    keys = {name for run in found for name in run.facts}
    if key == "optimizer" and key not in keys:
        key = "method"
    if found:
        check_name("key of runs", key, keys)
    return key


def _sorted(found: Sequence[FoundRun], key: str) -> list[FoundRun]:
    keys = {name for run in found for name in run.numbers}
    if found:
        check_name("number of runs", key, keys | set(NUMBERS))
    name = key.split(".", 1)[-1]
    lower = key in NUMBERS or _metrics(found, [name])[0].lower_is_better
    sign = 1 if lower else -1
    return sorted(found, key=lambda run: (key not in run.numbers, sign * run.numbers.get(key, 0.0)))


def _test_scores(found: Sequence[FoundRun]) -> list[str]:
    """The names of the runs' test scores, each once."""
    return list(dict.fromkeys(n for run in found for n in run.numbers if n.startswith("test.")))


def _differing(found: Sequence[FoundRun]) -> list[str]:
    """The names of FACTS in which runs differ."""
    return [key for key in FACTS if len({run.facts.get(key) for run in found}) > 1]


def _metrics(found: Sequence[FoundRun], names: Sequence[str]) -> tuple[Metric, ...]:
    """What numbers of the runs' splits are, by their names there."""
    return metrics_named([metric for run in found for metric in run.metrics], names)


def _short(words: str) -> str:
    return words if len(words) <= MOST_WORDS else words[: MOST_WORDS - 1] + "…"
