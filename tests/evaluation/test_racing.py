"""Racing: who leaves, what is told, and that those who stay get what they would without a race."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

import gfo
from gfo.evaluation.racing import of_rows, parts
from gfo.testing import tiny_model

WORDS, NOUNS = ("a good", "a bad", "no", "the"), ("film", "joy", "day", "end")
TEXTS = [f"{word} {noun}" for word in WORDS for noun in NOUNS]
ROWS = [{"text": text, "label": "good" if i % 3 else "bad"} for i, text in enumerate(TEXTS)]
LABELS = {"bad": " bad", "good": " good"}
DIM = 5


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def task(rows=ROWS, **options):
    return gfo.Classification(rows, template="{text} It was", labels=LABELS, **options)


def space(model):
    return gfo.LoRASubspace(model, dim=DIM, rank=2, alpha=1.0)


def by_hand(losses, racing):
    """The same, candidate by candidate; (told, numbers of rows)."""
    K, B = losses.shape
    order = np.concatenate(parts(B, racing.first, racing.block, racing.seed))
    seen, left = np.full(K, B), set()
    for n in range(racing.first, B, racing.block):
        running = [k for k in range(K) if k not in left]
        mean = {k: losses[k, order[:n]].mean() for k in running}
        leader = min(running, key=lambda k: mean[k])
        for k in sorted(running, key=lambda k: -mean[k])[: max(0, len(running) - racing.survivors)]:
            difference = losses[k, order[:n]] - losses[leader, order[:n]]
            error = difference.std(ddof=1) * np.sqrt((B - n) / (B * n))
            if t(n - 1).sf(difference.mean() / error) < racing.p:
                left.add(k)
                seen[k] = n
    finished = [k for k in range(K) if k not in left]
    best = min(finished, key=lambda k: losses[k].mean())
    told = [
        losses[k].mean()
        if k in finished
        else max(
            losses[best].mean() + (losses[k] - losses[best])[order[: seen[k]]].mean(),
            np.nextafter(losses[best].mean(), np.inf),
        )
        for k in range(K)
    ]
    return np.array(told), seen


def race(losses, racing):
    return racing.race(*losses.shape, lambda candidates, rows: losses[np.ix_(candidates, rows)])


@pytest.mark.parametrize("racing", [gfo.Racing(), gfo.Racing(block=3, first=5, p=0.3, survivors=2, seed=7)])
def test_it_is_what_the_test_says_by_hand(racing):
    rng = np.random.default_rng(0)
    early = 0
    for _ in range(20):
        losses = rng.normal(size=(9, 1)) + rng.normal(size=(1, 30)) + rng.normal(size=(9, 30))
        told, rows = race(losses, racing)
        wanted, seen = by_hand(losses, racing)
        np.testing.assert_allclose(told, wanted, rtol=1e-12)
        np.testing.assert_array_equal(np.isfinite(rows).sum(axis=1), seen)
        np.testing.assert_array_equal(rows[np.isfinite(rows)], losses[np.isfinite(rows)])
        assert (seen == 30).sum() >= racing.survivors
        early += (seen < 30).sum()
    assert early > 20


def test_equal_candidates_stay_and_few_are_not_raced():
    rng = np.random.default_rng(1)
    same = np.repeat(rng.normal(size=(1, 40)), 8, axis=0)
    assert np.isfinite(race(same, gfo.Racing())[1]).all()
    apart = np.arange(4)[:, None] * 10 + rng.normal(size=(4, 40))
    assert np.isfinite(race(apart, gfo.Racing())[1]).all()  # four survive
    assert not np.isfinite(race(apart, gfo.Racing(survivors=3))[1]).all()


def test_a_failed_candidate_is_nan_and_none_has_all_rows_the_others_their_own_mean():
    losses = np.arange(6)[:, None] + np.random.default_rng(2).normal(size=(6, 20))
    losses[0, 11] = np.nan  # would lead
    told, _ = race(losses, gfo.Racing(survivors=2))
    assert np.isnan(told[0])
    assert np.isfinite(told[1:]).all()
    assert told[1] == losses[1].mean()
    at_last = np.arange(6)[:, None] + np.zeros((6, 20))
    at_last[:2, parts(20, 8, 4, 0)[-1]] = np.nan
    told, _ = race(at_last, gfo.Racing(survivors=2))
    assert np.isnan(told[:2]).all()
    np.testing.assert_allclose(told[2:], [2, 3, 4, 5])
    assert np.isnan(race(np.full((6, 20), np.nan), gfo.Racing())[0]).all()


def test_the_best_survives_and_rows_are_saved():
    """Of populations whose best is apart from the others by a share of the rows' noise, in 200 orders."""
    rng, kept, cost = np.random.default_rng(3), [], []
    for seed in range(200):
        losses = 0.3 * rng.normal(size=(16, 1)) + rng.normal(size=(1, 64)) + 0.5 * rng.normal(size=(16, 64))
        _, rows = race(losses, gfo.Racing(seed=seed))
        kept.append(np.isfinite(rows[losses.mean(axis=1).argmin()]).all())
        cost.append(np.isfinite(rows).mean())
    assert np.mean(kept) >= 0.95
    assert np.mean(cost) <= 0.65


def test_those_who_stay_get_what_they_would_without(model):
    z = 3 * np.random.default_rng(4).standard_normal((10, DIM))
    plain = gfo.LocalEvaluator(model, task(), space(model))(z, 0)
    raced = gfo.LocalEvaluator(
        model, task(), space(model), racing=gfo.Racing(block=4, first=4, p=0.1, survivors=2)
    )(z, 0)
    full = raced.values["rows"] == len(ROWS)
    assert 2 <= full.sum() < 10
    np.testing.assert_allclose(raced.loss[full], plain.loss[full], rtol=1e-5)
    seen = np.isfinite(raced.rows)
    np.testing.assert_allclose(raced.rows[seen], plain.rows[seen], rtol=1e-4, atol=1e-6)
    assert raced.loss[~full].min() > raced.loss[full].min()
    assert raced.cost.tokens_needed < plain.cost.tokens_needed
    assert raced.loss.argmin() == plain.loss.argmin()


def test_parts_of_a_batch_have_its_rows_losses(model):
    """Of windows, whose losses are of all windows' tokens."""
    documents = gfo.LanguageModeling([{"text": text * n} for n, text in enumerate(TEXTS[:6], 1)], window=8)
    evaluator = gfo.LocalEvaluator(model, documents, space(model))
    z = np.random.default_rng(5).standard_normal((3, DIM))
    batch = evaluator.task.batch("train", 0)
    whole = evaluator.task.row_losses(evaluator.answers(z, batch), batch)
    some = of_rows(batch, np.array([4, 1]))
    part = evaluator.task.row_losses(evaluator.answers(z, some), some)
    np.testing.assert_allclose(part, whole[:, [4, 1]], rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["ga", "openai-es"])
def test_a_resumed_race_is_the_uninterrupted_one(model, tmp_path, optimizer):
    def run(out, steps, **options):
        return gfo.tune(
            model,
            task(batch_size=12),
            space(model),
            optimizer=optimizer,
            options={"population": 8},
            budget=gfo.Budget(evaluations=8 * steps),
            racing=gfo.Racing(block=4, first=4, p=0.1, survivors=2),
            progress=False,
            out=out,
            **options,
        )

    whole = run(tmp_path / "whole", 6)
    run(tmp_path / "parts", 3)
    again = run(tmp_path / "parts", 6, resume=True)
    assert [step.loss for step in again.history] == [step.loss for step in whole.history]
    assert [step.values for step in again.history] == [step.values for step in whole.history]
    assert any(n < 12 for step in whole.history for n in step.values["rows"])
    with pytest.raises(gfo.GfoError, match="racing"):
        gfo.tune(
            model,
            task(batch_size=12),
            space(model),
            optimizer=optimizer,
            options={"population": 8},
            budget=gfo.Budget(evaluations=64),
            progress=False,
            out=tmp_path / "parts",
            resume=True,
        )


def test_what_cannot_race_is_told(model):
    for name, value in (("block", 0), ("first", 0), ("survivors", 0), ("p", 0.0), ("p", 1.0)):
        with pytest.raises(gfo.GfoError, match=f"racing: {name} = {value} must be"):
            gfo.Racing(**{name: value})
    by_macro = gfo.LocalEvaluator(model, task(loss="macro_f1"), space(model), racing=gfo.Racing())
    with pytest.raises(gfo.GfoError, match="racing: the loss of Classification is no mean over rows"):
        by_macro(np.zeros((4, DIM)), 0)
