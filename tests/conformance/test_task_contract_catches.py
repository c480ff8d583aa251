"""The contract of a task sees what is wrong: each broken one fails the check it should."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import gfo
from gfo.core.metric import LOSS, Metric
from gfo.tasks.classification import BoundClassification
from gfo.testing import check_task

LABELS = {"bad": " bad", "good": " good"}
WORDS = ("good", "bad", "great", "terrible", "short")
ROWS = [{"text": f"the food was {word}", "label": ("good", "bad")[i % 2]} for i, word in enumerate(WORDS)]
DEV = [{"text": f"the service was {word}", "label": ("bad", "good")[i % 2]} for i, word in enumerate(WORDS)]


class Bound(BoundClassification):
    """As it should be; tests break a method."""


def broken(named="ce", **methods):
    """A classification one of whose bound methods is another."""

    class Broken(gfo.Classification):
        def bind(self, tokenizer):
            return type("Broken", (Bound,), methods)(self, tokenizer)

    return Broken(ROWS, DEV, template="{text}{soft} It was", labels=LABELS, batch_size=3, loss=named)


def split_typo(self, split, step):
    return Bound.batch(self, split if split in self.splits else "train", step)


def split_bare(self, split):
    return {name: Bound.all_rows(self, name) for name in self.splits}[split]


def drawn(self, split, step):
    self._check(split)
    return self._rows(split, np.sort(np.random.default_rng().permutation(5)[:3]), recurs=False)


def globally_drawn(self, split, step):
    torch.rand(1)
    return Bound.batch(self, split, step)


def one_key(self, split, step):
    return dataclasses.replace(Bound.batch(self, split, step), key=("mine",))


def new_key(self, split, step):
    batch = Bound.all_rows(self, split) if split == "train" else Bound.batch(self, split, step)
    return dataclasses.replace(batch, key=(*batch.key, step))


def changed(name, change):
    """The method with its result changed."""
    method = getattr(Bound, name)
    return {name: lambda self, answers, batch: change(method(self, answers, batch))}


def sorted_loss(self, answers, batch):
    return Bound.loss(self, answers, batch).sort().values


def relative_loss(self, answers, batch):
    loss = Bound.loss(self, answers, batch)
    return loss - loss.mean()


def relative(self, answers, batch):
    """Loss and score alike, so that only one by one they differ."""
    found = Bound.score(self, answers, batch)
    return {**found, "loss": found["loss"] - np.nanmean(found["loss"])}


def forgiving(self, answers, batch):
    return Bound.score(self, answers.nan_to_num(), batch)


def writes(self, answers, batch):
    loss = Bound.loss(self, answers, batch)
    answers.mul_(2)
    return loss


def upside_down(self, answers, batch):
    """Loss is minimised, and the metric is that of the other label."""
    found = Bound.score(self, answers, batch)
    return {**found, "accuracy": 1 - found["accuracy"]}


def inverted_rows(self, answers, batch):
    found = Bound.row_scores(self, answers, batch)
    return {**found, "accuracy": 1 - found["accuracy"]}


CASES = {
    "another split is refused": ({"batch": split_typo}, "unknown split must raise GfoError, gives a batch"),
    "... in gfo's words": ({"all_rows": split_bare}, "must raise GfoError, raises KeyError"),
    "... train first": ({"splits": ("dev", "train")}, None),
    "same step, same batch": ({"batch": drawn}, "batch of train must be the same each time"),
    "global generators": ({"batch": globally_drawn}, "global generator of torch"),
    "equal keys": ({"batch": one_key}, "equal keys must mean equal contents"),
    "equal contents": ({"batch": new_key}, "batches of equal contents that recur must have equal keys"),
    "loss first": ({"metrics": (Metric("accuracy", form="share"), LOSS)}, "metrics must begin with 'loss'"),
    "metrics are told": (
        changed("score", lambda found: {**found, "recall": found["accuracy"]}),
        "score gives recall, which metrics do not have",
    ),
    "metrics are there": (
        changed("score", lambda found: {k: v for k, v in found.items() if k != "macro_f1"}),
        "metrics have macro_f1, which score gives for no split",
    ),
    "float64": (
        changed("score", lambda found: {k: v.astype(np.float32) for k, v in found.items()}),
        "score must give float64 arrays",
    ),
    "loss [K]": (changed("loss", lambda loss: loss.sum()[None]), r"loss must have the shape \(4,\)"),
    "finite": (changed("loss", lambda loss: loss / 0), "loss must be finite for finite answers"),
    "loss is scored": (changed("loss", lambda loss: 2 * loss), r"score\['loss'\] of the same rows"),
    "answers stay": ({"loss": writes}, "must not change the answers"),
    "order": ({"loss": sorted_loss}, r"score\['loss'\] of the same rows"),
    "alone": ({"score": relative, "loss": relative_loss}, "of K candidates must be that of each alone"),
    "failed": ({"score": forgiving}, "of a failed candidate must be nan"),
    "rows' means": ({"row_scores": inverted_rows}, "the rows' mean of 'accuracy'"),
    "rows' names": (
        changed("row_scores", lambda rows: {**rows, "recall": rows["loss"]}),
        "row_scores gives 'recall'",
    ),
    "rows' shape": (
        changed("row_scores", lambda rows: {"loss": rows["loss"].mean(1, keepdims=True)}),
        "must have the shape",
    ),
    "rows' losses": (changed("row_losses", lambda rows: rows + 1e-9), "row_losses must be the 'loss'"),
    "... left out": ({"row_losses": lambda self, answers, batch: None}, "row_losses must be the 'loss'"),
    "gradient": (changed("loss", torch.Tensor.detach), "a loss that is a tensor must have a gradient"),
    "metric's direction": (
        {
            "score": upside_down,
            "row_scores": changed("row_scores", lambda rows: {"loss": rows["loss"]})["row_scores"],
        },
        "must not score worse: accuracy, of which the highest is best",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_broken_task_is_seen(tiny, name):
    methods, sentence = CASES[name]
    methods = dict(methods)
    if "splits" in methods:
        splits = methods.pop("splits")
        methods["splits"] = property(lambda self: splits, lambda self, value: None)
        sentence = "splits must begin with 'train'"
    with pytest.raises(AssertionError, match=sentence):
        check_task(broken(**methods), tiny("llama"))


def test_the_task_that_is_broken_is_whole(tiny):
    """The control; and right answers that are not right are seen."""
    check_task(broken(), tiny("llama"))
    check_task(broken(named="accuracy"), tiny("llama"))

    def labelled(batch, flip):
        return torch.eye(2)[torch.as_tensor(abs(flip - batch.target))][None]

    check_task(broken(named="accuracy"), tiny("llama"), right=lambda batch: labelled(batch, 0))
    with pytest.raises(AssertionError, match="right answers must not score worse: loss"):
        check_task(broken(named="accuracy"), tiny("llama"), right=lambda batch: labelled(batch, 1))
