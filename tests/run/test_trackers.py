"""Trackers in their offline modes: what is read back is the history's; without them a line says so."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest

import gfo
from gfo.run.trackers import scalars

TRACKERS = ("wandb", "mlflow", "trackio", "tensorboard")
HAS = {name: importlib.util.find_spec(name) is not None for name in TRACKERS}


def needs(name):
    return pytest.mark.skipif(not HAS[name], reason="an extra")


def run(callback, evaluations=40):
    optimizer = gfo.optimizers.make("snes", domain=gfo.Domain.unbounded(3), seed=0, population=8)

    def sphere(z):
        return ((z - 1) ** 2).sum(axis=1)

    return gfo.minimize(optimizer, sphere, budget=gfo.Budget(evaluations=evaluations), callbacks=[callback])


def expected(result, name):
    return [scalars(step)[name] for step in result.history]


NAMES = ("train/mean_loss", "train/best", "search/spread", "cost/forward_tokens")


@needs("tensorboard")
def test_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run(gfo.TensorBoard(tmp_path / "log"))
    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    for name in NAMES:
        found = events.Scalars(name)
        assert [event.step for event in found] == [step.evaluations for step in result.history]
        np.testing.assert_allclose([event.value for event in found], expected(result, name), rtol=1e-6)


def leveldb_log(data):
    """The records of LevelDB's log format: blocks of 32 KiB, the first here 7 bytes shorter."""
    position, record = 7, b""
    while position <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        at = position - 7
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


@needs("wandb")
def test_wandb_offline(tmp_path):
    from wandb.proto import wandb_internal_pb2

    result = run(gfo.WandB("gfo-test", mode="offline", folder=tmp_path))
    [file] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    rows, config = [], {}
    for data in leveldb_log(file.read_bytes()[7:]):  # behind its own header
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.history.item:
            items = record.history.item
            rows.append(
                {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            )
        for update in (record.run.config.update, record.config.update):
            config |= {item.key: json.loads(item.value_json) for item in update}
    assert [row["_step"] for row in rows] == [step.evaluations for step in result.history]
    for name in NAMES:
        assert [row[name] for row in rows] == expected(result, name)
    assert (config["optimizer"], config["d"]) == ("snes", 3)


@needs("mlflow")
def test_mlflow_in_a_folder(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    results = [run(gfo.MLflow("gfo-test", uri=uri, name=name)) for name in ("one", "two")]
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("gfo-test")
    runs = {each.info.run_name: each for each in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"one", "two"}
    assert runs["one"].data.params["optimizer"] == "snes"
    assert runs["one"].info.status == "FINISHED"
    for name in NAMES:
        found = sorted(client.get_metric_history(runs["two"].info.run_id, name), key=lambda each: each.step)
        assert [each.step for each in found] == [step.evaluations for step in results[1].history]
        assert [each.value for each in found] == expected(results[1], name)


@needs("trackio")
def test_trackio(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    from trackio.sqlite_storage import SQLiteStorage

    result = run(gfo.Trackio("gfo-test", name="one"))
    rows = SQLiteStorage.get_logs("gfo-test", "one")
    assert [row["step"] for row in rows] == [step.evaluations for step in result.history]
    for name in NAMES:
        assert [row[name] for row in rows] == expected(result, name)


@pytest.mark.parametrize(
    ("module", "make"),
    [
        ("torch.utils.tensorboard", lambda folder: gfo.TensorBoard(folder)),
        ("wandb", lambda _: gfo.WandB("x")),
        ("mlflow", lambda _: gfo.MLflow("x")),
        ("trackio", lambda _: gfo.Trackio("x")),
    ],
)
def test_one_that_is_not_installed(module, make, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # what importing it then does
    with pytest.raises(
        gfo.GfoError, match=r"not installed; pip install 'gfo-llm\[\w+\]', or take gfo.CSVLog"
    ):
        make(tmp_path)


def test_an_unknown_mode():
    with pytest.raises(gfo.GfoError, match="unknown mode of WandB 'ofline': did you mean 'offline'"):
        gfo.WandB("x", mode="ofline")
