"""Workers on Ray are one evaluator, bit for bit, also when one of them is killed."""

from __future__ import annotations

import os
import signal
import warnings

import numpy as np
import on_workers
import psutil
import pytest
from test_workers import METHODS, PART, Z, killed_at_random, trajectory

import gfo
from gfo.evaluation.on_ray import LOOPBACK

TRIES = 3
os.environ.setdefault(LOOPBACK, "0")  # before Ray is imported
ray = pytest.importorskip("ray", reason="Ray is not installed; pip install 'gfo-llm[ray]'")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    options = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 80 * 2**20}
    options |= {"log_to_driver": False, "logging_level": "ERROR"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        for _ in range(TRIES):
            try:
                ray.init(address="local", **options)
                break
            except Exception:  # it waits for half a minute, which on a busy machine is too short
                ray.shutdown()
        else:
            pytest.skip(f"Ray did not start in {TRIES} tries of half a minute: the machine is too busy")
        assert ray.util.get_node_ip_address() == "127.0.0.1"
        yield
        ray.shutdown()


@pytest.mark.parametrize("n", [1, 2])
def test_the_history_is_that_of_one_evaluator(n):
    with gfo.Workers(on_workers.by_width, n, engine="ray", part=PART, threads=1) as workers:
        for kind, method in METHODS.items():
            domain = on_workers.space(kind).domain
            found = trajectory(workers, method, domain)
            assert found == trajectory(on_workers.local(kind, part=PART), method, domain)
        assert found != trajectory(workers, method, domain, seed=1)  # control


def actors():
    """The processes of workers that this one has."""
    return [each for each in psutil.Process().children(recursive=True) if "ray::Worker" in each.name()]


def test_a_killed_actor_is_replaced():
    with gfo.Workers(on_workers.bowl, 2, engine="ray", part=PART, threads=1) as bowls:
        before = bowls(Z, 0)
        os.kill(actors()[0].pid, signal.SIGKILL)
        for _ in range(3):
            np.testing.assert_array_equal(bowls(Z, 0).loss, before.loss)
        with pytest.raises(gfo.GfoError, match=r"^worker [01]: z: it is bad"):
            bowls(np.where(np.arange(len(Z))[:, None] == 4, on_workers.BAD, Z), 0)
        last = actors()
    _, alive = psutil.wait_procs(last, timeout=30)
    assert alive == []


@pytest.mark.stress
def test_twenty_killed_actors_change_nothing():
    def pids(workers):
        return [each.pid for each in actors() if len(workers.pool.ready) == 2]

    with gfo.Workers(on_workers.bowl, 2, engine="ray", part=PART, threads=1) as bowls:
        found, killed = killed_at_random(bowls, 20, pids, evaluations=9600)
    assert len(killed) == 20
    assert found == trajectory(on_workers.Bowl(), evaluations=9600)


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (on_workers.refuses, {}, r"worker \d: its evaluator cannot be made \(data: there are none"),
        (
            on_workers.bowl,
            {"threads": 64},
            "ray: 2 workers of 64 cores and 0 GPUs, but the cluster has 2 cores",
        ),
        (on_workers.bowl, {"gpus": 0.5, "threads": 1}, "but the cluster has 2 cores and 0 GPUs"),
    ],
)
def test_bad_input(make, options, words):
    with pytest.raises(gfo.GfoError, match=words):
        gfo.Workers(make, 2, engine="ray", **{"threads": 1, **options})
