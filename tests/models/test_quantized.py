"""Quantized weights: every space runs, steps are those of the dequantized weight, exports are plain."""

from __future__ import annotations

import copy
import functools
import json

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import gfo
from gfo import GfoError, LocalEvaluator, LoRASubspace, freeze, load_model
from gfo.models.weights import is_quantized, linear_sizes, quantized_linears, rounds_inputs, weight_of
from gfo.report.export import export

ROWS = [
    {"text": text, "label": label}
    for text, label in [("a", "good"), ("a great joy from the first minute", "bad"), ("bad!", "good")]
]
LABELS = {"bad": " terrible", "good": " great"}
PLAIN, SOFT = "Review: {text} It was", "Review: {text}\n{soft}It was"
IDS = torch.tensor([[5, 9, 20, 33, 7]])
INT8 = {"default": {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {}}}
CODED = ["own", "torchao", "torchao-int4", "quantize_"]  # which round no inputs
ALL = [*CODED, "torchao-dynamic", "int8", "nf4"]  # nf4 on a CPU computes in bfloat16
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


class Coded(nn.Module):
    """8 bits a weight and a step for each output, as a library of the user's may hold them: no nn.Linear."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        step = linear.weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("step", step)
        self.register_buffer("codes", (linear.weight / step).round().to(torch.int8))

    def forward(self, x):
        return nn.functional.linear(x, self.codes * self.step, self.bias)


def own(module):
    for name, part in list(module.named_modules()):
        if isinstance(part, nn.Linear):
            module.set_submodule(name, Coded(part))
    return module


def by_torchao(module):
    torchao = pytest.importorskip("torchao")
    torchao.quantization.quantize_(module, torchao.quantization.Int8WeightOnlyConfig())
    return module


def config_of(kind):
    """Of transformers, for what is quantized while it is loaded."""
    if kind == "torchao":
        pytest.importorskip("torchao")
        return {"quant_method": "torchao", "quant_type": INT8}  # as TOML has it
    if kind.startswith("torchao"):
        quantization = pytest.importorskip("torchao").quantization
        granularity = quantization.PerGroup(32)
        int4 = quantization.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=granularity)
        dynamic = quantization.Int8DynamicActivationInt8WeightConfig
        return transformers.TorchAoConfig(dynamic() if kind == "torchao-dynamic" else int4)
    pytest.importorskip("bitsandbytes")
    if kind == "nf4":
        float32 = {"bnb_4bit_compute_dtype": torch.float32}
        return transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", **float32)
    return transformers.BitsAndBytesConfig(load_in_8bit=True)


@pytest.fixture(scope="module")
def plain(tiny):
    return tiny("llama", hidden_size=64, intermediate_size=64)


@pytest.fixture(scope="module")
def quantized(plain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized")
    plain.module.save_pretrained(folder)
    plain.tokenizer.save_pretrained(folder)

    @functools.cache
    def make(kind):
        if kind in ("own", "quantize_"):
            module = (own if kind == "own" else by_torchao)(copy.deepcopy(plain.module))
            model = freeze(module, plain.tokenizer, kind)
            model.check_branches()
            return model
        return load_model(folder, quantization_config=config_of(kind))

    return make


def spaces(model):
    return {
        "lora-fa": LoRASubspace(model, 9, alpha=0.3),
        "lora-xs": LoRASubspace(model, 9, method="lora-xs", rank=4, alpha=0.3),
        "vera": LoRASubspace(model, 9, method="vera", alpha=0.3),
        "tiny": LoRASubspace(model, method="tiny"),
        "soft-prompt": gfo.SoftPrompt(model, 4, 9),
        "deep-prompt": gfo.DeepPrompt(model, 4, 9),
        "prefix": gfo.Prefix(model, 4, 9),
        "bias": gfo.BiasSpace(model, 9),
        "ia3": gfo.Scaling(model, 9),
        "norm": gfo.Scaling(model, 9, method="norm"),
        "adapter": gfo.Adapter(model, 9),
    }


def evaluator_of(model, space, template=SOFT):
    return LocalEvaluator(model, gfo.Classification(ROWS, template=template, labels=LABELS), space)


def points(space, K=3):
    return np.random.default_rng(0).standard_normal((K, space.domain.d))


@pytest.mark.parametrize("kind", ALL)
def test_what_a_module_multiplies_by(plain, quantized, kind):
    """The dequantized weight is near the float one, and the module's own products are by it."""
    model = quantized(kind)
    name = "model.layers.1.mlp.down_proj"
    part, weight, before = model.module.get_submodule(name), model.weight(name), plain.weight(name)
    error = float((weight - before).norm() / before.norm())
    assert 1e-4 < error < (0.2 if kind in ("torchao-int4", "nf4") else 0.02)
    x = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    difference = float((part(x) - x @ weight.T).norm() / (x @ weight.T).norm())
    assert difference < (1e-5 if kind in CODED else 0.03)
    assert rounds_inputs(part) == (kind not in CODED) == model.rounds_inputs
    assert linear_sizes(part) == (64, 64)
    assert is_quantized(part)
    assert not is_quantized(plain.module.get_submodule(name))  # control
    assert model.linears.keys() == plain.linears.keys()


@pytest.mark.parametrize("kind", ALL)
def test_batched_is_serial_in_every_space(quantized, kind):
    """Where inputs are rounded too they agree no more finely than that."""
    model = quantized(kind)
    for name, space in spaces(model).items():
        evaluator, z = evaluator_of(model, space), points(space)
        batch = evaluator.task.all_rows("train")
        found = evaluator.answers(z, batch)
        serial = torch.cat([evaluator.answers(point[None], batch) for point in z])
        spread = float(found.std())
        assert float((found - serial).abs().max()) < (1e-5 if kind in CODED else 0.2) * max(spread, 1), name
        assert float((found[0] - found[1]).abs().max()) > 1e-3, name  # control


@pytest.mark.parametrize("kind", ALL)
def test_steps_are_those_of_the_float_model(plain, quantized, kind):
    for method in ("lora-fa", "lora-xs"):
        share = []
        for model in (plain, quantized(kind)):
            space = LoRASubspace(model, 50, method=method, alpha=0.1)
            z = torch.from_numpy(points(space, 40))
            share += [
                float(torch.linalg.matrix_norm(B @ A).mean() / model.weight(name).norm())
                for name, (A, B) in space.decode(z).lora.items()
            ]
        floats, codes = share[: len(share) // 2], share[len(share) // 2 :]
        assert codes == pytest.approx(floats, rel=0.05)
    assert codes != pytest.approx([1.1 * each for each in floats], rel=0.05)  # control


@pytest.mark.parametrize("template", [PLAIN, SOFT], ids=["lora", "soft"])
@pytest.mark.parametrize("kind", ALL)
def test_merged_folders_hold_floats(quantized, kind, template, tmp_path):
    model = quantized(kind)
    space = spaces(model)["lora-fa" if template == PLAIN else "soft-prompt"]
    evaluator, z = evaluator_of(model, space, template), points(space, 2)
    written = export(evaluator, z[0], "merged", tmp_path)
    assert "quantized modules are written as torch.float32" in written.notes[0]
    assert ("round their inputs" in str(written.notes)) == (kind not in CODED)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    again = load_model(tmp_path)
    assert not quantized_linears(again.module)
    assert quantized_linears(model.module)  # which stays as it was
    text = json.loads((tmp_path / "gfo_prompt.json").read_text())["template"]
    other = evaluator_of(again, LoRASubspace(again, 5), text)
    found = other.answers(np.zeros((1, 5)), other.task.all_rows("train"))[0]
    expected = evaluator.answers(z, evaluator.task.all_rows("train"))
    assert float((found - expected[0]).abs().max()) < (1e-4 if kind in CODED else 0.3)
    assert float((found - expected[1]).abs().max()) > 0.3  # control


@pytest.mark.parametrize("kind", ["own", "torchao", "int8"])
def test_gradients_and_baselines(quantized, kind):
    model = quantized(kind)
    evaluator = evaluator_of(model, spaces(model)["soft-prompt"])
    z = torch.zeros(1, 9, dtype=torch.float64, requires_grad=True)
    evaluator.loss_tensor(z, 0)[0].sum().backward()
    assert float(z.grad.abs().max()) > 1e-4
    task = gfo.Classification(ROWS, template=PLAIN, labels=LABELS)
    for name in ("full", "mezo"):
        with pytest.raises(GfoError, match=r"all weights are trained, and those of .* are quantized"):
            gfo.baselines.run(name, model, task, budget=gfo.Budget(evaluations=2), progress=False)


def test_quantized_embeddings_are_refused(plain):
    """They are no numbers that a prompt could be put among."""
    module = copy.deepcopy(plain.module)
    codes = (module.model.embed_tokens.weight * 20).round().to(torch.int8)
    module.model.embed_tokens.weight = nn.Parameter(codes, requires_grad=False)
    with pytest.raises(GfoError, match="its input embeddings are quantized"):
        freeze(module, plain.tokenizer)


def test_a_linear_module_is_known_by_its_sizes():
    linear = nn.Linear(3, 5)
    coded = Coded(linear)
    assert linear_sizes(coded) == (3, 5)
    assert torch.allclose(weight_of(coded), linear.weight, atol=0.01)  # its bias left out
    around = nn.Module()
    around.in_features, around.out_features, around.base_layer = 3, 5, linear
    assert linear_sizes(around) is None
    assert linear_sizes(nn.LayerNorm(3)) is None
    assert linear_sizes(nn.Bilinear(3, 3, 5)) is None


@pytest.mark.weights
def test_smollm2_in_int8(tmp_path):
    """The built-in model, quantized as it is loaded, against itself in floats."""
    pytest.importorskip("torchao")
    options = {"quant_method": "torchao", "quant_type": INT8}
    floats, model = (load_model("smollm2-135m", quantization_config=c, device="cpu") for c in (None, options))
    assert len(quantized_linears(model.module)) == 210
    name = "model.layers.3.self_attn.q_proj"
    steps = [LoRASubspace(m, 20, targets=name).decode(torch.ones(1, 20)).lora[name] for m in (floats, model)]
    sizes = [
        float((B[0] @ A[0]).norm() / m.weight(name).norm())
        for (A, B), m in zip(steps, (floats, model), strict=True)
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)
    spaces = LoRASubspace(model, 9), gfo.SoftPrompt(model, 2, 9), gfo.BiasSpace(model, 9, layers="last")
    for space in spaces:
        task = gfo.Classification(ROWS[:2], template=SOFT, labels=LABELS)
        evaluator, z = LocalEvaluator(model, task, space), points(space, 2)
        found = evaluator(z, 0).loss
        assert found == pytest.approx([evaluator(point[None], 0).loss[0] for point in z], abs=1e-5)
        assert abs(found[0] - found[1]) > 1e-4  # control
    evaluator = evaluator_of(model, LoRASubspace(model, 9), PLAIN)
    z, batch = points(evaluator.space, 2), evaluator.task.all_rows("train")
    found = evaluator.answers(z, batch)[:, 0]
    export(evaluator, z[0], "merged", tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        ids = torch.tensor([batch.before[0] + batch.after[0]])
        logits = again(input_ids=ids).logits[0, -1, list(batch.vocabulary)]
    assert float((logits - found[0]).abs().max()) < 1e-4
    assert float((logits - found[1]).abs().max()) > 1e-2  # control
