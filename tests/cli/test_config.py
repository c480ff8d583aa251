"""Configs: files, overrides, spaces by kind, and one clear line for each mistake."""

import inspect
import json

import numpy as np
import pytest
import torch
from pydantic_core import PydanticUndefined

import gfo
from gfo.config import DEMO, load_config
from gfo.config.spaces import space_section
from gfo.core.errors import GfoError
from gfo.core.registry import entries
from gfo.report.export import export

CONFIG = """
[task]
train = "train.jsonl"
template = "{text}{soft}"
labels = { a = " x", b = " y" }
[budget]
evaluations = 10
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(CONFIG)
    return path


def test_defaults_and_overrides(path):
    config = load_config(
        path, ["budget.evaluations=30", "space.init=two words", "optimizer.options.population=5"]
    )
    assert config.budget.evaluations == 30
    assert config.space.init == "two words"
    assert config.optimizer.options == {"population": 5}
    assert config.space.tokens == 8
    assert load_config(path).space.kind == load_config(path).optimizer.name == "auto"  # nothing was said
    assert load_config(path, ["optimizer.name=ga"]).space.kind == "auto"
    assert load_config(path, ["space.kind=soft-prompt"]).optimizer.name == "cma"
    assert load_config(path, ["baseline.name=gradient"]).space.kind == "soft-prompt"


def test_json_round_trip(path, tmp_path):
    config = load_config(path, ["seed=4"])
    (tmp_path / "config.json").write_text(config.model_dump_json(exclude_none=True))
    assert load_config(tmp_path / "config.json") == config
    assert load_config(path) != config


def test_the_demo_config_names_data_that_exist():
    rows = load_config(DEMO).task.build(seed=0).data.rows
    assert {split: len(rows[split]) for split in rows} == {
        "train": 128,
        "dev": 128,
        "test": 400,
    }


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("space.kind=soft-promt", "unknown space 'soft-promt': did you mean 'soft-prompt'"),
        ("space=3", r"space = 3; write a section \[space\]"),
        ('space={kind="lora", rnk=3}', r"unknown key in \[space\] 'rnk': did you mean 'rank'"),
        ('space={kind="deep-prompt", prefix=3}', r"unknown key in \[space\] 'prefix'"),
        ('space={kind="prefix", tokens="x"}', "space.tokens = 'x': input should be a valid integer"),
        ('space={kind="deep-prompt", layers=1.5}', "space.layers = 1.5: input should be a valid string"),
        ('space={kind="product"}', "'space.spaces' is missing"),
        ('space={kind="product", spaces=[{kind="lra"}]}', "unknown space 'lra': did you mean 'lora'"),
        (
            'space={kind="product", spaces=[{}, {kind="bias", rank=3}]}',
            r"unknown key in \[space.spaces.1\] 'rank'",
        ),
        ("task.kind=clasification", "unknown task 'clasification': did you mean 'classification'"),
        (
            'task={kind="generation", template="{a}", train="t", max_token=3}',
            r"unknown key in \[task\] 'max_token': did you mean 'max_tokens'",
        ),
        ('task={kind="generation", train="t"}', "'task.template' is missing"),
        (
            'task={kind="generation", train="t", template="", stop=3}',
            "task.stop = 3: input should be a valid string",
        ),
        (
            'task={kind="generation", train="t", template="", stop=[3]}',
            r"task.stop = \[3\]: input should be a valid string",
        ),
        ("task=3", r"task = 3; write a section \[task\]"),
        ("task.limits.test=x", "task.limits.test = 'x': input should be a valid integer"),
        ("space.token=4", r"unknown key in \[space\] 'token': did you mean 'tokens'"),
        ("bugdet.evaluations=4", "unknown key 'bugdet': did you mean 'budget'"),
        ("budget.evaluations=many", "budget.evaluations = 'many': input should be a valid integer"),
        ("budget", "write key=value"),
        ("seed.x=1", "unknown key|'seed' is a value|seed = "),
        ("task.train.x=1", "'train' is a value, not a section"),
    ],
)
def test_bad_overrides(path, override, words):
    with pytest.raises(GfoError, match=words) as error:
        load_config(path, [override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[task\n", "write TOML"),
        ("", "'task' is missing"),
        (CONFIG.replace("[budget]\nevaluations = 10\n", ""), "'budget' is missing"),
        (CONFIG.replace('template = "{text}{soft}"', ""), "'task.template' is missing"),
    ],
)
def test_bad_files(path, text, words):
    path.write_text(text)
    with pytest.raises(GfoError, match=words) as error:
        load_config(path)
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(GfoError, match=r"cannot read .*none\.toml: No such file"):
        load_config(tmp_path / "none.toml")


def test_memory_of_a_forward_pass(path):
    assert load_config(path).model.memory is None
    assert load_config(path, ["model.memory_gib=0.5"]).model.memory == 2**29
    with pytest.raises(GfoError, match=r"model.memory_gib = 0: .*greater than 0"):
        load_config(path, ["model.memory_gib=0"])


# kind -> keys, and what they must build
BUILT = {
    "soft-prompt": ({"tokens": 3, "dim": 7}, lambda m, s: gfo.SoftPrompt(m, 3, 7, seed=s)),
    "deep-prompt": (
        {"tokens": 3, "dim": 7, "layers": [1, 2]},
        lambda m, s: gfo.DeepPrompt(m, 3, 7, layers=[1, 2], seed=s),
    ),
    "prefix": (
        {"tokens": 3, "dim": 7, "layers": "upper", "init": "the food"},
        lambda m, s: gfo.Prefix(m, 3, 7, layers="upper", init="the food", seed=s),
    ),
    "lora": (
        {"method": "lora-xs", "rank": 2, "dim": 7, "targets": ["k_proj"]},
        lambda m, s: gfo.LoRASubspace(m, 7, method="lora-xs", rank=2, targets="k_proj", seed=s),
    ),
    "scaling": ({"method": "norm", "dim": 7}, lambda m, s: gfo.Scaling(m, 7, method="norm", seed=s)),
    "bias": ({"dim": 7, "alpha": 0.5}, lambda m, s: gfo.BiasSpace(m, 7, alpha=0.5, seed=s)),
    "adapter": ({"dim": 7, "rank": 3}, lambda m, s: gfo.Adapter(m, 7, rank=3, seed=s)),
    "discrete-prompt": (
        {"tokens": 3, "candidates": [30, 31, 32]},
        lambda m, s: gfo.DiscretePrompt(m, 3, [30, 31, 32], seed=s),
    ),
    "texts": (
        {"start": ["Judge.", "Say it."], "length": 50},
        lambda m, s: gfo.Texts(["Judge.", "Say it."], length=50),
    ),
    "words": (
        {"words": ["Judge.", "Be fair."], "places": 3, "joint": " - "},
        lambda m, s: gfo.Words(["Judge.", "Be fair."], 3, joint=" - "),
    ),
    "structure": (
        {"attention": False, "layers": "upper", "closed": 1},
        lambda m, s: gfo.Structure(m, attention=False, layers="upper", closed=1),
    ),
    "compression": (
        {"levels": ["Q8_0", "Q4_0"], "layers": [1], "targets": "q_proj"},
        lambda m, s: gfo.Compression(m, ["Q8_0", "Q4_0"], layers=[1], targets="q_proj"),
    ),
    "product": (
        {"spaces": [{"kind": "lora", "dim": 4, "seed": 1}, {"tokens": 2, "dim": 3, "seed": 2}]},
        lambda m, s: gfo.ProductSpace(gfo.LoRASubspace(m, 4, seed=1), gfo.SoftPrompt(m, 2, 3, seed=2)),
    ),
}


def config_of(tmp_path, kind, keys):
    """A config with this space, from its JSON."""
    values = {
        "task": {"train": "train.jsonl", "template": "{text}{soft}", "labels": {"a": " x", "b": " y"}},
        "budget": {"evaluations": 10},
        "space": {"kind": kind, **keys},
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    return load_config(tmp_path / "config.json")


@pytest.mark.parametrize("kind", BUILT)
def test_every_kind_of_space_is_built(tiny, tmp_path, kind):
    keys, expected = BUILT[kind]
    model, config = tiny("llama"), config_of(tmp_path, kind, keys)
    space, other, wanted = config.space.build(model, 5), config.space.build(model, 6), expected(model, 5)
    assert type(space) is type(wanted)
    if kind in ("texts", "words"):
        assert space.text(np.ones(space.domain.d)) == wanted.text(np.ones(space.domain.d)) != ""
        return
    z = torch.ones(2, space.domain.d)
    tensors, others, right = (list(s.decode(z).tensors()) for s in (space, other, wanted))
    assert all(torch.equal(a, b) for a, b in zip(tensors, right, strict=True))
    if kind not in ("product", "discrete-prompt", "structure", "compression"):  # which do not draw here
        assert not all(torch.equal(a, b) for a, b in zip(tensors, others, strict=True))
    early = config.space.domain()
    assert (early is None) == (kind in ("structure", "compression"))  # of a size that the model has
    if early is not None:
        assert early.integer.tolist() == space.domain.integer.tolist()
        assert early.high.tolist() == space.domain.high.tolist()
    (tmp_path / "again.json").write_text(config.model_dump_json(exclude_none=True))
    assert load_config(tmp_path / "again.json") == config


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("kind", ["soft-prompt", "lora"])
def test_spaces_that_start_from_adapters(tiny, tmp_path, kind, alpha):
    """The key from_peft is `from_peft` of the class, which has its own default of alpha."""
    model = tiny("llama")
    maker = {"soft-prompt": gfo.SoftPrompt, "lora": gfo.LoRASubspace}[kind]
    task = gfo.Classification(
        [{"t": "a", "label": "x"}], template="{soft}{t}", labels={"x": " great", "y": "a"}
    )
    export(gfo.LocalEvaluator(model, task, maker(model, dim=5)), np.ones(5), "peft", tmp_path / "adapter")
    options = {"dim": 7} | ({} if alpha is None else {"alpha": alpha})
    keys = {"from_peft": str(tmp_path / "adapter"), **options}
    config = config_of(tmp_path, kind, keys)
    found = config.space.build(model, 5).decode(torch.ones(1, 7))
    wanted = maker.from_peft(tmp_path / "adapter", model, **options, seed=5).decode(torch.ones(1, 7))
    other = maker.from_peft(tmp_path / "adapter", model, 7, alpha=1.5, seed=5).decode(torch.ones(1, 7))
    tensors, right, wrong = (list(delta.tensors()) for delta in (found, wanted, other))
    assert all(torch.equal(a, b) for a, b in zip(tensors, right, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(tensors, wrong, strict=True))
    (tmp_path / "again.json").write_text(config.model_dump_json(exclude_none=True))
    assert load_config(tmp_path / "again.json") == config
    said = {"soft-prompt": ("init", "a text"), "lora": ("rank", 3)}[kind]
    with pytest.raises(GfoError, match=rf"from_peft says what {said[0]} is; leave {said[0]} out"):
        config_of(tmp_path, kind, keys | dict([said]))


def test_products_have_a_seed_for_each_part(tiny, tmp_path):
    keys = {"spaces": [{"tokens": 2, "dim": 3}, {"kind": "lora", "dim": 3}, {"kind": "bias", "dim": 3}]}
    space = config_of(tmp_path, "product", keys).space
    model = tiny("llama")
    first, same, other = (space.build(model, seed).decode(torch.ones(1, 9)).prompt for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


# what the keys and defaults of 0.1.0 were, beside kind and seed: configs of then are configs of now
REQUIRED = inspect.Parameter.empty  # what has no default
KEYS = {
    "soft-prompt": {
        "tokens": 8, "dim": 200, "init": None, "from_peft": None, "alpha": 2.0, "projection": "gaussian"
    },
    "deep-prompt": {
        "tokens": 8, "dim": 200, "layers": None, "init": None, "alpha": 0.2, "joint": False,
        "projection": "gaussian", "scale_text": None,
    },
    "prefix": {
        "tokens": 8, "dim": 200, "layers": None, "init": None, "alpha": 0.3, "projection": "auto"
    },
    "lora": {
        "method": "lora-fa", "dim": None, "targets": None, "layers": None, "rank": None, "from_peft": None,
        "alpha": None, "begins": None, "projection": "auto",
    },
    "scaling": {
        "method": "ia3", "dim": 200, "targets": None, "layers": None, "alpha": 0.1, "begins": None,
        "projection": "auto",
    },
    "bias": {
        "dim": 200, "targets": None, "layers": None, "alpha": 0.15, "begins": None, "projection": "auto"
    },
    "adapter": {
        "rank": 8, "dim": 200, "targets": None, "layers": None, "alpha": 0.15, "begins": None,
        "projection": "auto",
    },
    "discrete-prompt": {
        "tokens": 8, "candidates": None, "number": 500, "similar_to": None, "init": None
    },
    "merge": {
        "checkpoints": REQUIRED, "method": "linear", "groups": None, "filters": (), "density": None,
        "spread": 0.25,
    },
    "texts": {"start": REQUIRED, "length": 1000},
    "words": {"words": REQUIRED, "places": 4, "joint": " ", "init": ()},
    "structure": {
        "attention": True, "feedforward": True, "layers": None, "closed": None, "heads": None,
        "closed_heads": None, "widths": None, "narrower": None, "calibration": None, "latency": None,
    },
    "compression": {
        "levels": ("Q8_0", "Q5_0", "Q4_0"), "limit": None, "targets": None, "layers": None,
        "embeddings": "Q8_0", "calibration": None, "sensitivity": None,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KEYS)
def test_keys_and_defaults_are_those_of_the_class(kind):
    """Every argument is a key, with one default."""
    entry = entries("space")[kind]
    arguments = inspect.signature(entry.load()).parameters
    fields = space_section(entry).model_fields.items()
    defaults = {name: field.get_default(call_default_factory=True) for name, field in fields}
    defaults = {name: tuple(x) if isinstance(x, list) else x for name, x in defaults.items()}
    defaults = {name: REQUIRED if x is PydanticUndefined else x for name, x in defaults.items()}
    assert {name: value for name, value in defaults.items() if name not in ("kind", "seed")} == KEYS[kind]
    if "seed" in arguments:
        defaults["seed"] = 0
    del defaults["kind"]
    defaults.pop("from_peft", None)  # another maker of the class
    assert defaults == {name: p.default for name, p in arguments.items() if name != "model"}


def test_every_space_is_tested():
    """A merge is built in tests/spaces/test_merge.py, of checkpoints."""
    assert set(entries("space")) == {*BUILT, "merge"} == {*KEYS, "product"}


def test_a_method_that_does_not_fit_fails_early(tmp_path):
    config = config_of(tmp_path, "discrete-prompt", {})
    with pytest.raises(GfoError, match="'cma' cannot take integer genes"):
        config.run(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert config_of(tmp_path, "lora", {"method": "tiny"}).space.domain().d == 13
    assert config_of(tmp_path, "lora", {}).space.domain().d == 200
