"""The growth benchmark: what it measures and writes, that growth is seen, and its bad input."""

from __future__ import annotations

import contextlib
import io
import json

import pytest

from benchmarks.speed import growth, models, workloads
from benchmarks.speed.data import DATA_SETS

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
QUICK = ["--candidates", "1", "4", "--rows", "2", "6", "--text-length", "4", "40", "--repeats", "1"]


@pytest.fixture(autouse=True, scope="module")
def _small():
    """There is a shape "small"."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.SHAPES, "small", {**models.SMOLLM2, **SMALL, "vocab_size": 100})
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A folder with what the command writes, quickly, and prints."""
    folder, printed = tmp_path_factory.mktemp("growth"), io.StringIO()
    files = ["--json", str(folder / "growth.json"), "--png", str(folder / "growth.png")]
    with contextlib.redirect_stdout(printed):
        assert growth.main(["--shape", "small", "--layers", "2", "--steps", "20", *QUICK, *files]) == 0
    (folder / "printed").write_text(printed.getvalue())
    return folder


@pytest.fixture
def found(out):
    return json.loads((out / "growth.json").read_text())


def test_command_writes_figure_and_json(out, found):
    assert (out / "growth.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "growth.png").stat().st_size > 20_000
    assert str(out) not in (out / "growth.json").read_text()
    assert "with 2 layers" in found["title"]
    printed = (out / "printed").read_text()
    assert "memory grew by" in printed
    assert "tokens of a text" in printed
    assert [(curve["workload"], curve["axis"]) for curve in found["sweeps"]] == [
        (workload, axis)
        for axis in ("candidates", "rows", "text_length")
        for workload in ("text-first", "prompt-first")
    ]
    assert [(each["workload"], len(each["mib"])) for each in found["memory"]] == [
        ("text-first", 20),
        ("prompt-first", 20),
    ]


def test_tokens_needed_grow_as_they_should(found):
    """P + 4 words behind the text; prompt first: P once a candidate, then text and 7 words of each row."""
    text, prompt = 8 + 2, 8
    expected = {
        ("text-first", "candidates"): [16 * text, 4 * 16 * text],
        ("text-first", "rows"): [4 * 2 * text, 4 * 6 * text],
        ("text-first", "text_length"): [4 * 16 * text, 4 * 16 * text],
        ("prompt-first", "text_length"): [4 * (prompt + 3 + 16 * (n + 3)) for n in (4, 40)],
    }
    for curve in found["sweeps"]:
        key = curve["workload"], curve["axis"]
        if key in expected:
            assert [point["tokens_needed"] for point in curve["points"]] == expected[key], key


def test_once_is_what_the_texts_take(found):
    for curve in found["sweeps"]:
        once = [point["once_seconds"] for point in curve["points"]]
        if curve["workload"] == "prompt-first":
            assert once == [0, 0]
        elif curve["axis"] == "text_length":
            assert once[1] > 0  # 40 tokens a text


def test_ideal_is_the_best_points_rate(found):
    for curve in found["sweeps"]:
        rates = [point["seconds"] / point["ideal_seconds"] for point in curve["points"]]
        assert min(rates) == pytest.approx(1)
        first, last = curve["points"]
        ideal = last["ideal_seconds"] / first["ideal_seconds"]
        assert ideal == pytest.approx(last["tokens_needed"] / first["tokens_needed"])


def test_growth_of_memory_is_seen(tiny, monkeypatch):
    steps = iter(range(10**6))
    workload = workloads.WORKLOADS["text-first"][0]
    monkeypatch.setattr(growth, "_held_bytes", lambda model: (100 + next(steps)) * 2**20)
    assert growth.memory(tiny("llama"), workload, 20, seed=0)["growth_mib"] == 16
    monkeypatch.setattr(growth, "_held_bytes", lambda model: 100 * 2**20)
    assert growth.memory(tiny("llama"), workload, 20, seed=0)["growth_mib"] == 0


def test_minibatches_differ_from_step_to_step(tiny):
    it = workloads.setting(
        workloads.WORKLOADS["text-first"][0],
        DATA_SETS["sst2"],
        tiny("llama"),
        candidates=2,
        chunk_tokens=300,
        rows=64,
        batch_size=8,
    )
    batches = [it.bound.batch("train", step) for step in range(10)]
    assert len({batch.key for batch in batches}) == 10
    assert all(len(batch) == 8 and not batch.recurs for batch in batches)
    assert it.bound.batch("train", 3).key == batches[3].key
    assert it.bound.all_rows("train").recurs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workload", "lora"], "unknown --workload 'lora'"),
        (["--candidates", "4", "0"], "--candidates 0: must be at least 1"),
        (["--text-length", "-1"], "--text-length -1: must be at least 1"),
        (["--rows"], "--rows: expected at least one argument"),
        (["--steps", "5"], "--steps 5: must be at least 20"),
        (["--layers", "0"], "--layers 0: must be at least 1"),
        (["--layers", "2", "--model", "x"], "--layers 2: --model x has its layers"),
        (["--png", "no-such-folder/a.png"], "--png no-such-folder/a.png: its folder"),
        (["--shape", "small", "--text-length", "9000", "--rows", "2"], "the model's context has 8192"),
    ],
)
def test_bad_option_is_one_line_and_exit_code_2(capsys, arguments, message):
    assert growth.main([*QUICK, *arguments]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert message in line
