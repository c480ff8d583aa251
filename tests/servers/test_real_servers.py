"""Real servers on this machine: llama.cpp's, from the wheel xllamacpp, and transformers'."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

import gfo
from gfo.evaluation.endpoint import EndpointEvaluator
from gfo.report.export import export

NEWS = [
    {"text": "Stocks fell as oil prices rose", "label": "Business"},
    {"text": "The team won the final", "label": "Sports"},
    {"text": "A new chip doubles speed", "label": "Technology"},
    {"text": "Leaders met for peace talks", "label": "World"},
]
LABELS = {name: f" {name}" for name in ("Business", "Sports", "Technology", "World")}
TEMPLATE = "{soft}\nNews: {text}\nTopic:"
SPACE = gfo.Words(["Name the topic.", "Think.", "One word."], 2)
Z = np.array([[0, 0], [1, 3], [2, 1.0]])
CHAT_TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tiny model as a GGUF file and as a folder."""
    out = tmp_path_factory.mktemp("tiny")
    model = gfo.testing.tiny_model()
    space = gfo.Compression(model, ["F16", "F32"])
    evaluator = gfo.LocalEvaluator(model, gfo.LanguageModeling([{"text": "a b c d"}]), space)
    export(evaluator, np.ones(space.domain.d), "gguf", out / "gguf")
    model.tokenizer.chat_template = CHAT_TEMPLATE
    model.module.save_pretrained(out / "folder")
    model.tokenizer.save_pretrained(out / "folder")
    return out


@pytest.fixture(scope="module")
def llama(folder):
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(folder / "gguf" / "model.gguf")
    params.hostnames, params.port, params.n_ctx = ["127.0.0.1"], free_port(), 512
    params.cpuparams.n_threads, params.model_alias = 1, {"tiny"}
    server = xllamacpp.Server(params)
    yield f"http://127.0.0.1:{params.port}/v1"
    del server


def test_llama_cpp_gives_the_losses_of_the_model_here(llama, tmp_path):
    task = gfo.Classification(NEWS, template=TEMPLATE, labels=LABELS)
    model = gfo.Endpoint(llama, "tiny", cache=tmp_path / "cache", top=1024)
    served = EndpointEvaluator(model, task, SPACE)(Z, 0)
    here = gfo.TextEvaluator(gfo.testing.tiny_model(), task, SPACE)(Z, 0)
    np.testing.assert_allclose(served.rows, here.rows, atol=0.25)  # in other kernels
    assert np.abs(served.rows - here.rows[::-1]).max() > 1  # those of other candidates
    assert served.cost.requests > 0


def test_llama_cpp_serves_a_search_and_a_chat(llama, tmp_path):
    rows = [{"text": row["text"], "target": row["label"]} for row in NEWS]
    chat = [{"role": "user", "content": "{soft} {text}"}]
    task = gfo.Generation(rows, rows[:1], template=chat, metric="token_f1", max_tokens=4)
    model = gfo.Endpoint(llama, "tiny", cache=tmp_path / "cache")
    settings = {"optimizer": "ga", "options": {"population": 4}, "budget": gfo.Budget(evaluations=8)}
    with pytest.warns(gfo.GfoWarning, match="dev rows are train rows"):
        result = gfo.tune(model, task, SPACE, progress=False, **settings)
    assert result.failed == 0
    assert 0 < result.score("dev")["answer_tokens"] <= 4
    with pytest.raises(gfo.GfoError, match=r"'other': the server lacks it; it has tiny"):
        gfo.Endpoint(llama, "other", cache=False).check()


@contextlib.contextmanager
def transformers_serve(folder, home):
    """The address of `transformers serve`, which is up in half a minute."""
    pytest.importorskip("fastapi")
    port = free_port()
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(home)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.25)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.mark.stress
@pytest.mark.parametrize("name", ["tiny", pytest.param("smollm2-135m", marks=pytest.mark.weights)])
def test_transformers_serve_answers_as_the_model_here_and_has_no_log_probabilities(name, folder, tmp_path):
    model = gfo.testing.tiny_model() if name == "tiny" else gfo.load_model(name)
    if name != "tiny":
        folder = tmp_path
        model.module.save_pretrained(folder / "folder")
        model.tokenizer.save_pretrained(folder / "folder")
    else:
        model.tokenizer.chat_template = CHAT_TEMPLATE
    rows = [{"text": row["text"], "target": row["label"]} for row in NEWS]
    chat = [{"role": "user", "content": "{soft} News: {text} Business, Sports, Technology or World?"}]
    task = gfo.Generation(rows, template=chat, metric="token_f1", max_tokens=6)
    with transformers_serve(folder / "folder", tmp_path) as url:
        served = gfo.Endpoint(url, str(folder / "folder"), cache=tmp_path / "cache", concurrency=2)
        evaluator = EndpointEvaluator(served, task, SPACE)
        found = evaluator.answers(Z, evaluator.task.all_rows("train"))
        asked = gfo.Classification(NEWS, template=chat, labels=LABELS)
        with pytest.raises(gfo.GfoError, match=r"without log-probabilities .* take gfo.Generation"):
            EndpointEvaluator(served, asked, SPACE)
    here = gfo.TextEvaluator(model, task, SPACE)
    tokens = here.answers(Z, here.task.all_rows("train"))
    said = ["".join(answer).strip() for answers in found for answer in answers]
    assert said == [text.strip() for each in tokens for text in model.decode(each)]
    assert len(set(said)) > 3  # each candidate and row has its own
