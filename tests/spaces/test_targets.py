"""Default targets of the families of today, routed experts, and modules where nothing can be changed."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import transformers
from torch import nn

from gfo import Adapter, BiasSpace, Classification, GfoError, LocalEvaluator, LoRASubspace, Scaling, freeze
from gfo.core.delta import Delta
from gfo.core.errors import GfoWarning
from gfo.spaces.parts.targets import find_roles, find_targets
from gfo.testing.tiny import draw_weights

SHAPE = {
    "vocab_size": 200,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 0,
    "n_group": 1,
    "topk_group": 1,
}
QV = {"self_attn.q_proj", "self_attn.v_proj"}
ROWS = [{"text": "a great joy", "label": "a"}, {"text": "bad!", "label": "b"}]


class Named:
    """What spaces ask of a model, without a forward pass: for families that cannot be frozen too."""

    def __init__(self, kind, auto, **options):
        config = transformers.AutoConfig.for_model(kind, **{**SHAPE, **options})
        self.module = getattr(transformers, f"AutoModelFor{auto}").from_config(config)
        self.layers = 1
        from gfo.models.structure import find_experts, find_linears

        self.linears = find_linears(self.module, self.layer_of)
        self.experts = find_experts(self.module, self.layer_of)

    def layer_of(self, name):
        return 0 if any(part.isdigit() for part in name.split(".")) else None

    def usual_targets(self, role):
        from gfo.models.families import USUAL_TARGETS

        return USUAL_TARGETS[role]


def ends(model, role):
    names = find_targets(model, None, role=role)
    return {".".join(part for part in name.split(".")[-2:] if not part.isdigit()) for name in names}


@pytest.mark.parametrize(
    ("kind", "auto", "options", "attention", "up", "down"),
    [
        (
            "deepseek_v3",
            "CausalLM",
            {**LATENT, **ROUTED},
            {"self_attn.q_b_proj", "self_attn.kv_b_proj"},
            {"shared_experts.up_proj"},
            {"shared_experts.down_proj"},
        ),
        (
            "deepseek_v2",
            "CausalLM",
            {**LATENT, **ROUTED, "q_lora_rank": None, "n_shared_experts": 1},
            {"self_attn.q_proj", "self_attn.kv_b_proj"},
            {"shared_experts.up_proj"},
            {"shared_experts.down_proj"},
        ),
        (
            "minicpm3",
            "CausalLM",
            LATENT,
            {"self_attn.q_b_proj", "self_attn.kv_b_proj"},
            {"mlp.up_proj"},
            {"mlp.down_proj"},
        ),
        ("gptj", "CausalLM", {}, {"attn.q_proj", "attn.v_proj"}, {"mlp.fc_in"}, {"mlp.fc_out"}),
        ("codegen", "CausalLM", {}, {"attn.qkv_proj"}, {"mlp.fc_in"}, {"mlp.fc_out"}),
        (
            "starcoder2",
            "CausalLM",
            {},
            {"self_attn.q_proj", "self_attn.v_proj"},
            {"mlp.c_fc"},
            {"mlp.c_proj"},
        ),
        (
            "deberta-v2",
            "MaskedLM",
            {},
            {"self.query_proj", "self.value_proj"},
            {"intermediate.dense"},
            {"output.dense"},
        ),
        ("deberta", "MaskedLM", {}, {"self.in_proj"}, {"intermediate.dense"}, {"output.dense"}),
        ("mpnet", "MaskedLM", {}, {"attn.q", "attn.v"}, {"intermediate.dense"}, {"output.dense"}),
        ("modernbert", "MaskedLM", {}, {"attn.Wqkv"}, {"mlp.Wi"}, {"mlp.Wo"}),
        ("albert", "MaskedLM", {}, {"attention.query", "attention.value"}, {"ffn"}, {"ffn_output"}),
        ("ctrl", "CausalLM", {}, {"multi_head_attention.Wq", "multi_head_attention.Wv"}, {"ffn"}, {"ffn"}),
        (
            "lfm2",
            "CausalLM",
            {"layer_types": ["full_attention"] * 2},
            {"self_attn.q_proj", "self_attn.v_proj"},
            {"feed_forward.w3"},
            {"feed_forward.w2"},
        ),
        # those of before stay what they were
        (
            "llama",
            "CausalLM",
            {},
            {"self_attn.q_proj", "self_attn.v_proj"},
            {"mlp.up_proj"},
            {"mlp.down_proj"},
        ),
        ("bert", "MaskedLM", {}, {"self.query", "self.value"}, {"intermediate.dense"}, {"output.dense"}),
        ("gpt2", "CausalLM", {}, {"attn.c_attn"}, {"mlp.c_fc"}, {"mlp.c_proj"}),
        (
            "longt5",
            "Seq2SeqLM",
            {"num_layers": 2},
            {f"{a}.{x}" for a in ("LocalSelfAttention", "SelfAttention", "EncDecAttention") for x in "qv"},
            {"DenseReluDense.wi"},
            {"DenseReluDense.wo"},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_default_targets(kind, auto, options, attention, up, down):
    model = Named(kind, auto, **({"pad_token_id": 0} | options))
    plain = {end.removeprefix("albert_layers.") for end in ends(model, "up")}
    assert ends(model, "queries and values") == attention
    assert plain == up
    assert {end.removeprefix("albert_layers.") for end in ends(model, "down")} == down
    if kind == "bert":  # control: not the output of its attention
        assert not any("attention.output" in name for name in find_targets(model, None, role="down"))


def make(kind, tokenizer, **options):
    config = transformers.AutoConfig.for_model(kind, **{**SHAPE, **options})
    module = transformers.AutoModelForCausalLM.from_config(config)
    draw_weights(module, 0)
    return freeze(module, tokenizer(), kind)


EXPERTS = {
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "moe_intermediate_size": 16},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
}


@pytest.mark.parametrize("kind", EXPERTS)
def test_routed_experts_are_left_out_with_a_line(kind, tokenizer):
    model = make(kind, tokenizer, **EXPERTS[kind])
    assert set(model.experts.values()) == {0, 1}
    with pytest.warns(GfoWarning, match="routed experts are no linear modules"):
        biases = BiasSpace(model, 5)
    with pytest.warns(GfoWarning, match="routed experts"):
        factors = Scaling(model, 5)
    assert {name.rsplit(".", 1)[1] for name in biases.names} == {"q_proj"}
    assert {name.rsplit(".", 1)[1] for name in factors.names} == {"k_proj", "v_proj"}
    with pytest.raises(GfoError, match=r"none of the usual names \(its routed experts are no"):
        Adapter(model, 5)
    with pytest.raises(GfoError, match=r"'down_proj' matches nothing .*\(its routed experts"):
        LoRASubspace(model, 5, targets="down_proj")
    task = Classification(ROWS, template="Review: {text} It was", labels={"a": " great", "b": " terrible"})
    for space in (biases, factors, LoRASubspace(model, 5)):
        evaluator = LocalEvaluator(model, task, space)
        z = torch.ones(2, 5).numpy() * [[0.0], [3.0]]
        found = evaluator.answers(z, evaluator.task.all_rows("train"))
        with torch.no_grad():
            batch = evaluator.task.all_rows("train")
            ids = torch.tensor([batch.before[0] + batch.after[0]])
            plain = model.module(input_ids=ids).logits[0, -1, list(batch.vocabulary)]
        assert float((found[0, 0] - plain).abs().max()) < 1e-4
        assert float((found[1] - found[0]).abs().max()) > 1e-3  # control


def test_no_line_where_all_is_there(tiny, tokenizer):
    model = tiny("llama")
    assert model.experts == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_roles(model, None, "queries", "up") == list(BiasSpace(model, 5).names)
        routed = make("mixtral", tokenizer, **EXPERTS["mixtral"])
        assert find_targets(routed, None) == [n for n in routed.linears if n.endswith(("q_proj", "v_proj"))]


def test_a_model_whose_convolutions_have_three_dimensions_has_no_experts():
    assert Named("mamba", "CausalLM").experts == {}
    assert Named("mixtral", "CausalLM", num_local_experts=4).experts  # control


@pytest.mark.parametrize("Space", [LoRASubspace, BiasSpace, Scaling, Adapter])
def test_a_module_that_is_never_called(tiny, tokenizer, Space):
    module = copy.deepcopy(tiny("llama").module)
    module.model.layers[1].mlp.idle = nn.Linear(32, 32)
    model = freeze(module, tokenizer(), "idle")
    task = Classification(ROWS, template="Review: {text} It was", labels={"a": " great", "b": " terrible"})
    LocalEvaluator(model, task, Space(model, 5, targets="o_proj"))  # control
    with pytest.raises(GfoError, match=r"module 'model.layers.1.mlp.idle' is (never|not) called"):
        LocalEvaluator(model, task, Space(model, 5, targets="idle"))


def test_a_module_that_gives_tuples(tokenizer):
    model = make("phimoe", tokenizer, num_local_experts=4, num_key_value_heads=4)
    task = Classification(ROWS, template="Review: {text} It was", labels={"a": " great", "b": " terrible"})
    LocalEvaluator(model, task, LoRASubspace(model, 5))  # control
    with pytest.raises(GfoError, match=r"module 'model.layers.0.mlp.router' does not take one tensor"):
        LocalEvaluator(model, task, LoRASubspace(model, 2, targets="router", rank=2))
    with pytest.raises(GfoError, match="gives a tuple"):
        BiasSpace(model, 2, targets="router")
    with pytest.raises(GfoError, match="does not take one tensor"):  # a Delta of the user's own
        model.check(Delta(bias={"model.layers.1.mlp.router": torch.ones(1, 4)}))
