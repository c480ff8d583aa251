"""Trackers in their offline modes: what is read back is the history's; without them a line says so."""

from __future__ import annotations

import json
import sys

import pytest
import tracker_logs
from tracker_logs import EACH, HAS, options

import gfo
from gfo.config import make_config
from gfo.run.trackers import scalars

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what mlflow uses
CALLBACKS = {"wandb": gfo.WandB, "mlflow": gfo.MLflow, "trackio": gfo.Trackio, "tensorboard": gfo.TensorBoard}


def needs(name):
    return pytest.mark.skipif(not HAS[name], reason="an extra")


def run(callback, evaluations=40):
    optimizer = gfo.optimizers.make("snes", domain=gfo.Domain.unbounded(3), seed=0, population=8)

    def sphere(z):
        return ((z - 1) ** 2).sum(axis=1)

    return gfo.minimize(optimizer, sphere, budget=gfo.Budget(evaluations=evaluations), callbacks=[callback])


@pytest.mark.parametrize("name", EACH)
def test_what_is_read_back_is_the_history(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    result = run(CALLBACKS[name](**options(name, tmp_path)))
    tracker_logs.check(name, tmp_path, result.history, scalars)


@pytest.mark.parametrize("name", EACH)
def test_a_config_logs_the_history_dev_with_it(name, tmp_path, monkeypatch, tiny):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    model = tiny("llama")
    model.module.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    rows = [f"gfo:sentiment/{split}.jsonl" for split in ("train", "dev")]
    values = {
        "model": {"name": str(tmp_path / "model"), "device": "cpu"},
        "task": {"train": rows[0], "dev": rows[1], "template": "{text}\n{soft}:",
                 "limits": {"train": 4, "dev": 4}, "max_length": 100,
                 "labels": {"positive": " good", "negative": " bad"}},
        "space": {"kind": "soft-prompt", "tokens": 2, "dim": 4},
        "budget": {"evaluations": 24},
        "dev_every": 1,
        "log": {name: options(name, tmp_path)},
    }  # fmt: skip
    result = make_config(values, "a test").run(tmp_path / "run", progress=False)
    logged = tracker_logs.check(name, tmp_path, result.history, scalars)
    assert len(logged["dev/loss"]) == len(result.history) > 1


@needs("tensorboard")
def test_a_log_of_another_run_is_seen(tmp_path):
    """A control of the tests above."""
    run(gfo.TensorBoard(**options("tensorboard", tmp_path)))
    other = run(gfo.CSVLog(tmp_path / "log.csv"), evaluations=48)
    with pytest.raises(AssertionError, match="train/mean_loss"):
        tracker_logs.check("tensorboard", tmp_path, other.history, scalars)


@needs("wandb")
def test_wandb_has_what_the_run_is(tmp_path):
    run(gfo.WandB(**options("wandb", tmp_path)))
    config = {}
    for record in tracker_logs.wandb_records(tmp_path):
        for update in (record.run.config.update, record.config.update):
            config |= {item.key: json.loads(item.value_json) for item in update}
    assert (config["optimizer"], config["d"]) == ("snes", 3)


@needs("mlflow")
def test_mlflow_has_what_each_run_is(tmp_path):
    import mlflow

    place = options("mlflow", tmp_path)
    for name in ("one", "two"):
        run(gfo.MLflow(**place, name=name))
    client = mlflow.MlflowClient(tracking_uri=place["uri"])
    experiment = client.get_experiment_by_name("gfo-test")
    runs = {each.info.run_name: each for each in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"one", "two"}
    assert runs["one"].data.params["optimizer"] == "snes"


@needs("tensorboard")
def test_a_place_that_cannot_be_logged_to_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        gfo.GfoError, match=r"^TensorBoard cannot log: .*file.*; mend it, or take gfo.CSVLog$"
    ):
        run(gfo.TensorBoard(tmp_path / "file"))


@needs("mlflow")
def test_an_address_that_is_none_is_one_line():
    with pytest.raises(gfo.GfoError, match=r"^MLflow cannot log: .*nosuch.*; mend it, or take gfo.CSVLog$"):
        run(gfo.MLflow("x", uri="nosuch://place"))


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
