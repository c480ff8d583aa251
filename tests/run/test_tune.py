"""`gfo.tune` on a tiny model: it learns, repeats itself, leaves the weights alone."""

import contextlib
import ctypes
import gc

import numpy as np
import pytest
import torch

import gfo
from gfo.run.callbacks import Callback


def rows(end):
    return [{"text": "the food was good " * n + end, "label": "a" if n % 2 else "b"} for n in range(1, 9)]


ROWS = rows("")
TASK = {"template": "Review: {text}\n{soft}Sentiment:", "labels": {"a": "good", "b": "bad"}}


@pytest.fixture
def pieces(tiny):
    model = tiny("llama")
    task = gfo.Classification(ROWS[:6], rows("bad"), rows("great"), **TASK)
    return model, task, gfo.SoftPrompt(model, tokens=3, dim=10, alpha=2.0)


def run(pieces, seed=0, evaluations=60, **options):
    budget = gfo.Budget(evaluations=evaluations)
    return gfo.tune(*pieces, budget=budget, seed=seed, progress=False, **options)


def test_lowers_the_loss_and_reports_before_and_after(pieces, tmp_path):
    result = run(pieces, evaluations=300, out=tmp_path / "run", dev_every=2)
    losses = [step.mean_loss for step in result.history]
    assert losses[-1] < 0.95 * losses[0]  # 0.4 ± 0.18 over seeds
    after = result.score("test")
    assert after == result.scores["after"]["test"]
    assert set(after) == {"loss", "accuracy", "macro_f1"}
    start = result.evaluator.score(np.zeros((1, 10)), "test").metrics
    assert result.scores["before"]["test"]["loss"] == pytest.approx(start["loss"][0], abs=1e-5)
    dev = [step.dev for step in result.history if step.dev]
    assert (
        result.evaluator.score(result.z[None], "dev").metrics["loss"][0] <= min(d["loss"] for d in dev) + 1e-5
    )


def test_same_seed_same_history_other_seed_another(pieces):
    first, again, other = (run(pieces, seed).history.trajectory() for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_weights_are_untouched(pieces):
    model = pieces[0]
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    run(pieces)
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in model.module.parameters())


def test_an_optimizer_of_the_users_own(pieces):
    class Halton:
        """The least that the protocol asks for."""

        def __init__(self, domain):
            self.domain, self.best, self.n = domain, (np.inf, np.zeros(domain.d)), 0

        def ask(self):
            self.n += 1
            return np.random.default_rng(self.n).standard_normal((5, self.domain.d))

        def tell(self, z, loss):
            i = int(np.nanargmin(loss))
            self.best = min(self.best, (float(loss[i]), z[i].copy()), key=lambda pair: pair[0])

        def recommend(self):
            return self.best[1]

        def should_stop(self):
            return None

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    result = run(pieces, optimizer=Halton(pieces[2].domain), dev_every=100)
    assert result.cost.candidates == 60
    assert result.record["optimizer"] == "Halton"


def test_unknown_optimizer_suggests_the_nearest(pieces):
    with pytest.raises(gfo.GfoError, match="unknown optimizer 'cmaa': did you mean 'cma'"):
        run(pieces, optimizer="cmaa")


def test_options_reach_the_optimizer(pieces):
    assert len(run(pieces, options={"population": 15}).history[0].loss) == 15


def test_a_task_without_dev_takes_the_last_recommendation(pieces):
    model, _, space = pieces
    result = run((model, gfo.Classification(ROWS, **TASK), space))
    assert result.selection == "the last recommendation"
    with pytest.raises(gfo.GfoError, match="split 'test'"):
        result.score("test")


class Seen(Callback):
    def __init__(self):
        self.lines = []

    def step(self, run):
        from gfo.run.progress import describe

        self.lines.append(describe(run))


def test_progress_says_what_people_look_for(pieces, capfd):
    seen = Seen()
    gfo.tune(*pieces, budget=gfo.Budget(evaluations=60), dev_every=1, callbacks=[seen], progress=True)
    assert "evaluations" in seen.lines[0]
    assert "/s" in seen.lines[0]
    assert "best loss" in seen.lines[0]
    assert "dev accuracy" in seen.lines[0]
    assert capfd.readouterr().out == ""  # progress never mixes with output


def test_peak_memory_is_of_the_run(pieces):
    """A callback's 200 MB count, also when they are given back before the end; those of before do not."""

    class Takes(Callback):
        def __init__(self, size):
            self.size = size

        def step(self, run):
            np.ones(self.size)  # bytes are touched, then freed

    def growth(size):
        gc.collect()  # what a run before left would be given back within
        with contextlib.suppress(OSError, AttributeError):  # of another C library
            ctypes.CDLL(None).malloc_trim(0)
        memory = run(pieces, callbacks=[Takes(size // 8)]).record["memory"]
        assert memory["device"] == "cpu"
        if memory["whole_process"]:
            pytest.skip("this system does not reset its highest mark")
        return memory["peak_bytes"] - memory["start_bytes"]

    large, small = growth(200_000_000), growth(0)
    assert 190e6 < large < 300e6
    assert small < 100e6
