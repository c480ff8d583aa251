"""The committed configs: all load, and those of published systems say what was published."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gfo import optimizers
from gfo.config import load_config

EXPERIMENTS = Path(__file__).parents[2] / "benchmarks" / "experiments"
MANY = {path for name in ("leaderboard", "places") for path in EXPERIMENTS.glob(f"{name}/*")}
CONFIGS = sorted(set(EXPERIMENTS.rglob("*.toml")) - MANY)  # of many runs each: test_leaderboard.py


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_names_a_space_and_an_optimizer_that_fit(path):
    config = load_config(path)
    domain = config.space.domain()
    optimizer = optimizers.make(config.optimizer.name, domain=domain, seed=0, **config.optimizer.options)
    assert optimizer.ask().shape[1] == domain.d
    assert config.task.data_dir == "data", "the folder of the data sets is an option"


def test_black_box_tuning_as_published(tiny):
    """The prompts' spread about the random words is that of the words, at every step size sigma."""
    config = load_config(EXPERIMENTS / "sst2" / "bbt.toml", ["space.dim=100"])
    model = tiny("llama")
    space = config.space.build(model, seed=0)
    optimizer = optimizers.make("cma", domain=space.domain, seed=0, **config.optimizer.options)
    assert optimizer.population == 20
    assert space.tokens == 50
    z = torch.from_numpy(optimizer.ask())
    words = model.embed(torch.arange(model.vocabulary_size))
    moved = space.decode(z).prompt - space.p0
    assert float(moved.std()) == pytest.approx(float(words.std()), rel=0.1)
    assert set(map(tuple, space.p0.tolist())) <= set(map(tuple, words.tolist()))


def test_bbtv2_as_published(tiny):
    """One CMA-ES a layer, in turn from the lowest up, each moving its layer by 0.2 of the spread there."""
    config = load_config(EXPERIMENTS / "sst2" / "bbtv2.toml", ["space.dim=60", "optimizer.options.blocks=3"])
    space = config.space.build(tiny("llama"), seed=0)
    optimizer = optimizers.make("blockwise", domain=space.domain, seed=0, **config.optimizer.options)
    for layer in (0, 1, 2, 0):
        z = optimizer.ask()
        assert len(z) == 20
        added = space.decode(torch.from_numpy(z)).layer_prompt
        spreads = [float((part - part.mean(0)).std()) for _, part in sorted(added.items())]
        assert spreads[layer] == pytest.approx(0.2 * space.spread[layer], rel=0.25)
        assert spreads[:layer] + spreads[layer + 1 :] == pytest.approx([0, 0], abs=1e-6)
        optimizer.tell(z, (z**2).sum(axis=1))
