"""Each failure has an outcome and a line: nan losses, exceptions, memory that runs out, a full disk."""

import json
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import gfo
from gfo.core.protocols import Cost, Evaluation, Scores
from gfo.run.history import History

D = 3


def run(function, evaluations=80, name="snes", **options):
    optimizer = gfo.optimizers.make(name, domain=gfo.Domain.unbounded(D), seed=1, population=8)
    return gfo.minimize(optimizer, function, budget=gfo.Budget(evaluations=evaluations), **options)


def sphere(z):
    return ((z - 1) ** 2).sum(axis=1)


def picky(z):
    """Raises if any of its points lies on one side."""
    if (z[:, 0] > 0.3).any():
        raise ZeroDivisionError("on the wrong side\nof it")
    return sphere(z)


def test_candidates_that_raise_are_nan_and_the_others_are_not():
    with pytest.warns(gfo.GfoWarning, match=r"step \d+: the evaluation of candidate \d") as warned:
        result = run(picky)
    assert len(warned) == 1  # once
    assert "ZeroDivisionError: on the wrong side)" in str(warned[0].message)
    assert "\n" not in str(warned[0].message)
    reference = run(lambda z: np.where(z[:, 0] > 0.3, np.nan, sphere(z)))
    assert result.history.trajectory() == reference.history.trajectory()
    assert result.cost.candidates == 80
    losses = [loss for step in result.history for loss in step.loss]
    assert 0 < losses.count(None) < 60


def test_what_fails_for_every_first_candidate_is_the_function():
    with pytest.raises(
        gfo.GfoError, match=r"each of the first 8 candidates failed \(NameError: .*typo"
    ) as error:
        run(lambda z: typo(z))  # noqa: F821
    assert isinstance(error.value.__cause__, NameError)


def test_twenty_steps_without_a_finite_loss_end_the_run():
    calls = []

    def dies(z):
        calls.append(len(z))
        if len(calls) > 3:
            raise OSError("the disk is gone")
        return sphere(z)

    with pytest.warns(gfo.GfoWarning, match="the disk is gone"):
        result = run(dies, 10_000)
    assert result.stopped == "all candidates of the last 20 steps failed"
    assert len(result.history) == 23
    assert result.loss is not None
    assert run(lambda z: np.full(len(z), np.inf), 10_000).stopped == result.stopped


def test_ctrl_c_and_errors_of_gfo_pass():
    def interrupted(z):
        raise KeyboardInterrupt

    assert run(interrupted).stopped == "interrupted"
    with pytest.raises(gfo.GfoError, match="mine"):
        run(lambda z: (_ for _ in ()).throw(gfo.GfoError("mine")))


class Metric:
    """An evaluator whose metric raises from the n-th reading on."""

    def __init__(self, n):
        self.left = n

    def __call__(self, z, step):
        return Evaluation(sphere(z), Cost(len(z)))

    def score(self, z, split):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("no such word")
        return Scores({"loss": sphere(z), "bleu": 1 / (1 + sphere(z))}, Cost(len(z)))


def test_a_metric_that_raises_now_and_then_is_left_out(tmp_path):
    with pytest.warns(gfo.GfoWarning, match=r"scoring on dev failed \(RuntimeError: no such word\)"):
        result = run(Metric(3), dev_every=2, out=tmp_path, selection=gfo.Selection("bleu"))
    dev = [step.dev for step in result.history if step.dev]
    assert dev[0]["bleu"] > 0
    assert dev[2:] == [{"loss": None, "bleu": None}] * 3
    assert result.selection == "the recommendation with the highest dev bleu of 6 snapshots"
    assert len(History.read(tmp_path / "history.jsonl")) == 10


def test_a_metric_that_never_works_is_named():
    with pytest.raises(
        gfo.GfoError, match=r"scoring on dev failed \(RuntimeError: no such word\); mend the metric"
    ):
        run(Metric(0), dev_every=2)


LIMITED = """
    import json, resource, sys
    import psutil, torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    import gfo
    from gfo.evaluation import memory

    torch.set_num_threads(1)
    torch.manual_seed(0)
    memory.ENOUGH_TOKENS["cpu"] = 100_000
    shape = dict(hidden_size=256, intermediate_size=2048, num_hidden_layers=2, num_attention_heads=4)
    module = LlamaForCausalLM(LlamaConfig(vocab_size=200, **shape))
    model = gfo.freeze(module, PreTrainedTokenizerFast(tokenizer_file=sys.argv[1]))
    texts = [" ".join("ab"[i >> n & 1] for n in range(4)) + " food" for i in range(16)]
    rows = [{"text": text, "label": text[0]} for text in texts]
    labels = {"a": " great", "b": " terrible"}
    task = gfo.Classification(rows, template="{text}{soft} It", labels=labels)
    space = gfo.SoftPrompt(model, tokens=8, dim=4)

    def tune(steps, **options):
        return gfo.tune(
            model, task, space, optimizer="random", options={"population": 100}, memory=10**11,
            progress=False, budget=gfo.Budget(evaluations=100 * steps), **options,
        )

    tune(1)
    if int(sys.argv[3]):
        limit = psutil.Process().memory_info().vms + int(sys.argv[3]) * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, -1))
    result = tune(int(sys.argv[4]), out=sys.argv[2], resume=True)
    print(json.dumps({"tokens": result.evaluator.tokens_at_once, "losses": result.history[-1].loss}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
def test_a_run_out_of_memory_goes_on_with_smaller_passes_and_so_does_one_resumed(tiny, tmp_path):
    file = tmp_path / "tokenizer.json"
    tiny("llama").tokenizer.backend_tokenizer.save(str(file))

    def run(folder, megabytes, steps):
        command = [sys.executable, "-c", textwrap.dedent(LIMITED)]
        command += [str(file), str(tmp_path / folder), str(megabytes), str(steps)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[2],
            env=os.environ,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    short = run("short", 150, 1)
    ample = run("ample", 0, 1)
    assert short["tokens"] < ample["tokens"]
    assert np.allclose(short["losses"], ample["losses"], atol=5e-5)
    settled = json.loads((tmp_path / "short" / "run.json").read_text())["evaluator"]
    assert settled["tokens_at_once"] == short["tokens"]
    assert run("short", 0, 2)["tokens"] == short["tokens"]


def test_failures_are_counted_where_results_are_shown(tmp_path):
    def half(z):
        return [math.nan if i % 2 else 1.0 + value for i, value in enumerate((z**2).sum(1))]

    def minimized(function, out):
        optimizer = gfo.optimizers.make("random", domain=gfo.Domain.unbounded(2), seed=0, population=4)
        return gfo.minimize(optimizer, function, budget=gfo.Budget(evaluations=12), out=tmp_path / out)

    result, whole = minimized(half, "half"), minimized(lambda z: (z**2).sum(1), "whole")
    assert "failed:     6 of 12 candidates" in str(result)
    assert "failed" not in str(whole)
    records = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("half", "whole")]
    assert [record["failed"] for record in records] == [6, 0]
    compared = gfo.compare({"half": [result, result], "whole": tmp_path / "whole"})
    assert "half: 6 of 12 candidates failed" in str(compared)
    assert "whole: " not in str(compared)
    assert [row["failed"] for row in compared.rows()] == [6, 0]
