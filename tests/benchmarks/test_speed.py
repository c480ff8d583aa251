"""The speed benchmark itself: what it writes, that wrong rivals are caught, and its bad input."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.speed import __main__ as speed
from benchmarks.speed import measure, models, rivals, workloads
from benchmarks.speed.data import DATA_SETS
from gfo.core.errors import GfoError

ROOT = Path(__file__).parents[2]
ALL = {"gfo", "serial", "stacked", "plain"}
SETTINGS = [
    ("text-first", 8),
    ("prompt-first", 8),
    ("prompt-first", 50),
    ("lora", 0),
    ("lora-here", 0),
    ("lora-read", 0),
    ("lora-upper", 0),
    ("rank-1", 0),
    ("deep-prompt-upper", 8),
]
ROWS = {
    "sst2": [{"text": "a" * n, "label_text": ("negative", "positive")[n % 2]} for n in (2, 5)],
    "agnews": [{"text": f"row {n}", "label_text": "World"} for n in range(70)],
    "boolq": [{"text_a": "b", "text_b": "is it", "label_text": "yes"} for _ in range(9)],
}


@pytest.fixture
def one(tiny):
    """A function of a workload's name and P to its setting on a tiny model."""

    def make(name, P=None, *, model=None, data="sst2", chunk_tokens=300, **options):
        found = [each for each in workloads.WORKLOADS[name] if P in (None, each.prompt_tokens)]
        return workloads.setting(
            found[0],
            DATA_SETS[data],
            model or tiny("llama"),
            candidates=3,
            chunk_tokens=chunk_tokens,
            **options,
        )

    return make


@pytest.fixture
def folder(tiny, tmp_path):
    """A tiny model's folder."""
    model = tiny("llama")
    model.module.save_pretrained(tmp_path / "tiny")
    model.tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def data_folder(tmp_path):
    """A folder with a few rows of each data set."""
    for name, data in DATA_SETS.items():
        file = tmp_path / data.file
        file.parent.mkdir(parents=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
    return tmp_path


def test_command_writes_the_json(folder, tmp_path):
    out = tmp_path / "speed.json"
    command = [sys.executable, "-m", "benchmarks.speed", "--model", str(folder), "--json", str(out)]
    command += ["--candidates", "2", "--threads", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "round 3 of 3" in done.stderr
    assert "vs serial" in done.stdout
    assert str(tmp_path) not in out.read_text()
    found = json.loads(out.read_text())
    assert set(found) == {"workloads", "seed", "versions", "hardware", "date"}
    assert set(found["hardware"]) >= {"processor", "cores", "memory_gib", "threads"}
    assert found["hardware"]["threads"] == 1
    assert {"gfo", "torch", "transformers"} <= set(found["versions"])
    rows = found["workloads"]
    assert [(row["workload"], row["prompt_tokens"]) for row in rows] == SETTINGS
    for row in rows:
        assert (row["candidates"], row["rows"], row["model"], row["dataset"]) == (2, 32, "tiny", "sst2")
        peft = (
            {"peft"} if row["workload"] in ("lora", "lora-upper", "rank-1") and find_spec("peft") else set()
        )
        assert set(row["cpu_seconds"]) == set(row["wall_seconds"]) == ALL | peft
        assert all(len(rounds) == 3 for rounds in row["cpu_seconds"].values())
        assert min(row["speedup_serial"], row["speedup_stacked"], row["share_of_plain"]) > 0
        assert (row["speedup_peft"] is not None) == bool(peft)
        assert 0 < row["share_of_matrix_rate"] < 1
        assert 0 <= row["max_loss_difference"] < 1e-5
        assert row["forward_tokens"] >= row["tokens_needed"] > 0
        assert (row["clock"], row["difference_to_float32"]) == ("cpu", None)
    once = {row["workload"]: row["once"]["forward_tokens"] for row in rows}
    assert once["lora"] == 0
    assert min(once["text-first"], once["lora-upper"], once["deep-prompt-upper"]) > 0


@pytest.mark.parametrize(("name", "P"), SETTINGS)
@pytest.mark.parametrize(("family", "chunk_tokens"), [("llama", 300), ("gpt2", 2000)])
def test_rivals_agree_and_candidates_differ(one, tiny, name, P, family, chunk_tokens):
    it = one(name, P, model=tiny(family), chunk_tokens=chunk_tokens)
    found = measure.measure(it, 1)
    low, high = found["losses"]
    assert found["max_loss_difference"] < 5e-5
    assert high - low > 50 * found["max_loss_difference"]


@pytest.mark.parametrize("name", ["lora", "lora-upper"])
def test_peft_agrees(one, name):
    pytest.importorskip("peft")
    found = measure.measure(one(name), 1)
    assert set(found["cpu_seconds"]) == ALL | {"peft"}
    assert found["speedup_peft"] > 0


@pytest.mark.parametrize(("name", "P"), SETTINGS)
def test_serial_rival_that_ignores_the_candidate_is_caught(one, name, P):
    it = one(name, P)
    at_zero = rivals.Serial(dataclasses.replace(it, z=0 * it.z), rivals.WholeRows(it))
    with pytest.raises(measure.DisagreementError, match="losses of serial and gfo differ by"):
        measure.measure(
            it, 1, rivals={"gfo": lambda: measure.make_evaluator(it)(it.z, 0).loss, "serial": at_zero.losses}
        )


@pytest.mark.parametrize(("name", "P"), SETTINGS)
def test_stacked_candidates_in_another_order_are_caught(one, name, P):
    it = one(name, P)
    usual = rivals.usual_rivals(it, measure.make_evaluator(it))
    with pytest.raises(measure.DisagreementError, match="losses of stacked and gfo differ by"):
        measure.measure(it, 1, rivals={**usual, "stacked": lambda: usual["stacked"]()[::-1]})


def test_rival_that_reads_another_token_is_caught(one):
    it = one("text-first")
    rows = rivals.WholeRows(it)
    rows.tokens = dataclasses.replace(rows.tokens, length=rows.tokens.length - 1)
    wrong = {
        **rivals.usual_rivals(it, measure.make_evaluator(it)),
        "serial": rivals.Serial(it, rows).losses,
    }
    with pytest.raises(measure.DisagreementError, match="losses of serial and gfo differ by"):
        measure.measure(it, 1, rivals=wrong)


def test_serial_leaves_the_model_as_it_was(one):
    it = one("lora")
    before = {name: p.clone() for name, p in it.model.module.named_parameters()}
    serial = rivals.Serial(it, rivals.WholeRows(it))
    first = serial.losses()
    assert np.array_equal(first, serial.losses())  # nothing adds up from call to call
    assert all(torch.equal(p, before[name]) for name, p in it.model.module.named_parameters())
    changed = {name for name, p in serial._module.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {f"{name}.weight" for name in it.space.names}


@pytest.mark.parametrize(("name", "P"), SETTINGS)
def test_plain_passes_are_the_tokens_needed(one, name, P):
    it = one(name, P)
    plain = rivals.Plain(it)
    first = it.delta().first_layer
    share = 1 - first / it.model.layers
    tokens = sum(sequences * n for sequences, n in plain.passes)
    needed = measure.measure(it, 1)["tokens_needed"]
    assert tokens * share == pytest.approx(needed, abs=max(n for _, n in plain.passes) + 1)
    assert max(sequences * n for sequences, n in plain.passes) <= it.chunk_tokens
    assert first == (it.model.layers // 2 if name.endswith("upper") else 0)
    assert len(plain._body.layers) == it.model.layers - first


def test_half_precision_is_reported_not_refused(one, tiny):
    model = tiny("llama", dtype=torch.bfloat16)
    found = measure.measure(one("text-first", model=model), 1)
    assert found["dtype"] == "bfloat16"
    assert 1e-4 < found["difference_to_float32"] < 0.5
    same = one("text-first", model=model)
    assert measure.difference_to_float32(same, np.array([9.0, 9.0, 9.0])) > 1  # control


def test_failed_loss_is_caught():
    losses = {"gfo": np.array([0.5, np.nan]), "serial": np.array([0.5, 0.6])}
    for most in (1e-4, 1e30):
        with pytest.raises(measure.DisagreementError):
            measure.largest_difference(losses, "serial", most)


def test_ratios_are_of_medians_on_the_devices_clock():
    rounds = {"gfo": [1.0, 2.0, 90.0], "serial": [9.0, 14.0, 16.0]}
    wall = {"gfo": [1.0, 1.0, 1.0], "serial": [3.0, 3.0, 3.0]}
    assert measure.Seconds(torch.device("cpu"), rounds, wall).ratio("serial", "gfo") == 7
    assert measure.Seconds(torch.device("cuda"), rounds, wall).ratio("serial", "gfo") == 3
    assert measure.Seconds(torch.device("cpu"), rounds, wall).ratio("peft", "gfo") is None


def test_share_of_the_matrix_rate(tiny, monkeypatch):
    model = tiny("llama")
    assert measure.matrix_rate(model.device, model.dtype, side=64) > 1e6
    monkeypatch.setattr(measure, "matrix_rate", lambda device, dtype: 1e9)
    seconds = measure.Seconds(model.device, cpu={"gfo": [2.0]})
    D, inner = 32, 48
    layer = 2 * D * D + 2 * D * D // 2 + 3 * D * inner + 2 * D
    found = measure.matrix_shares(model, 1000, seconds)
    assert found["share_of_matrix_rate"] == pytest.approx(2 * 3 * layer * 1000 / 2.0 / 1e9)


@pytest.mark.parametrize(
    ("name", "mean", "longest"), [("sst2", 23.4, 52), ("agnews", 54, 100), ("boolq", 145, 268)]
)
def test_lengths_are_the_data_sets(name, mean, longest):
    data = DATA_SETS[name]
    lengths = data.lengths()
    assert lengths == sorted(lengths)
    assert len(lengths) == data.rows
    assert np.mean(lengths) == pytest.approx(mean, abs=1.5)
    assert max(lengths) == pytest.approx(longest, abs=2)
    assert np.mean(data.lengths(64)) == pytest.approx(np.mean(data.quantiles), abs=1)


def test_text_length_gives_all_rows_that_length(one):
    it = one("text-first", text_length=17)
    other = one("text-first", text_length=18)
    assert len({len(row) for row in it.batch.before}) == 1
    assert len(other.batch.before[0]) == len(it.batch.before[0]) + 1


def test_rows_of_each_data_set(data_folder):
    rows = {name: data.read(data_folder) for name, data in DATA_SETS.items()}
    assert [row["text"] for row in rows["sst2"]] == ["aa", "aaaaa"]
    assert [row["text"] for row in rows["agnews"]] == [f"row {n}" for n in range(0, 64, 4)]
    assert rows["boolq"] == [{"text": "b\nQuestion: is it?", "label_text": "yes"}] * 8


def test_row_without_a_field_is_named(data_folder):
    data = DATA_SETS["boolq"]
    (data_folder / data.file).write_text('{"text_a": "b", "label_text": "no"}\n')
    with pytest.raises(GfoError, match="has no field 'text_b'"):
        data.read(data_folder)


def test_data_folder_is_read(folder, data_folder, capsys):
    arguments = ["--data", str(data_folder), "--model", str(folder), "--candidates", "2", "--repeats", "1"]
    code = speed.main([*arguments, "--workload", "text-first"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert "2 x 2" in captured.out


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_random_weights_of_a_shape(monkeypatch, capsys, dtype):
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
    monkeypatch.setitem(models.SHAPES, "small", {**models.SMOLLM2, **small, "vocab_size": 100})
    arguments = ["--shape", "small", "--dtype", dtype, "--text-length", "9", "--candidates", "2"]
    code = speed.main([*arguments, "--repeats", "1", "--workload", "lora-upper", "--dataset", "boolq"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert "2 x 8" in captured.out
    assert ("to float32" in captured.out) == (dtype != "float32")
    model = models.random_decoder("small", dtype=dtype, device="cpu", seed=0, layers=2)
    assert str(model.dtype) == f"torch.{dtype}"
    assert model.layers == 2
    assert torch.get_default_dtype() == torch.float32
    assert len(model.encode("Review: ")) == 3
    same, other = (models.random_decoder("small", dtype=dtype, device="cpu", seed=n) for n in (0, 1))
    weight = model.weight("model.layers.0.mlp.up_proj")
    assert torch.equal(weight, same.weight("model.layers.0.mlp.up_proj")) != (model.layers != same.layers)
    assert not torch.equal(same.module.lm_head.weight, other.module.lm_head.weight)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_one_line(capsys):
    assert speed.main(["--device", "cuda", "--dtype", "bfloat16", "--shape", "1.7b"]) == 2
    assert capsys.readouterr().err.startswith("error: --device cuda: torch sees no GPU")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workload", "text-frist"], "did you mean 'text-first'"),
        (["--dataset", "sst3"], "did you mean 'sst2'"),
        (["--shape", "135"], "did you mean '135m'"),
        (["--shape", "7b", "--model", "x"], "--shape 7b: --model x has a shape"),
        (["--data", ".", "--text-length", "9"], "--data .: --text-length 9 takes random tokens"),
        (["--text-length", "0"], "--text-length 0: must be at least 1"),
        (["--dtype", "int8"], "invalid choice: 'int8'"),
        (["--candidates", "0"], "--candidates 0: must be at least 1"),
        (["--candidates", "many"], "invalid int value: 'many'"),
        (["--threads", "-1"], "--threads -1"),
        (["--repeats", "2", "--json", "out.json"], "medians of at least 3"),
        (["--json", "no-such-folder/out.json"], "does not exist or is not writable"),
        (["--data", "no-such-folder"], "has no file kshot16"),
        (["--seed", "-1"], "--seed -1"),
        (["--fast"], "unrecognized arguments: --fast"),
        (["--model", "no-such-model"], "no-such-model"),
    ],
)
def test_bad_option_is_one_line_and_exit_code_2(capsys, arguments, message):
    assert speed.main(arguments) == 2
    *progress, line = capsys.readouterr().err.splitlines()
    assert message in line
    assert line.startswith("error: ")
    assert [text.partition(" ")[2] for text in progress] in ([], ["loading no-such-model"])
