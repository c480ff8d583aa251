"""A run killed at 20 random moments and resumed each time is the uninterrupted one, bit for bit."""

import json

import numpy as np
import pytest
from killed import BASELINES, outcome, serving

import gfo


@pytest.fixture(scope="module")
def server():
    """Makes runs; see killing.py."""
    with serving() as make:
        yield make


@pytest.mark.parametrize("name", [*gfo.optimizers.names(), "nevergrad:DE"])
def test_killed_and_resumed_is_uninterrupted(server, tmp_path, name):
    assert server(tmp_path / "whole", name) == []
    kills = server(tmp_path / "killed", name, kills=20)
    killed = [at for was_killed, at in kills if was_killed]
    assert len(killed) == 20
    assert len(set(killed)) > 8  # at many places
    whole, resumed = outcome(tmp_path / "whole"), outcome(tmp_path / "killed")
    assert len(whole[0]) > killed[-1]
    assert resumed == whole
    server(tmp_path / "other", name, seed=2)
    other = outcome(tmp_path / "other")
    assert other[0] != whole[0]
    assert other[3] != whole[3]


@pytest.mark.parametrize("name", BASELINES)
def test_a_training_killed_and_resumed_is_uninterrupted(server, tmp_path, name):
    """The weights, too; what is behind the saved state is done again."""
    assert server(tmp_path / "whole", name) == []
    kills = server(tmp_path / "killed", name, kills=6)
    assert sum(was_killed for was_killed, _ in kills) >= (2 if name == "linear-head" else 6)
    whole, resumed = outcome(tmp_path / "whole"), outcome(tmp_path / "killed")
    assert resumed == whole
    if name != "linear-head":  # which trains nothing
        assert len({at for _, at in kills}) > 3  # at many places
        assert len(whole[-1]) > 1
        server(tmp_path / "other", name, seed=2)
        assert outcome(tmp_path / "other")[-1] != whole[-1]


@pytest.mark.weights
def test_killed_and_resumed_with_smollm2(server, tmp_path):
    server(tmp_path / "whole", "cma", steps=50, model="smollm2-135m")
    kills = server(tmp_path / "killed", "cma", steps=50, kills=20, model="smollm2-135m")
    assert sum(was_killed for was_killed, _ in kills) == 20
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    server(tmp_path / "other", "cma", steps=2, seed=2, model="smollm2-135m")
    assert outcome(tmp_path / "other")[0] != outcome(tmp_path / "whole")[0][:2]


def test_bo_without_a_saved_state(server, tmp_path):
    """The same by telling it everything again."""
    server(tmp_path / "whole", "bo", steps=16, save_every=1e9)
    assert len(server(tmp_path / "killed", "bo", kills=4, steps=16, save_every=1e9)) == 4
    assert not (tmp_path / "killed" / "state.safetensors").exists()
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_the_comparison_sees_one_bit(server, tmp_path):
    """A control: one loss in its last bit."""
    server(tmp_path / "run", "snes")
    server(tmp_path / "whole", "snes")
    before = outcome(tmp_path / "run")
    history = tmp_path / "run" / "history.jsonl"
    text = history.read_text().splitlines()
    step = json.loads(text[7])
    step["loss"][0] = float(np.nextafter(step["loss"][0] or 1.0, np.inf))
    text[7] = json.dumps(step)
    history.write_text("\n".join(text) + "\n")
    with pytest.raises(gfo.GfoError, match="its checksum is another"):
        outcome(tmp_path / "run")
    assert outcome(tmp_path / "whole") == before
