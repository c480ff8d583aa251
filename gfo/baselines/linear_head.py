"""A linear head on frozen features: logistic regression (scikit-learn) on the hidden states that are read.

They are the last layer's, at the place where the model reads the answer: what its own head would see.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gfo.baselines.base import Searching, Setting, joined
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.core.metric import Metric
from gfo.core.protocols import Batch, Cost, Evaluation, Scores
from gfo.evaluation.layouts import ByCandidate
from gfo.evaluation.memory import chunk_tokens
from gfo.evaluation.plan import plan
from gfo.evaluation.shape import Meter, Shape
from gfo.spaces.parts.unchanged import Unchanged

GRID = (0.01, 0.1, 1.0, 10.0)  # inverse strengths of the penalty, of which dev chooses


class LinearHead(Searching):
    """A step a strength: the head fitted with it, as a point [C * (D + 1)]: each label's weights and bias.

    The point 0 gives all labels the same chance. Features are computed once for each split, and their tokens
    counted when it is first scored.

    Args:
        setting: a model and a classification.
        strengths: scikit-learn's C, the inverse strength of the penalty, for standardized features.

    Raises:
        GfoError: for a task without labels, or a label without training rows.
    """

    dev_every = 1

    def __init__(self, setting: Setting, strengths: Sequence[float]) -> None:
        self._setting = setting
        self._task = setting.task.bind(setting.model)
        self.splits = self._task.splits
        self._strengths = list(strengths)
        batch = self._task.all_rows("train")
        words = getattr(self._task, "words", {})
        if not isinstance(batch, Batch) or batch.vocabulary is None or not words:
            raise GfoError("baseline 'linear-head' tells labels apart; give it a gfo.Classification")
        self._sizes = [1 if isinstance(some, str) else len(some) for some in words.values()]
        self._labels = len(self._sizes)
        if len(np.unique(batch.target)) < self._labels:
            raise GfoError(
                "baseline 'linear-head': a label has no training row; give it one, or leave the label out"
            )
        self._most_tokens = chunk_tokens(setting.model, setting.memory)
        self._features: dict[str, Array] = {}
        self._unpaid: dict[str, Cost] = {}
        size = self._labels * (self.features("train").shape[1] + 1)
        self.domain = Domain.unbounded(size)
        self.facts = {"d": size}
        self._tried: list[Array] = []

    def ask(self) -> Array:
        """The head with the next strength, [1, d]."""
        batch = self._task.all_rows("train")
        assert isinstance(batch, Batch)
        C = self._strengths[min(len(self._tried), len(self._strengths) - 1)]
        fitted = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=10_000))
        fitted.fit(self.features("train"), batch.target)
        scaler, regression = fitted[0], fitted[1]
        W, b = regression.coef_ / scaler.scale_, regression.intercept_
        b = b - W @ scaler.mean_
        if len(W) == 1:  # of two labels, scikit-learn gives the second's odds
            W, b = np.stack([-W[0] / 2, W[0] / 2]), np.array([-b[0] / 2, b[0] / 2])
        return np.column_stack([W, b]).reshape(1, -1)

    def tell(self, z: Array, loss: Array) -> None:
        """The next strength is next."""
        self._tried.append(z[0].copy())

    def recommend(self) -> Array:
        """The head of the strength tried last, [d]."""
        return self._tried[-1] if self._tried else np.zeros(self.domain.d)

    def should_stop(self) -> str | None:
        """All strengths have been tried."""
        return "all strengths tried" if len(self._tried) >= len(self._strengths) else None

    def state_dict(self) -> dict[str, Any]:
        """The heads tried."""
        return {"tried": list(self._tried)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called."""
        self._tried = list(state["tried"])

    def settings(self) -> dict[str, int]:
        """What the memory decided, and with it how features are rounded."""
        return {"tokens_at_once": self._most_tokens}

    def use(self, settings: Mapping[str, int]) -> None:
        """Decide as another one did."""
        if settings["tokens_at_once"] != self._most_tokens:
            self._most_tokens = settings["tokens_at_once"]
            self._features.clear()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What `score` gives: the task's."""
        return self._task.metrics

    def __call__(self, z: Array, step: int) -> Evaluation:
        """Losses [K] on all training rows."""
        scores = self.score(z, "train")
        return Evaluation(scores.metrics["loss"], scores.cost)

    def score(self, z: Array, split: str) -> Scores:
        """Metrics of z [K, d] on a split."""
        start = time.perf_counter()
        x, batch = self.features(split), self._task.all_rows(split)
        found = []
        for point in z:
            head = point.reshape(self._labels, -1)
            labels = np.repeat(x @ head[:, :-1].T + head[:, -1], self._sizes, axis=1)  # of each word
            logits = torch.from_numpy(labels).float()[None]  # (1, B, words)
            found.append(Scores(self._task.score(logits, batch)))
        paid = self._unpaid.pop(split, Cost())
        cost = Cost(len(z), paid.forward_tokens, paid.tokens_needed, time.perf_counter() - start)
        return Scores(joined(found).metrics, cost)

    @torch.no_grad()
    def features(self, split: str) -> Array:
        """The hidden states read, float64 [B, D], computed when first asked for."""
        if split not in self._features:
            model, batch = self._setting.model, self._task.all_rows(split)
            assert isinstance(batch, Batch)
            delta = Unchanged(model).decode(torch.zeros(1, 1)).to(model.device, model.dtype)
            todo = plan(batch, 0, everywhere=True, contexts=model.contexts)
            meter = Meter(model.layers)
            layout = ByCandidate(model, todo, Shape.of(delta, model), self._most_tokens, meter)
            rows: dict[int, Array] = {}
            for _, i, hidden in layout(delta, meter):  # hidden (1, rows, D)
                rows |= zip(layout.groups[i], hidden[0].double().cpu().numpy(), strict=True)
            self._features[split] = np.stack([rows[i] for i in range(len(batch))])
            self._unpaid[split] = meter.cost(0, time.perf_counter())
        return self._features[split]


def linear_head(setting: Setting, *, strengths: Sequence[float] = GRID) -> LinearHead:
    """Logistic regression with each strength, of which dev chooses; without dev the last one counts.

    Args:
        strengths: scikit-learn's C, the inverse strength of the penalty, for standardized features.
    """
    if not strengths or not all(np.isfinite(s) and s > 0 for s in strengths):
        raise GfoError(f"baseline: strengths = {list(strengths)} must be positive numbers")
    return LinearHead(setting, strengths)
