"""What one step goes through in gfo: functions, files, calls, and rooms that are entered again.

    python -m benchmarks.calls --json FILE

The step is the third of `gfo.tune` with a tiny random model: the text first, a soft prompt of 8 tokens behind
it, CMA-ES with K = 8, no folder, no dev rows. It lasts from one `ask` to the next, so that the loop's own
work for a step is in it, and `tell`. By the third step everything that is computed once is there.

- A function is a code object of gfo that is entered; lambdas and comprehensions are functions of their own.
- A call is an entry into one, an iterator's that goes on included.
- A room is a file of gfo. It is visited when one of its functions is called from another file (code of other
  packages in between does not count), and entered again when it is visited a second time.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import gfo
from benchmarks import shared

PACKAGE = Path(gfo.__file__).parent
STEP = 3  # the first that is as all later ones are
TEMPLATE = "Review: {text}\n{soft}Sentiment:"
LABELS = {"negative": " negative", "positive": " positive"}
TOKENS, DIM, CANDIDATES = 8, 50, 8  # of the prompt, of the search, a step
ROWS = 48  # so few that a step is one pass


@dataclass
class Trace:
    """Counts the calls into a package's functions between `begin` and `end`.

    Attributes:
        package: folder of the package.
        calls: of each function.
        visits: of each file.
    """

    package: Path
    calls: Counter[CodeType] = field(default_factory=Counter)
    visits: Counter[str] = field(default_factory=Counter)
    _inside: list[str] = field(default_factory=list)  # the files of the functions not yet left

    def begin(self) -> None:
        """Count from now on; those who have called until now are where they are."""
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if self._counts(frame.f_code):
                self._inside.insert(0, frame.f_code.co_filename)
            frame = frame.f_back
        sys.setprofile(self._see)

    def end(self) -> None:
        """Count no more."""
        sys.setprofile(None)

    def _counts(self, code: CodeType) -> bool:
        return Path(code.co_filename).is_relative_to(self.package)

    def _see(self, frame: FrameType, event: str, argument: object) -> None:
        if event not in ("call", "return") or not self._counts(frame.f_code):
            return
        file = frame.f_code.co_filename
        if event == "return":
            self._inside.pop()
            return
        self.calls[frame.f_code] += 1
        if not self._inside or self._inside[-1] != file:
            self.visits[file] += 1
        self._inside.append(file)

    def found(self) -> dict[str, Any]:
        """The counts, in all and by file, the most functions first."""
        functions, calls = Counter[str](), Counter[str]()
        for code, number in self.calls.items():
            functions[code.co_filename] += 1
            calls[code.co_filename] += number
        return {
            "functions": len(self.calls),
            "files": len(functions),
            "calls": self.calls.total(),
            "visits": self.visits.total(),
            "rooms_entered_again": sum(visits > 1 for visits in self.visits.values()),
            "by_file": [
                {
                    "file": Path(file).relative_to(self.package.parent).as_posix(),
                    "functions": number,
                    "calls": calls[file],
                    "visits": self.visits[file],
                }
                for file, number in functions.most_common()
            ],
        }


class OneStep(gfo.Callback):
    """Traces a step of a run, from its `ask` to the next."""

    def __init__(self, step: int) -> None:
        self.trace = Trace(PACKAGE)
        self._step, self._asked = step, 0

    def start(self, run: Any) -> None:
        """Watch the optimizer's `ask`."""
        run.optimizer.ask = self._watched(run.optimizer.ask)

    def step(self, run: Any) -> str | None:
        """Nothing, without entering gfo."""
        return None

    def _watched(self, ask: Callable[[], Any]) -> Callable[[], Any]:
        def watched() -> Any:
            self.trace.end()
            self._asked += 1
            if self._asked == self._step:
                self.trace.begin()
            return ask()

        return watched


def one_step(step: int = STEP, candidates: int = CANDIDATES) -> dict[str, Any]:
    """The counts of a step.

    Args:
        step: which one, from 1.
        candidates: K.
    """
    from gfo.testing import tiny_model

    model, watch = tiny_model(), OneStep(step)
    gfo.tune(
        model,
        gfo.Classification(
            "gfo:sentiment/train.jsonl", template=TEMPLATE, labels=LABELS, limits={"train": ROWS}
        ),
        gfo.SoftPrompt(model, tokens=TOKENS, dim=DIM),
        options={"population": candidates},
        budget=gfo.Budget(evaluations=(step + 1) * candidates),
        callbacks=[watch],
        progress=False,
    )
    return watch.trace.found()


def show(found: Mapping[str, Any]) -> None:
    """Print the counts by file, and in all."""
    columns = ("file", "functions", "calls", "visits")
    shared.show(
        f"Step {found['step']}: {found['functions']} functions in {found['files']} files, {found['calls']} "
        f"calls; {found['visits']} visits, {found['rooms_entered_again']} rooms entered again",
        columns,
        [[str(row[column]) for column in columns] for row in found["by_file"]],
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = shared.Parser(__doc__)
    parser.add_argument("--step", type=int, default=STEP, help="from 1 (default %(default)s)")
    parser.add_argument("--candidates", type=int, default=CANDIDATES, help="K (default %(default)s)")
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    options = parser.parse_args(arguments)
    shared.check_at_least_one(options, ["step", "candidates"])
    shared.check_output("--json", options.json)
    return options


def run(options: argparse.Namespace) -> None:
    """Count, show and write."""
    counts = one_step(options.step, options.candidates)
    found = {"step": options.step, "candidates": options.candidates, **counts, **shared.source()}
    show(found)
    shared.write_json(options.json, found)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    return shared.command(arguments, parse, run)


if __name__ == "__main__":
    shared.start(main)
