"""Any number of workers is one evaluator, bit for bit, whoever is late or dies."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import on_workers
import psutil
import pytest

import gfo
from gfo.testing import check_evaluator

PART = 3
Z = np.random.default_rng(0).standard_normal((10, on_workers.D))
METHODS = {"soft prompt": "snes", "lora": "cma", "structure": "ga"}
HERE = Path(__file__).parent


@pytest.fixture(scope="module", params=[1, 2, 3])
def workers(request):
    with gfo.Workers(on_workers.by_width, request.param, part=PART, threads=1) as found:
        yield found


@pytest.fixture(scope="module")
def bowls():
    with gfo.Workers(on_workers.bowl, 2, part=PART, threads=1) as found:
        yield found


def trajectory(evaluator, method="snes", domain=None, seed=0, evaluations=40, **options):
    """The history without times, and the result."""
    domain = gfo.Domain.unbounded(on_workers.D) if domain is None else domain
    made = gfo.optimizers.make(method, domain=domain, seed=seed, population=8)
    budget = gfo.Budget(evaluations=evaluations)
    result = gfo.minimize(made, evaluator, budget=budget, dev_every=3, **options)
    return result.history.trajectory(), result.z.tolist()


@pytest.mark.parametrize("kind", METHODS)
def test_the_history_is_that_of_one_evaluator(workers, kind):
    domain = on_workers.space(kind).domain
    found = trajectory(workers, METHODS[kind], domain)
    assert found == trajectory(on_workers.local(kind, part=PART), METHODS[kind], domain)
    assert found != trajectory(workers, METHODS[kind], domain, seed=1)


def test_parts_are_seen_in_the_last_bits():
    """The control: what all candidates at once get is not what parts get, but for rounding."""
    z = np.random.default_rng(1).standard_normal((11, on_workers.WIDTHS["soft prompt"]))
    whole, parts = on_workers.local("soft prompt")(z, 0), on_workers.local("soft prompt", part=1)(z, 0)
    assert not np.array_equal(whole.loss, parts.loss)
    np.testing.assert_allclose(whole.loss, parts.loss, rtol=1e-5)
    np.testing.assert_array_equal(parts.rows.mean(axis=1), parts.loss)
    assert parts.cost.candidates == 11


def test_rows_values_and_scores_come_along(bowls):
    one = on_workers.bowl()
    found, expected = bowls(Z, 0), one(Z, 0)
    np.testing.assert_array_equal(found.loss, expected.loss)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.values["size"], expected.values["size"])
    assert found.cost == expected.cost
    scored = bowls.score(Z, "dev")
    np.testing.assert_array_equal(scored.metrics["near"], one.score(Z, "dev").metrics["near"])
    assert scored.rows["loss"].shape == (len(Z), 2)
    assert bowls.metrics == one.metrics


def test_they_pass_the_contract(bowls):
    check_evaluator(lambda: bowls, Z, splits=("train", "dev"))


def ready_pids(workers):
    """The processes of workers that are made."""
    pids = workers.engine.pids
    return [pids[worker] for worker in list(workers.pool.ready) if worker in pids]


def killed_at_random(workers, kills, pids=ready_pids, **run):
    """A run in which workers are killed, and those that were."""
    rng, done, ended = random.Random(0), [], threading.Event()

    def kill():
        while len(done) < kills and not ended.wait(rng.uniform(0.05, 0.3)):
            alive = [pid for pid in pids(workers) if pid not in done]
            if alive:
                done.append(rng.choice(alive))
                os.kill(done[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        found = trajectory(workers, **run)
    finally:
        ended.set()
        thread.join()
    return found, done


@pytest.mark.parametrize(
    ("kills", "evaluations"), [(4, 400), pytest.param(20, 2400, marks=pytest.mark.stress)]
)
def test_killed_workers_change_nothing(bowls, kills, evaluations):
    found, killed = killed_at_random(bowls, kills, evaluations=evaluations)
    assert len(killed) == kills
    assert found == trajectory(on_workers.Bowl(), evaluations=evaluations)


@pytest.mark.stress
def test_killed_workers_of_a_model_change_nothing():
    """Nor its tokens, though each new worker computes again what candidates share."""

    def pids(workers):
        return ready_pids(workers) if len(workers.pool.ready) == 2 else []

    with gfo.Workers(on_workers.soft_prompt, 2, part=PART, threads=1) as workers:
        run = {"domain": on_workers.space("soft prompt").domain, "evaluations": 16_000}
        found, killed = killed_at_random(workers, 20, pids, **run)
    assert len(killed) > 3  # as many as there was time for
    assert found == trajectory(on_workers.local("soft prompt", part=PART), **run)


def test_a_worker_that_hangs_does_not_stop_a_run(monkeypatch, tmp_path):
    """Its part is given to another one; it would take an hour."""
    monkeypatch.setenv(on_workers.MARK, str(tmp_path / "mark"))
    monkeypatch.setenv(on_workers.SECONDS, "3600")
    with gfo.Workers(on_workers.uneven, 2, part=1, threads=1) as uneven:
        uneven(Z[:6], 0)
        while len(uneven.pool.ready) < 2:
            uneven(Z[:1], 0)
        found = trajectory(uneven, evaluations=24)
    assert (tmp_path / "mark").exists()
    assert found == trajectory(on_workers.Bowl(), evaluations=24)


@pytest.mark.parametrize("call", ["step", "score"])
def test_a_worker_that_hangs_on_the_very_first_message_does_not_stop_a_run(monkeypatch, call):
    """No time is usual yet, and none of the other worker's comes."""
    monkeypatch.setattr("gfo.evaluation.pool.FIRST_SECONDS", 0.5)
    monkeypatch.setenv(on_workers.SECONDS, "1.0")
    z = Z[:1].copy()
    z[0, 0] = on_workers.ERROR  # so that it is said who did it
    with gfo.Workers(on_workers.hangs, 2, threads=1) as two:
        assert list(two.pool.ready) == [0]
        with pytest.raises(Exception, match=r"^worker 1: ArithmeticError: too deep$"):
            two(z, 0) if call == "step" else two.score(z, "train")


@pytest.mark.parametrize(
    ("first", "error", "words"),
    [
        (on_workers.ERROR, Exception, r"^worker [01]: ArithmeticError: too deep$"),
        (on_workers.BAD, gfo.GfoError, r"^worker [01]: z: it is bad; give another$"),
        (
            on_workers.DEADLY,
            Exception,
            r"^worker [01]: died, as 2 others did over the same .*-9\)$",
        ),
    ],
)
def test_errors_come_as_one_line(bowls, first, error, words):
    z = Z.copy()
    z[4, 0] = first
    with pytest.raises(error, match=words):
        bowls(z, 0)
    np.testing.assert_array_equal(bowls(Z, 0).loss, on_workers.Bowl()(Z, 0).loss)


class OnePoint:
    """An optimizer of one step, with one bad point."""

    domain = gfo.Domain.unbounded(on_workers.D)

    def ask(self):
        z = Z[:5].copy()
        z[3, 0] = on_workers.ERROR
        return z

    def tell(self, z, loss):
        self.loss = loss

    def recommend(self):
        return Z[0]

    def should_stop(self):
        return "enough"

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_a_failed_candidate_is_a_nan(bowls):
    optimizer = OnePoint()
    with pytest.warns(gfo.GfoWarning, match=r"candidate 3 failed .*worker [01]: ArithmeticError: too deep"):
        gfo.minimize(optimizer, bowls, budget=gfo.Budget(evaluations=5))
    assert np.isnan(optimizer.loss).tolist() == [False, False, False, True, False]


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (
            lambda: on_workers.Bowl(),
            {},
            "cannot be sent to another process .*a function that stands in a module",
        ),
        (on_workers.refuses, {}, r"worker \d: its evaluator cannot be made \(data: there are none"),
        (on_workers.no_evaluator, {}, "gave a int"),
        (on_workers.dies, {}, r"died while it was made, as 2 before it \(exit code -9\)"),
        ("none.toml", {}, "cannot read .*none.toml"),
        (on_workers.bowl, {"n": 0}, "n = 0 must be at least 1"),
        (on_workers.bowl, {"part": 0}, "part = 0 must be at least 1"),
        (on_workers.bowl, {"threads": -1}, "threads = -1 must be"),
        (on_workers.bowl, {"gpus": -0.5}, "gpus = -0.5 must be"),
        (on_workers.bowl, {"gpus": 400}, r"gpus = 400: 2 workers need more than the \d+ GPUs"),
        (on_workers.bowl, {"engine": "rays"}, "engine = 'rays'"),
        (on_workers.bowl, {"address": "auto"}, "address = auto: it is of Ray's cluster"),
    ],
)
def test_bad_input(make, options, words):
    with pytest.raises(gfo.GfoError, match=words) as caught:
        gfo.Workers(make, **{"n": 2, **options})
    assert len(str(caught.value).splitlines()) == 1


def test_racing_is_refused():
    with pytest.raises(gfo.GfoError, match="part = 3: racing compares all"):
        on_workers.local("soft prompt", part=3, racing=gfo.Racing())


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import gfo
import on_workers

if __name__ == "__main__":
    workers = gfo.Workers(on_workers.bowl, 2, threads=1)
    class Says(gfo.Callback):
        def step(self, run):
            if len(run.history) == 1:
                print(*workers.engine.pids.values(), flush=True)

    domain = gfo.Domain.unbounded(on_workers.D)
    optimizer = gfo.optimizers.make("snes", domain=domain, seed=0)
    result = gfo.minimize(optimizer, workers, budget=gfo.Budget(seconds=600.0), callbacks=[Says()])
    print(result.stopped, flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_run(tmp_path, how):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run = subprocess.Popen(
        [sys.executable, script, HERE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    pids = [int(pid) for pid in run.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(psutil.pid_exists, pids))
    if how == signal.SIGINT:
        os.killpg(run.pid, how)  # as a terminal does
    else:
        os.kill(run.pid, how)
    said, errors = run.communicate(timeout=120)
    assert said.strip() == ("" if how == signal.SIGKILL else "interrupted")
    assert errors == ""
    _, alive = psutil.wait_procs([p for p in map(process_of, pids) if p], timeout=20)
    assert alive == []


def process_of(pid):
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


@pytest.mark.parametrize("n", [1, 3])
def test_tune_and_resume_with_other_workers(n, tmp_path):
    """Begun with n workers, to the end with two, as one evaluator did."""
    model, task, space = on_workers.model(), on_workers.task(), on_workers.space("soft prompt")
    options = {"optimizer": "snes", "progress": False, "dev_every": 2}

    def tune(evaluations, **more):
        return gfo.tune(model, task, space, budget=gfo.Budget(evaluations=evaluations), **options, **more)

    with gfo.Workers(on_workers.soft_prompt, n, part=PART, threads=1) as workers:
        tune(30, evaluator=workers, out=tmp_path / "run")
    with gfo.Workers(on_workers.soft_prompt, 2, part=8, threads=1) as others:
        result = tune(90, evaluator=others, out=tmp_path / "run", resume=True)
        scored = result.score("dev")
    domain = space.domain
    made = gfo.optimizers.make("snes", domain=domain, seed=gfo_seed())
    local = on_workers.local("soft prompt", part=PART)
    expected = gfo.minimize(made, local, budget=gfo.Budget(evaluations=90), dev_every=2)
    assert result.history.trajectory() == expected.history.trajectory()
    points = np.stack([0 * result.z, result.z])
    assert scored["loss"] == local.score(points, "dev").metrics["loss"][1]
    result.export_peft(tmp_path / "peft")
    assert (tmp_path / "peft" / "adapter_config.json").exists()


def gfo_seed():
    from gfo.core.seeding import stream_seed

    return stream_seed(0, "optimizer")


def test_tune_refuses_another_space(workers):
    space = gfo.SoftPrompt(on_workers.model(), tokens=2, dim=5)

    other = on_workers.Bowl()
    other.of = {"space": "another"}
    with pytest.raises(gfo.GfoError, match="evaluator: its space is another, not"):
        gfo.tune(
            on_workers.model(), on_workers.task(), space, evaluator=other, budget=gfo.Budget(evaluations=9)
        )
