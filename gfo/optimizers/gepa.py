"""GEPA: a language model reads what became of single rows and writes a better prompt, by the package gepa.

Agrawal et al. (2025), GEPA: Reflective Prompt Evolution Can Outperform Reinforcement Learning,
arXiv:2507.19457. The package's loop runs in a thread, and waits there for what it asks of the run: so budget,
history, dev and resume are those of any method. A step is one text, evaluated on all training rows; what GEPA
asks of it later, its small batches among it, is known then and costs nothing. A row's score is its loss,
negative.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from gfo.core.checking import named
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.optimizers.base import BaseOptimizer
from gfo.optimizers.options import whole
from gfo.optimizers.writing import Rewrite, Writer, text_domain

PROMPT = "prompt"  # GEPA's name of the only text that is searched
IDLE = 30  # texts in a row that were known, after which there is no sense in going on
Known = dict[str, list[dict[str, Any]]]
"""Text -> of each row "loss", and what GEPA reads: "Inputs", "Generated Outputs" and "Feedback"."""


@named
class GEPA(BaseOptimizer):
    """Reflective prompt evolution with a front over rows.

    Args:
        domain: of `gfo.Texts`, whose first text is the start.
        seed: of GEPA's draws, and of what the model draws.
        rewrite: what writes: a model of `gfo.load_model`, a `gfo.Endpoint`, or a function text -> text.
        minibatch: rows that are reflected on at a time.
        max_tokens, temperature: of what the model writes.

    Raises:
        GfoError: without the package gepa.
    """

    name = "gepa"
    writes = True
    injects = False
    saves_state = True
    _state = ("known", "written")

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        rewrite: Rewrite,
        minibatch: int = 3,
        max_tokens: int = 512,
        temperature: float = 1.0,
    ) -> None:
        self._texts = text_domain(self.name, domain)
        super().__init__(domain, seed)
        self._take(population=1, least=1)
        _check_installed()
        self._minibatch = whole(self.name, "minibatch", minibatch)
        self._write = Writer(self.name, rewrite, max_tokens, temperature)
        self.known: Known = {}
        self.written: list[str] = []
        self._evaluator: Any = None
        self._engine: Engine | None = None
        self._next: str | None = None
        self._why: str | None = None

    def attend(self, evaluator: Any) -> None:
        """The evaluator that says what became of rows.

        Raises:
            GfoError: for one that does not, or whose rows differ from step to step.
        """
        if not hasattr(evaluator, "feedback"):
            raise GfoError(
                "optimizer 'gepa': the evaluator has no feedback on rows; take gfo.Texts as the space"
            )
        if getattr(evaluator, "batches_differ", False):
            raise GfoError("optimizer 'gepa': each step has other rows; leave batch_size out")
        self._evaluator = evaluator

    def _ask(self) -> Array:
        if self._evaluator is None:
            raise GfoError("optimizer 'gepa': it reads what became of rows; run it by gfo.tune")
        if self._next is None:
            self._go_on()
        return self._texts.points([self._texts.start[0] if self._next is None else self._next])

    def _tell(self, z: Array, loss: Array) -> None:
        self._learn(z[0])

    def _skip(self, z: Array) -> None:
        self._learn(z[0])

    def _learn(self, z: Array) -> None:
        """Take over what became of the rows, and have GEPA go on, so that a saved state has what it wrote."""
        rows = self._evaluator.feedback(z)
        self.known[self._texts.text(z)] = [{**row.record(), "loss": row.loss} for row in rows]
        self._next = None
        if self.evaluations is None or len(self.known) < self.evaluations:
            self._go_on()

    def _go_on(self) -> None:
        """Let GEPA work until it wants a text evaluated, or ends."""
        if self._engine is None:
            rows = int(self._evaluator.row_count)
            first = self._texts.start[0]
            self._engine = Engine(self._fitted, first, rows, self.known, self.seed, self._minibatch)
        self._next, self._why = self._engine.go_on(self._answer)

    def _answer(self, number: int, prompt: str) -> str:
        """What the model writes as its answer of that number; those of a resumed run are known."""
        if number >= len(self.written):
            self.written.append(self._write([prompt], self.seed + number)[0] or "")
        return self.written[number]

    def _fitted(self, text: str) -> str:
        return self._texts.fitted(text.strip()) or self._texts.start[0]

    def should_stop(self) -> str | None:
        """Why it wants to stop: as all methods, or as GEPA has ended."""
        return super().should_stop() or self._why

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called: GEPA is told again what it knew, and answered as it was."""
        super().load_state_dict(state)
        self._engine = self._next = self._why = None
        if self._asked is None:
            self._go_on()

    def __del__(self) -> None:
        if getattr(self, "_engine", None) is not None:
            self._engine.stop()  # type: ignore[union-attr]


class Engine:
    """GEPA's loop in a thread; one of the two threads waits for the other at any time.

    Args:
        fitted: makes a text one that a point can say.
        start: the first text.
        rows: how many there are.
        known: what became of texts; others are asked for.
        seed: of GEPA's draws.
        minibatch: rows that are reflected on at a time.
    """

    def __init__(self, fitted: Any, start: str, rows: int, known: Known, seed: int, minibatch: int) -> None:
        self._fitted, self._known, self._rows = fitted, known, rows
        self._out: queue.Queue[tuple[str, Any]] = queue.Queue()
        self._in: queue.Queue[Any] = queue.Queue()
        self._answers = self._idle = 0
        self._thread = threading.Thread(target=self._run, args=(start, seed, minibatch), daemon=True)
        self._started = False

    def go_on(self, answer: Any) -> tuple[str | None, str | None]:
        """The next text to evaluate, or why there is none; `answer` gives what the model writes."""
        if not self._started:
            self._started = True
            self._thread.start()
        else:
            self._in.put(None)
        while True:
            what, value = self._out.get()
            if what == "write":
                self._in.put(answer(*value))
            elif what == "text":
                return value, None
            elif isinstance(value, Stopped):
                return None, str(value)
            else:
                raise GfoError(f"optimizer 'gepa': the package ended ({type(value).__name__}: {value})")

    def stop(self) -> None:
        """End the thread, which waits."""
        self._in.put(Stopped("stopped"))

    def _run(self, start: str, seed: int, minibatch: int) -> None:
        import gepa

        rows, quiet = list(range(self._rows)), Quiet()
        try:
            gepa.optimize(
                seed_candidate={PROMPT: start},
                trainset=rows,
                valset=rows,
                adapter=self,
                reflection_lm=self._reflect,
                reflection_minibatch_size=min(minibatch, self._rows),
                perfect_score=0.0,
                stop_callbacks=lambda state: False,
                logger=quiet,
                seed=seed % 2**32,
            )
            self._out.put(("end", Stopped("gepa has ended")))
        except BaseException as error:
            self._out.put(("end", error))

    propose_new_texts = None

    def evaluate(self, batch: list[int], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        """GEPA's adapter: scores of rows, the higher the better."""
        from gepa.core.adapter import EvaluationBatch

        text = self._fitted(candidate[PROMPT])
        if text not in self._known:
            self._idle = 0
            self._wait(("text", text))
        rows = [self._known[text][i] for i in batch]
        known = [-row["loss"] for row in rows if math.isfinite(row["loss"])]
        worst = min(known, default=-1.0)
        scores = [-row["loss"] if math.isfinite(row["loss"]) else worst for row in rows]
        outputs = [row["Generated Outputs"] for row in rows]
        return EvaluationBatch(outputs, scores, rows if capture_traces else None)

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Any, components_to_update: Sequence[str]
    ) -> dict[str, list[dict[str, Any]]]:
        """GEPA's adapter: what the model reads of rows."""
        rows = [{key: row[key] for key in row if key != "loss"} for row in eval_batch.trajectories]
        return dict.fromkeys(components_to_update, rows)

    def _reflect(self, prompt: Any) -> str:
        """What the model writes, for GEPA."""
        self._idle += 1
        if self._idle > IDLE:
            raise Stopped(f"nothing new: the last {IDLE} texts were known")
        self._answers += 1
        text = prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
        return str(self._wait(("write", (self._answers - 1, text))))

    def _wait(self, wanted: tuple[str, Any]) -> Any:
        """Say what is wanted, and wait for it."""
        self._out.put(wanted)
        found = self._in.get()
        if isinstance(found, BaseException):
            raise found
        return found


class Stopped(BaseException):
    """That there is nothing more to do."""


class Quiet:
    """A log that nobody reads."""

    def log(self, message: str, *args: Any, **options: Any) -> None:
        """Say nothing."""


def _check_installed() -> None:
    try:
        import gepa  # noqa: F401
    except ImportError:
        raise GfoError("optimizer 'gepa' needs the package gepa; install gfo-llm[prompts]") from None
