"""Memory: the model of it against measured peaks, and what happens where it runs out."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from gfo import Classification, GfoError, LocalEvaluator, SoftPrompt
from gfo.evaluation import memory
from gfo.evaluation.memory import chunk_tokens, halved, is_out_of_memory, token_bytes
from gfo.evaluation.store import Store
from gfo.run.environment import PeakMemory

LABELS = {"bad": " terrible", "good": " great"}
ROWS = [
    {"text": "the movie is good but short " * n, "label": label}
    for n, label in zip(range(3, 11), ["good", "bad"] * 4, strict=True)
]
WIDE = {"hidden_size": 256, "num_attention_heads": 8, "max_position_embeddings": 512, "num_hidden_layers": 4}
SHAPES = {
    "llama": ("llama", WIDE | {"intermediate_size": 1024}),
    "llama, narrow inside": ("llama", WIDE | {"intermediate_size": 256, "num_key_value_heads": 8}),
    "gpt2": ("gpt2", WIDE | {"n_inner": 1024}),
    "bert": ("bert", WIDE | {"intermediate_size": 1024}),
    "t5": ("t5", {"d_model": 256, "d_kv": 32, "d_ff": 1024, "num_heads": 8}),
}


def make(model, template="{text}{soft} It was", **options):
    template += " {mask}" if model.mask else ""
    task = Classification(ROWS, template=template, labels=LABELS)
    return LocalEvaluator(model, task, SoftPrompt(model, tokens=8, dim=10), **options)


def points(K=24):
    return np.random.default_rng(0).standard_normal((K, 10))


def peak_bytes(run):
    """The most memory that torch's allocations in run() held at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.max(np.cumsum(sizes)))


@pytest.mark.parametrize("template", ["{text}{soft} It was", "{soft}{text} It was"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_model_of_memory_against_measured_peaks(tiny, shape, template):
    family, config = SHAPES[shape]
    model = tiny(family, **config)
    evaluator = make(model, template, chunk_tokens=1024)
    evaluator(points(1), 0)  # what all candidates share
    peak = peak_bytes(lambda: evaluator(points(), 0))
    assert 1 <= token_bytes(model) * 1024 / peak <= 2.2


def test_chunks_follow_the_memory_given(tiny):
    model = tiny("llama")
    size = token_bytes(model)
    assert chunk_tokens(model, 100 * size) == 100
    assert chunk_tokens(model, 1) == memory.LEAST_TOKENS
    assert chunk_tokens(model, 10**12) == memory.ENOUGH_TOKENS["cpu"]
    small, large = make(model, memory=50 * size), make(model)
    assert small.tokens_at_once == 50
    assert large.tokens_at_once > 50
    np.testing.assert_allclose(small(points(), 0).loss, large(points(), 0).loss, atol=5e-5)
    with pytest.raises(GfoError, match="memory = 0 must be at least 1"):
        make(model, memory=0)


def test_halving_until_it_fits():
    full = torch.OutOfMemoryError("CUDA out of memory")
    assert [halved(tokens, full) for tokens in (700, 87, 40, 20)] == [350, 43, 20, 16]
    with pytest.raises(GfoError, match=r"out of memory with 16 tokens a forward pass .*free some memory"):
        halved(16, full)
    with pytest.raises(RuntimeError, match="another"):  # is not taken for one
        halved(700, RuntimeError("another"))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    ],
)
def test_memory_runs_out_under_many_names(error):
    assert is_out_of_memory(error)
    assert halved(64, error) == 32
    assert not is_out_of_memory(ValueError(str(error) or "can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED"))


@pytest.mark.parametrize("where", ["layout", "pass"])
def test_memory_runs_out_until_it_fits(tiny, monkeypatch, where):
    model = tiny("llama")
    right = make(model, chunk_tokens=1024)(points(), 0).loss
    evaluator, tried = make(model, chunk_tokens=1024), []
    kept = evaluator.tokens_kept
    part = "context" if where == "layout" else "branches"
    run = getattr(model, part)

    def limited(*args, **options):
        tried.append(evaluator.tokens_at_once)
        if evaluator.tokens_at_once > 300:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(*args, **options)

    monkeypatch.setattr(model, part, limited)
    np.testing.assert_allclose(evaluator(points(), 0).loss, right, rtol=1e-5)
    assert (evaluator.tokens_at_once, evaluator.tokens_kept) == (256, kept // 4)
    assert sorted(set(tried), reverse=True) == [1024, 512, 256]


LIMITED = """
    import resource, sys
    import numpy as np, psutil, torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers import PreTrainedTokenizerFast
    import gfo

    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = dict(hidden_size=256, intermediate_size=2048, num_hidden_layers=2, num_attention_heads=4)
    module = LlamaForCausalLM(LlamaConfig(vocab_size=200, **shape))
    model = gfo.freeze(module, PreTrainedTokenizerFast(tokenizer_file=sys.argv[1]))
    texts = [" ".join("ab"[i >> n & 1] for n in range(4)) + " food" for i in range(16)]
    rows = [{"text": text, "label": text[0]} for text in texts]
    labels = {"a": " great", "b": " terrible"}
    task = gfo.Classification(rows, template="{text}{soft} It", labels=labels)
    space = gfo.SoftPrompt(model, tokens=8, dim=4)
    z = np.random.default_rng(0).standard_normal((100, 4))
    expected = gfo.LocalEvaluator(model, task, space, chunk_tokens=256)(z, 0).loss
    now = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (now + int(sys.argv[2]), -1))
    evaluator = gfo.LocalEvaluator(model, task, space, chunk_tokens=100_000)
    loss = evaluator(z, 0).loss
    assert np.abs(loss - expected).max() < 5e-5
    print(evaluator.tokens_at_once)
"""


def run_limited(tiny, tmp_path, megabytes):
    """The tokens at once that fit into so much memory, in a process of its own."""
    file = tmp_path / "tokenizer.json"
    tiny("llama").tokenizer.backend_tokenizer.save(str(file))
    command = [sys.executable, "-c", textwrap.dedent(LIMITED), str(file), str(megabytes * 2**20)]
    root = Path(__file__).parents[2]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
def test_out_of_memory_for_real_halves_and_goes_on(tiny, tmp_path):
    done = run_limited(tiny, tmp_path, 150)
    assert done.returncode == 0, done.stderr
    assert 16 <= int(done.stdout) < 100_000
    ample = run_limited(tiny, tmp_path, 4000)  # control
    assert int(ample.stdout) == 100_000, ample.stderr


def test_store_drops_the_least_recently_used():
    class Held:
        def __init__(self, size):
            self.bytes = size

    store = Store(100)
    made = []

    def find(key, size, **options):
        return store.find(key, lambda: made.append(key) or Held(size), **options)

    find("a", 40), find("b", 40)
    assert find("a", 40) is store["a"]
    find("c", 40)  # drops b
    assert list(store) == ["a", "c"]
    find("huge", 101)  # is not kept, and costs nothing that is
    assert list(store) == ["a", "c"]
    find("b", 60)
    assert list(store) == ["c", "b"]
    assert made == ["a", "b", "c", "huge", "b"]
    for key in ("batch 1", "batch 1", "batch 2", "batch 3"):
        find(key, 1, recurs=False)
    assert list(store) == ["b", "batch 3"]  # c made room, and what will not recur is not kept
    assert made[5:] == ["batch 1", "batch 2", "batch 3"]


class Driver:
    """A GPU's driver and torch's allocator, as they are asked; which device is written down."""

    def __init__(self, monkeypatch, **values):
        self.asked = {}
        for name, value in values.items():
            monkeypatch.setattr(torch.cuda, name, self.answering(name, value))

    def answering(self, name, value):
        def answer(device=None):
            self.asked[name] = device
            return value

        return answer


def test_memory_is_asked_of_the_models_device(tiny, monkeypatch):
    """On a machine with a GPU the peak of a model on the CPU is the process's; that of cuda:1 is cuda:1's."""
    driver = Driver(
        monkeypatch,
        is_available=True,
        reset_peak_memory_stats=None,
        memory_allocated=7,
        max_memory_allocated=11,
    )
    for device, expected in (
        (tiny("llama").device, "cpu"),
        (torch.device("cuda:1"), "cuda:1"),
        (None, "cpu"),
    ):
        driver.asked.clear()
        record = {}
        peak = PeakMemory(record, device)
        peak.start(None)
        peak.end(None)
        assert record["memory"]["device"] == expected
        assert (record["memory"]["peak_bytes"] == 11) == (expected == "cuda:1")
        asked = {"reset_peak_memory_stats", "memory_allocated", "max_memory_allocated"}
        assert driver.asked == (dict.fromkeys(asked, device) if expected == "cuda:1" else {})


def test_free_memory_has_what_torch_keeps_in_reserve(monkeypatch):
    device = torch.device("cuda:1")
    driver = Driver(monkeypatch, mem_get_info=(100, 1000), memory_reserved=50, memory_allocated=20)
    assert memory.free_bytes(device) == 100 + 50 - 20
    assert set(driver.asked.values()) == {device}
    assert memory.free_bytes(torch.device("cpu")) > 1000  # control


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_free_memory_of_a_gpu():
    device = torch.device("cuda")
    before = memory.free_bytes(device)
    block = torch.zeros(2**28, device=device)
    assert before - memory.free_bytes(device) == pytest.approx(2**30, rel=0.05)
    del block  # torch keeps it
    assert memory.free_bytes(device) == pytest.approx(before, abs=2**28)
