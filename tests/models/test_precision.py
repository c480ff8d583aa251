"""Where float32 products are rounded, models are no less exact than that, and records say it."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

import gfo
from gfo.models.loading import freeze
from gfo.models.precision import COARSE, EPSILON, epsilon, is_fine, nearness, product_error, reduced_to
from gfo.models.sub_blocks import may_skip
from gfo.models.weights import rounds_inputs
from gfo.run.environment import PRODUCTS, hardware

CPU = torch.device("cpu")
ROWS = [
    {"text": text, "label": label}
    for text, label in [("a great joy from the first minute", "good"), ("a bad day, a waste of time", "bad")]
]
LABELS = {"bad": " terrible", "good": " great"}


@contextmanager
def by_setting():
    """What a process sets for all of its products; processors without bfloat16 units compute in full."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        if reduced_to(CPU) is None:
            pytest.skip("this processor computes float32 products in full, whatever is set")
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def by_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield


@contextmanager
def by_nothing():
    yield


REDUCED = [by_setting, by_autocast]


@pytest.mark.parametrize("reducing", REDUCED)
def test_products_are_measured(reducing):
    assert reduced_to(CPU) is None
    assert product_error(torch.float32, CPU) < 1e-6
    with reducing():
        assert reduced_to(CPU) == "bfloat16"
        assert epsilon(torch.float32, CPU) == EPSILON["bfloat16"] == torch.finfo(torch.bfloat16).eps
        assert hardware()[PRODUCTS] == hardware(CPU)[PRODUCTS] == "bfloat16"
        assert epsilon(torch.float64, CPU) == torch.finfo(torch.float64).eps
    assert epsilon(torch.float32, CPU) == torch.finfo(torch.float32).eps
    assert PRODUCTS not in hardware(CPU)


@pytest.mark.parametrize(("bits", "name"), [(8, "bfloat16"), (11, "TF32"), (16, "bfloat16x3"), (24, None)])
def test_products_of_rounded_inputs(monkeypatch, bits, name):
    """A device that rounds what it multiplies to so many bits, as tensor cores do."""
    linear = nn.functional.linear

    def rounded(x):
        fraction, exponent = torch.frexp(x)
        return torch.ldexp((fraction * 2**bits).round() / 2**bits, exponent)

    monkeypatch.setattr(nn.functional, "linear", lambda x, w: linear(rounded(x), rounded(w)))
    assert reduced_to(CPU) == name


@pytest.mark.parametrize("reducing", REDUCED)
@pytest.mark.parametrize("family", ["llama", "gemma2", "opt"], indirect=True)
def test_models_are_frozen_and_searched(tiny, family, reducing):
    """With the way of evaluating that they have in full precision, and losses near those."""
    model = tiny(family)
    task = gfo.Classification(ROWS, template="Review: {text}\n{soft}It was", labels=LABELS)
    exact = gfo.LocalEvaluator(model, task, gfo.SoftPrompt(model, 2, 4))
    z = np.random.default_rng(0).standard_normal((4, 4))
    wanted = exact(z, 0).loss
    with reducing():
        other = freeze(model.module, model.tokenizer, model.name)
        assert type(other) is type(model)
        assert other.shares_layers == model.shares_layers
        assert nearness(other, 1e-4) == COARSE
        assert may_skip(other)
        found = gfo.LocalEvaluator(other, task, gfo.SoftPrompt(other, 2, 4))(z, 0).loss
    assert 0 < np.abs(found - wanted).max() < 0.1  # control: they are rounded
    assert is_fine(model)
    assert nearness(model, 1e-4) == 1e-4


@pytest.mark.parametrize("reducing", [by_nothing, *REDUCED])
def test_rounded_inputs_are_told_from_rounded_products(reducing):
    class Coded(nn.Module):
        """8 bits a weight, and, if it is dynamic, a number of its input."""

        def __init__(self, size, *, dynamic):
            super().__init__()
            self.in_features, self.out_features, self.dynamic = size, size, dynamic
            generator = torch.Generator().manual_seed(0)
            self.register_buffer("codes", torch.randint(-127, 128, (size, size), generator=generator))

        def forward(self, x):
            step = x.abs().amax(-1, keepdim=True).clamp(min=1e-6) / 127
            x = (x / step).round() * step if self.dynamic else x
            return nn.functional.linear(x, self.codes.to(x) / 127)

    with reducing():
        for size in (256, 700):
            assert not rounds_inputs(Coded(size, dynamic=False))
            assert rounds_inputs(Coded(size, dynamic=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_as_it_was(tiny, dtype):
    model = tiny("llama", dtype=dtype)
    assert epsilon(dtype, CPU) == torch.finfo(dtype).eps
    assert not is_fine(model)
    assert may_skip(model)
    assert is_fine(tiny("llama", dtype=torch.float64))
