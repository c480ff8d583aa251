"""What a number that a task scores *is*: which way is better, and how people read it.

Selection, stopping, targets, constraints, tables and plots ask a task's metrics (`BoundTask.metrics`); nobody
guesses from a name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gfo.core.checking import checked
from gfo.core.errors import GfoError, check_name

FORMS = ("share", "nats", "number", "tokens", "measure")
SMALL = 5e-4  # nats below are shown as 1.2e-07


@checked
@dataclass(frozen=True)
class Metric:
    """A named number of a candidate.

    Attributes:
        name: of a key in `Scores.metrics`.
        lower_is_better: whether 1 is better than 2.
        form: how it is read: a "share" of one as a percentage, "nats" with four digits, a "number" with two,
            "tokens" with one, a "measure" such as bytes whole from 1,000 on.
        function: computes it, where it is a user's own; what it takes, the task says.

    Raises:
        GfoError: for an empty name, an unknown form, or a function that cannot be called.
    """

    name: str
    lower_is_better: bool = False
    form: str = "number"
    function: Callable[..., Any] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.name:
            raise GfoError(f"metric: name = {self.name!r} must be a text, such as 'accuracy'")
        check_name("form of a metric", self.form, FORMS)

    @property
    def best_word(self) -> str:
        """What the best value is: "lowest" or "highest"."""
        return "lowest" if self.lower_is_better else "highest"

    def merit(self, value: float | None) -> float:
        """What is to be highest; -inf for a value that is missing or not a number."""
        if value is None or math.isnan(value):
            return -math.inf
        return -value if self.lower_is_better else value

    def reaches(self, value: float | None, target: float) -> bool:
        """Whether a value is the target or better."""
        return value is not None and self.merit(value) >= self.merit(target)

    def as_loss(self, value: Any) -> Any:
        """A value, or an array of them, as something to minimise: itself where lower is better, 1 - a share,
        and -value of any other."""
        if self.lower_is_better:
            return value
        return 1 - value if self.form == "share" else -value

    def of_part(self, part: str) -> Metric:
        """The metric as one of a part of a joint task: "PART.NAME"."""
        return replace(self, name=f"{part}.{self.name}")

    def show(self, value: float | None, sign: str = "") -> str:
        """0.3712 or 1.2e-07 nats, a share of 84.4%; "-" for what is missing or not finite.

        Args:
            value: as recorded.
            sign: "+" to show the sign of a positive one too.
        """
        if value is None or not math.isfinite(value):
            return "-"
        if self.form == "share":
            return f"{value:{sign}.1%}"
        if self.form == "nats":
            return f"{value:{sign}.2e}" if 0 < abs(value) < SMALL else f"{value:{sign},.4f}"
        if self.form == "measure":
            return f"{value:{sign},.{0 if abs(value) >= 1000 else 4}{'f' if abs(value) >= 1000 else 'g'}}"
        return f"{value:{sign},.{1 if self.form == 'tokens' else 2}f}"

    def show_change(self, change: float | None) -> str:
        """The same for a difference, with its sign; shares in percentage points."""
        if self.form == "share" and change is not None and math.isfinite(change):
            return f"{100 * change:+.1f} points"
        return self.show(change, "+")

    def show_spread(self, value: float | None, spread: float | None) -> str:
        """84.4% ± 1.6, with a standard error or deviation; without, where that is missing or not finite."""
        text = self.show(value)
        if text == "-" or spread is None or not math.isfinite(spread):
            return text
        return f"{text} ± {f'{100 * spread:.1f}' if self.form == 'share' else self.show(spread)}"

    def record(self) -> dict[str, Any]:
        """Name, direction and form as plain values, for result.json."""
        facts = asdict(replace(self, function=None))
        del facts["function"]
        return facts

    @classmethod
    def of_record(cls, facts: Mapping[str, Any]) -> Metric:
        """The metric that `record` wrote down."""
        return cls(str(facts["name"]), bool(facts["lower_is_better"]), str(facts["form"]))


def named(name: str, metrics: Iterable[Metric]) -> Metric:
    """The metric of that name, or else a measure of the space, the less of it the better."""
    known = {metric.name: metric for metric in metrics}
    return known.get(name) or Metric(name, lower_is_better=True, form="measure")


LOSS = Metric("loss", lower_is_better=True, form="nats")
"""What the optimizer minimises; every task has it, first of its metrics."""


def main_metric(metrics: Iterable[Metric]) -> Metric | None:
    """The one to show beside the loss: the first share, or else the first; None if there is no other."""
    others = [metric for metric in metrics if metric.name != LOSS.name]
    return next((metric for metric in others if metric.form == "share"), others[0] if others else None)
