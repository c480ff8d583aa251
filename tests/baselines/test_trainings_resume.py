"""Baselines go on as if they had not been stopped; tests/run/test_kill.py kills them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from examples import ROWS, TEXT_FIRST, make_task
from killed import arrays, outcome

from gfo import Budget, Prefix, SoftPrompt, baselines
from gfo.core.errors import GfoError
from gfo.run import checkpoint
from gfo.run.callbacks import Callback
from gfo.run.state import load_state

OPTIONS = {
    "eggroll": {"population": 2, "sigma": 0.02, "lr": 0.02},
    "full": {"lr": 1e-3, "dropout": 0.1},
    "gradient": {"lr": 0.3, "dropout": 0.1},
    "linear-head": {},
    "lora": {"lr": 1e-2, "dropout": 0.1},
    "mezo": {"lr": 2e-3},
    "mezo-lora": {"lr": 5e-3},
    "prefix-tuning": {"lr": 0.1},
    "prompt-tuning": {"lr": 0.1},
}
TRAINED = [name for name in OPTIONS if name != "linear-head"]


class Stop(Callback):
    """Ends a run after so many steps, as Ctrl-C or a crash would."""

    def __init__(self, steps, error=KeyboardInterrupt):
        self.steps, self.error = steps, error

    def step(self, run):
        if len(run.history) == self.steps:
            raise self.error


def space_of(name, model):
    kinds = {"prefix-tuning": Prefix, "prompt-tuning": SoftPrompt, "gradient": SoftPrompt}
    return kinds[name](model, 3, dim=10) if name in kinds else None


def run(name, model, out, *, task=None, evaluations=12, callbacks=(), resume=True, options=None, **more):
    return baselines.run(
        name,
        model,
        task or make_task(batch_size=4),
        space_of(name, model),
        options={**OPTIONS[name], **(options or {})},
        budget=Budget(evaluations=evaluations),
        dev_every=2,
        callbacks=callbacks,
        progress=False,
        out=out,
        resume=resume,
        **more,
    )


def scored(result):
    """Scores on test of what dev liked best, which the process that began the run may not have kept."""
    return dict(result.score("test")), dict(result.scores["before"]["test"])


@pytest.mark.parametrize(
    ("name", "family_name"), [*((name, "gpt2") for name in OPTIONS), ("lora", "bert"), ("gradient", "t5")]
)
def test_ctrl_c_saves(tiny, tmp_path, name, family_name):
    model = tiny(family_name)
    task = make_task(TEXT_FIRST + (" {mask}" if model.mask else ""), batch_size=4)
    whole = run(name, model, tmp_path / "whole", task=task)
    stop = 2 if name.startswith(("eggroll", "linear-head", "mezo")) else 7
    stopped = run(name, model, tmp_path / "stopped", task=task, callbacks=[Stop(stop)])
    assert (stopped.stopped, len(stopped.history)) == ("interrupted", stop)
    resumed = run(name, model, tmp_path / "stopped", task=task)
    assert scored(resumed) == scored(whole)
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.filterwarnings("ignore:.*no state was saved")
def test_steps_behind_the_state_are_done_again(tiny, tmp_path, name, monkeypatch):
    """An exception saves nothing; without a saved state a training begins anew."""
    model = tiny("llama")
    run(name, model, tmp_path / "whole")
    for save_every, steps in ((0.0, 5), (1e9, 0)):
        out = tmp_path / str(save_every)
        monkeypatch.setattr(checkpoint, "SAVE_EVERY", save_every)
        monkeypatch.setattr(checkpoint, "SAVING", 1e9)
        with pytest.raises(RuntimeError):
            run(name, model, out, callbacks=[Stop(5, RuntimeError)])
        assert (out / "state.safetensors").exists() == bool(steps)
        run(name, model, out)
        assert outcome(out) == outcome(tmp_path / "whole")


def test_half_precision(tiny, tmp_path):
    for name in ("mezo", "lora"):
        model = tiny("llama", dtype=torch.bfloat16)
        run(name, model, tmp_path / name / "whole")
        run(name, model, tmp_path / name / "stopped", callbacks=[Stop(4)])
        run(name, model, tmp_path / name / "stopped")
        assert outcome(tmp_path / name / "stopped") == outcome(tmp_path / name / "whole")


def test_a_larger_budget(tiny, tmp_path):
    """As if it had been given at the start, where the learning rate does not follow the budget."""
    constant = {"options": {"schedule": "constant", "warmup": 0.0}}
    run("lora", tiny("llama"), tmp_path / "whole", evaluations=11, **constant)
    assert len(run("lora", tiny("llama"), tmp_path / "more", evaluations=5, **constant).history) == 5
    run("lora", tiny("llama"), tmp_path / "more", evaluations=11, **constant)
    assert outcome(tmp_path / "more") == outcome(tmp_path / "whole")
    run("lora", tiny("llama"), tmp_path / "more", evaluations=11, **constant)  # has ended
    assert outcome(tmp_path / "more") == outcome(tmp_path / "whole")


def test_what_is_another_run_is_refused(tiny, tmp_path):
    model, out = tiny("llama"), tmp_path / "run"
    run("lora", model, out, callbacks=[Stop(4)])
    for words, change in [
        ("holds a run already", {"resume": False}),
        ("options.lr = 0.01, not 0.02", {"options": {"lr": 0.02}}),
        ("task.train = ", {"task": make_task(rows=ROWS[::-1], batch_size=4)}),
        ("seed = 0, not 1", {"seed": 1}),
        ("has d = 2688, not 36064", {"name": "full"}),
        ("evaluated again, step 3 has other losses", {"model": tiny("llama", seed=1)}),
    ]:
        with pytest.raises(GfoError, match=words) as error:
            run(**{"name": "lora", "model": model, "out": out, **change})
        assert "\n" not in str(error.value)
    before = (out / "history.jsonl").read_bytes()
    state = out / "state.safetensors"
    held = bytearray(state.read_bytes())
    held[-9] ^= 1
    state.write_bytes(held)
    with pytest.raises(GfoError, match=r"state.safetensors is damaged .* put a copy of it back"):
        run("lora", model, out)
    assert (out / "history.jsonl").read_bytes() == before
    state.unlink()
    with pytest.warns(UserWarning, match="no state was saved, so that its 4 steps are done again"):
        run("lora", model, out)


@pytest.mark.parametrize("name", ["manual", "in-context"])
def test_without_a_search_there_is_nothing_to_go_on_with(tiny, tmp_path, name):
    options = {"k": 2} if name == "in-context" else {}
    once = {"budget": Budget(evaluations=1), "out": tmp_path / "run", "options": options}
    first = baselines.run(name, tiny("llama"), make_task(), **once)
    again = baselines.run(name, tiny("llama"), make_task(), resume=True, **once)
    assert scored(again) == scored(first)


@pytest.mark.parametrize("name", TRAINED)
def test_a_state_goes_through_a_file(tiny, tmp_path, name):
    """All arrays of numbers; a new object that loads them has the same, and asks for the same point."""
    model = tiny("gpt2")
    run(name, model, tmp_path / "run", callbacks=[Stop(2)])
    state = load_state(tmp_path / "run" / "state.safetensors")["optimizer"]
    made = baselines.make(name, model, make_task(), space_of(name, model), **OPTIONS[name])
    assert bits(made.state_dict()) != bits(state)
    made.load_state_dict(state)
    assert bits(made.state_dict()) == bits(state)
    again = baselines.make(name, model, make_task(), space_of(name, model), **OPTIONS[name])
    again.load_state_dict(made.state_dict())
    np.testing.assert_array_equal(again.recommend(), made.recommend())
    np.testing.assert_array_equal(again.loss_now(1), made.loss_now(1))


def bits(state):
    return [(path, array.shape, array.tobytes()) for path, array in arrays(state)]
