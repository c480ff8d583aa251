"""Heads and widths of a Structure: measures against modules counted by hand, sums of genes, bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

import gfo
from gfo import Domain, GfoError
from gfo.models.loading import freeze
from gfo.optimizers import make
from gfo.optimizers.genetic_operators import exchange
from gfo.spaces.structure import Structure
from gfo.testing import check_space
from gfo.testing.tiny import draw_weights, token_ids

TEXT = "Review: the movie is a great joy from the first minute to the last. Sentiment: positive"
WIDTHS = [1.0, 0.5, 0.25]


def numbers(*parts):
    return sum(p.numel() for p in parts)


def test_it_keeps_the_contract(tiny):
    model = tiny("llama")
    cuts = {"heads": "groups", "widths": WIDTHS, "attention": False, "feedforward": False}
    check_space(Structure(model, **cuts), model, same=Structure(model, **cuts), other=None)
    check_space(Structure(model, heads="queries", layers="upper", attention=False), model)


def test_genes_have_names_and_order(tiny):
    space = Structure(tiny("llama"), layers=[1, 2], attention=False, heads="groups", widths=WIDTHS)
    heads = ("heads 1.0", "heads 1.1", "heads 2.0", "heads 2.1")
    assert space.domain.names == ("feed-forward 1", "feed-forward 2", *heads, "width 1", "width 2")
    assert space.domain.high.tolist() == [1, 1, 1, 1, 1, 1, 2, 2]
    assert space.closed_of([0, 1, 0, 0, 1, 0, 1, 0]) == ["feed-forward 2", "heads 2.0", "width 1: 0.5"]
    assert space.first_layer == 1


@pytest.mark.parametrize("family_name", ["llama", "qwen2", "gpt2", "opt"])
def test_measures_are_those_of_the_modules(tiny, family_name):
    model = tiny(family_name)
    space = Structure(model, heads="groups", widths=WIDTHS)
    groups = space.cuts[0].units
    z = np.zeros((4, space.domain.d))
    z[1, 6], z[2, -1], z[3, [0, 5, 6, -1]] = 1, 1, 1
    found = space.measure(z)
    layer = model.all_layers[0]
    parts = {name: p for name, p in layer.named_parameters() if "norm" not in name and "ln_" not in name}
    attention = {n: p for n, p in parts.items() if "attn" in n}
    network = {n: p for n, p in parts.items() if "attn" not in n}
    last = ("o_proj.bias", "out_proj.bias", "attn.c_proj.bias", "mlp.c_proj.bias", "fc2.bias")
    head = numbers(*(p for n, p in attention.items() if not n.endswith(last))) // groups
    half = numbers(*(p for n, p in network.items() if not n.endswith(last))) // 2
    np.testing.assert_array_equal(found["parameters"][0] - found["parameters"][1:3], [head, half])
    matrices = numbers(*(p for p in attention.values() if p.ndim > 1)) // groups
    assert found["multiply_adds"][0] - found["multiply_adds"][1] == matrices
    assert found["keys_and_values"][0] - found["keys_and_values"][1] == 2 * 8
    closed = Structure(model).measure(np.eye(6)[[0]] + np.eye(6)[[5]])  # what they hold falls but once
    np.testing.assert_array_equal(found["parameters"][3:], closed["parameters"])
    np.testing.assert_array_equal(found["bytes"], 4 * found["parameters"])


def test_heads_of_queries_leave_keys_and_values(tiny):
    model = tiny("llama")
    space = Structure(model, heads="queries")
    found = space.measure(np.eye(space.domain.d)[[0, 6]])
    whole = Structure(model).measure(np.zeros((1, 6)))
    attention = model.all_layers[0].self_attn
    head = numbers(attention.q_proj.weight, attention.o_proj.weight) // 4
    assert whole["parameters"][0] - found["parameters"][1] == head
    assert whole["keys_and_values"][0] == found["keys_and_values"][1]


def test_neurons_fall_by_what_they_give(tiny):
    """The least of the norms on the texts first; without texts, those of the least columns."""
    model = tiny("llama")
    spaces = {
        "texts": Structure(model, widths=WIDTHS, calibration=[TEXT]),
        "none": Structure(model, widths=WIDTHS),
    }
    kept = {}
    for name, space in spaces.items():
        z = torch.zeros(1, space.domain.d)
        z[0, -1] = 1
        kept[name] = space.decode(z).input_scale[space.cuts[-1].module][0] > 0
    seen = []
    module = model.module.get_submodule(spaces["texts"].cuts[-1].module)
    handle = module.register_forward_pre_hook(lambda part, args: seen.append(args[0]))
    try:
        model.hidden_states(torch.tensor([model.encode(TEXT, start=True)]))
    finally:
        handle.remove()
    norms = {"texts": seen[0].flatten(0, 1).norm(dim=0), "none": module.weight.norm(dim=0)}
    for name, norm in norms.items():
        assert int(kept[name].sum()) == 24
        assert float(norm[kept[name]].min()) > float(norm[~kept[name]].max())
    assert not torch.equal(kept["texts"], kept["none"])


def test_repaired_points_keep_to_the_numbers(tiny):
    numbers = {"closed": 2, "closed_heads": 3, "narrower": 4}
    space = Structure(tiny("llama"), heads="groups", widths=WIDTHS, **numbers)
    assert space.domain.exactly == ((0, 6, 2), (6, 12, 3), (12, 15, 4))
    rng = np.random.default_rng(0)
    for z in (
        rng.integers(0, space.domain.high + 1, (100, 15)).astype(float),
        np.zeros((1, 15)),
        np.tile(space.domain.high, (1, 1)),
        3 * rng.random((50, 15)) - 0.5,
    ):
        fixed = space.repair(z)
        assert all((np.rint(fixed[:, a:b]).sum(axis=1) == n).all() for a, b, n in space.domain.exactly)
        assert space.domain.contains(space.domain.clip(fixed)).all()
        np.testing.assert_array_equal(space.repair(fixed), fixed)
        np.testing.assert_array_equal(space.repair(z), fixed)
    near = space.repair(np.hstack([np.zeros(12), [1.4, 0.2, 1.3]])[None])[0, 12:]
    np.testing.assert_array_equal(near, [2, 0, 2])
    sizes = space.measure(rng.random((50, 15)))["parameters"]
    assert (
        len(
            set(
                Structure(
                    tiny("llama"), attention=False, feedforward=False, widths=[1.0, 0.5], narrower=2
                ).measure(rng.random((50, 3)))["parameters"]
            )
        )
        == 1
    )  # an exact budget
    assert len(set(sizes)) > 1
    optimizer = make("ga", domain=space.domain, seed=0)
    for _ in range(5):
        z = optimizer.ask()
        np.testing.assert_array_equal(space.repair(z), z)  # it needs no repair
        optimizer.tell(z, z.sum(axis=1) + z[:, 0])


@given(st.integers(0, 12), st.integers(0, 2**32 - 1))
def test_exchange_steps_no_more_than_it_must(number, seed):
    rng = np.random.default_rng(seed)
    domain = Domain(np.zeros(6), np.full(6, 2.0), np.ones(6, bool), exactly=((0, 6, number),))
    z = rng.integers(0, 3, (20, 6)).astype(float)
    found = exchange(rng, z, domain=domain)
    assert (found.sum(axis=1) == number).all()
    assert domain.contains(found).all()
    np.testing.assert_array_equal(np.abs(found - z).sum(axis=1), np.abs(z.sum(axis=1) - number))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": "all"}, "unknown heads 'all'"),
        ({"heads": "groups", "closed_heads": 6}, "closed_heads = 6 must be 1 to 5: there are 6 heads"),
        ({"closed_heads": 1}, "closed_heads = 1 must be 1 to -1: there are 0 heads"),
        ({"widths": [0.5, 0.25]}, r"widths = \[0.5, 0.25\]: give 1 and then smaller"),
        ({"widths": [1.0, 0.5, 0.5]}, "widths = .*: give 1 and then smaller"),
        ({"widths": [1.0, 0.0]}, "widths = .*: give 1 and then smaller"),
        ({"widths": [1.0]}, "widths = .*: give 1 and then smaller"),
        ({"widths": [1.0, 0.5], "narrower": 3}, "narrower = 3 must be 1 to 2: there are 3 steps down"),
        ({"calibration": [TEXT]}, "calibration is for the order of neurons; give widths"),
        ({"widths": WIDTHS, "calibration": [""]}, "calibration: the texts have no tokens"),
        ({"attention": False, "closed": 3}, "closed = 3 must be 1 to 2: there are 3 sub-blocks"),
    ],
)
def test_what_does_not_fit_is_refused(tiny, options, words):
    with pytest.raises(GfoError, match=words) as error:
        Structure(tiny("llama"), **options)
    assert "\n" not in str(error.value)


def test_a_level_out_of_range(tiny):
    space = Structure(tiny("llama"), widths=WIDTHS)
    z = torch.zeros(2, space.domain.d)
    z[1, -1] = 3
    with pytest.raises(GfoError, match=r"gene 8 \(width 2\) of candidate 1 is 3.0; give 0 to 2"):
        space.decode(z)


def test_heads_that_are_not_known(tokenizer):
    """Multi-head latent attention, whose matrices are not those of heads."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4}
    ranks = {
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    }
    config = transformers.MiniCPM3Config(
        **sizes, **ranks, **token_ids(), intermediate_size=48, vocab_size=200
    )
    module = transformers.AutoModelForCausalLM.from_config(config)
    draw_weights(module, 0)
    model = freeze(module, tokenizer(), "tiny-latent")
    Structure(model, widths=WIDTHS)
    with pytest.raises(GfoError, match="so that its heads cannot be closed; leave heads out"):
        Structure(model, heads="groups")


def test_latency_is_a_table_in_a_file(tiny, tmp_path):
    """Sums of what the file says; it is measured once, and a table of others is refused."""
    model = tiny("llama")
    path = tmp_path / "latency.json"
    options = {"heads": "groups", "widths": WIDTHS, "latency": str(path)}
    space = Structure(model, **options)
    table = json.loads(path.read_text())
    attention, network = (table["milliseconds"][name] for name in ("attention 0", "feed-forward 0"))
    assert set(attention) == {"1", "2"}
    assert set(network) == {"12", "24", "48"}
    assert min(*attention.values(), *network.values()) > 0
    table["rest"] = 7.0
    table["milliseconds"] = {
        "attention 0": {"1": 2.0, "2": 3.0},
        "feed-forward 0": {"12": 10, "24": 20, "48": 40},
    }
    path.write_text(json.dumps(table))
    space = Structure(model, **options)
    z = np.zeros((5, space.domain.d))
    z[1, 0], z[2, 6], z[3, -1], z[4, [5, -1, 6, 7]] = 1, 1, 2, 1
    whole = 7 + 3 * 43
    np.testing.assert_allclose(
        space.measure(z)["latency"], [whole, whole - 3, whole - 1, whole - 30, whole - 40 - 3]
    )
    assert json.loads(path.read_text()) == table
    for name, value in (("model", "another"), ("machine", "elsewhere"), ("milliseconds", {})):
        path.write_text(json.dumps(table | {name: value}))
        with pytest.raises(GfoError, match=r"latency: .* name another file"):
            Structure(model, **options)
    path.write_text("")
    with pytest.raises(GfoError, match=r"latency: .* name another file"):
        Structure(model, **options)
    with pytest.raises(GfoError, match="latency is known of heads = 'groups' alone"):
        Structure(model, heads="queries", latency=str(path))
    with pytest.raises(GfoError, match="is not one module; leave latency out"):
        Structure(tiny("opt"), latency=str(tmp_path / "other.json"))


def test_a_limit_on_latency(tiny, tmp_path):
    model = tiny("llama")
    space = Structure(model, widths=WIDTHS, latency=str(tmp_path / "latency.json"))
    task = gfo.LanguageModeling([{"text": TEXT}], template="{text}")
    whole, least = space.measure(np.stack([np.zeros(9), np.ones(9)]))["latency"]
    limit = (whole + least) / 2
    budget = gfo.Budget(evaluations=60)
    result = gfo.tune(
        model, task, space, optimizer="ga", budget=budget, limits={"latency": limit}, progress=False
    )
    assert space.measure(result.z[None])["latency"][0] <= limit
