"""llama.cpp, from the wheel xllamacpp, loads the GGUF file and answers as torch does."""

from __future__ import annotations

import json
import socket
import urllib.request

import numpy as np
import pytest
import torch

import gfo
from gfo.report.export import export

PROMPTS = ("The capital of France is", "One, two, three, four,", "Water boils at 100 degrees")
TOKENS = 8


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def answer(port, ids):
    """The tokens that follow, each the likeliest one."""
    asked = {
        "prompt": ids,
        "n_predict": TOKENS,
        "temperature": 0,
        "return_tokens": True,
        "cache_prompt": False,
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/completion",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.load(reply)["tokens"]


@pytest.mark.weights
def test_its_greedy_answers_are_those_of_torch(tmp_path):
    xllamacpp = pytest.importorskip("xllamacpp")
    model = gfo.load_model("smollm2-135m")
    space = gfo.Compression(model, ["Q8_0", "Q5_0", "Q4_0"])
    evaluator = gfo.LocalEvaluator(model, gfo.LanguageModeling([{"text": PROMPTS[0]}]), space)
    z = np.random.default_rng(0).integers(0, 2, space.domain.d).astype(float)
    export(evaluator, z, "gguf", tmp_path / "out")
    assert (tmp_path / "out" / "model.gguf").stat().st_size == space.measure(z[None])["bytes"][0]
    loaded = gfo.load_model(tmp_path / "out" / "model.gguf")

    params = xllamacpp.CommonParams()
    params.model.path = str(tmp_path / "out" / "model.gguf")
    params.hostnames, params.port, params.n_ctx = ["127.0.0.1"], free_port(), 256
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)
    for prompt in PROMPTS:
        ids = list(model.encode(prompt))
        with torch.no_grad():
            given = loaded.module.generate(
                torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False, pad_token_id=2
            )
        assert answer(params.port, ids) == given[0, len(ids) :].tolist(), prompt
    del server
