"""The tiny model for notebooks: the same each time, any text, label words whole, everything gfo does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gfo
from gfo.testing.tiny import LABELS


@pytest.fixture(scope="module")
def model():
    return gfo.testing.tiny_model()


def weights(model):
    return torch.cat([parameter.flatten() for parameter in model.module.parameters()])


def test_a_seed_gives_one_model(model):
    again, other = gfo.testing.tiny_model(), gfo.testing.tiny_model(seed=1)
    assert torch.equal(weights(model), weights(again))
    assert not torch.allclose(weights(model), weights(other))
    assert model.tokenizer.get_vocab() == again.tokenizer.get_vocab()


@pytest.mark.parametrize("text", ["Review: Zürich, 日本 - 3.5 ☃\n\tso-so\\", "quixotic xylophones", " ", ""])
def test_any_text_comes_back(model, text):
    assert model.decode([model.encode(text)]) == [text]
    assert len(model.tokenizer) == model.module.config.vocab_size


def test_label_words_are_whole(model):
    for word in LABELS.split():
        assert len(model.encode(f" {word}")) == 1, word
    assert len(model.encode(" xylophone")) > 1


def test_it_can_be_tuned(model):
    task = gfo.Classification(
        *(f"gfo:sentiment/{split}.jsonl" for split in ("train", "dev", "test")),
        template="Review: {text}\n{soft}Sentiment:",
        labels={"negative": " negative", "positive": " positive"},
    )
    space = gfo.SoftPrompt(model, tokens=4, dim=10)
    result = gfo.tune(model, task, space, budget=gfo.Budget(evaluations=60), progress=False)
    assert result.loss < result.history[0].mean_loss  # 0.79 ± 0.06 of it over seeds
    assert np.isfinite(result.score("test")["loss"])
    assert "tiny-llama" in str(result.summary())
