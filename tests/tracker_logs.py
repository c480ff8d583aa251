"""What trackers keep in their offline modes, read back: name -> (evaluations, value), in order."""

from __future__ import annotations

import importlib.util
import json
import time
from collections import defaultdict

import pytest

NAMES = ("train/mean_loss", "train/best", "search/spread", "cost/forward_tokens")
TRACKERS = ("wandb", "mlflow", "trackio", "tensorboard")
HAS = {name: importlib.util.find_spec(name) is not None for name in TRACKERS}
EACH = [pytest.param(name, marks=pytest.mark.skipif(not HAS[name], reason="an extra")) for name in TRACKERS]


def options(name, place):
    """What a callback takes to log below a folder, without a network."""
    return {
        "tensorboard": {"folder": str(place / "events")},
        "wandb": {"project": "gfo-test", "mode": "offline", "folder": str(place)},
        "mlflow": {"experiment": "gfo-test", "uri": f"sqlite:///{place}/mlflow.db"},
        "trackio": {"project": "gfo-test", "name": "one"},
    }[name]


def of_tensorboard(place):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(place / "events"))
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


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


def wandb_records(place):
    """Those of a run's file, once its last is there: a process of wandb's writes it, also after the end."""
    from wandb.proto import wandb_internal_pb2

    [file] = place.glob("wandb/offline-run-*/*.wandb")
    for _ in range(600):
        parsed = []
        for data in leveldb_log(file.read_bytes()[7:]):  # behind its own header
            parsed.append(wandb_internal_pb2.Record())
            parsed[-1].ParseFromString(data)
        if parsed and parsed[-1].WhichOneof("record_type") == "exit":
            return parsed
        time.sleep(0.1)
    raise AssertionError("the run's file was never ended")


def of_wandb(place):
    rows = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in wandb_records(place)
    ]
    found = defaultdict(list)
    for row in filter(None, rows):
        for name, value in row.items():
            found[name].append((row["_step"], value))
    return found


def of_mlflow(place):
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=options("mlflow", place)["uri"])
    experiment = client.get_experiment_by_name("gfo-test")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    return {
        name: sorted((each.step, each.value) for each in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }


def of_trackio(place):
    from trackio.sqlite_storage import SQLiteStorage

    found = defaultdict(list)
    for row in SQLiteStorage.get_logs("gfo-test", "one"):
        for name, value in row.items():
            found[name].append((row["step"], value))
    return found


READERS = {"tensorboard": of_tensorboard, "wandb": of_wandb, "mlflow": of_mlflow, "trackio": of_trackio}


def check(name, place, history, scalars):
    """What a tracker has is what the history has, dev with it."""
    found = READERS[name](place)
    expected = defaultdict(list)
    for step in history:
        for key, value in scalars(step).items():
            expected[key].append((step.evaluations, value))
    assert set(NAMES) <= set(expected)
    for key, values in expected.items():
        exact = 0 if name != "tensorboard" else 1e-6  # it has single precision
        assert [each[0] for each in found[key]] == [each[0] for each in values], key
        assert [each[1] for each in found[key]] == pytest.approx([each[1] for each in values], rel=exact), key
    return expected
