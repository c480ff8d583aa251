"""The tutorial: its commands, as they stand on the page, from a CSV to an adapter that plain PEFT loads."""

import csv
import itertools
import json

import numpy as np
import pages
import pytest
import torch
from pages import ROOT, blocks, folder  # noqa: F401 (a fixture)

from gfo.config import load_config
from gfo.report.export import export
from gfo.run.stored import load_point

PAGE = ROOT / "docs" / "your-data.md"
MOST = 10  # commands
WORDS = {"good": ("good", "great"), "bad": ("bad", "terrible")}


def write_reviews(path):
    """Two columns, of words that the tiny tokenizer knows."""
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        things = ("food", "service", "movie", "writer", "time", "first minute", "last minute")
        for start, thing, (label, words) in itertools.product(("the", "a", "one"), things, WORDS.items()):
            table.writerows([f"{start} {thing} was {word}", label] for word in words)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of PEFT's, as it loads
def test_from_a_csv_to_plain_peft(folder, monkeypatch, capsys):  # noqa: F811
    write_reviews(folder / "reviews.csv")
    done, names = pages.run(PAGE, folder, monkeypatch)
    assert done == [block.where for block in blocks(PAGE)]
    assert sum(len(block.commands) or block.language == "python" for block in blocks(PAGE)) <= MOST
    out, err = capsys.readouterr()
    assert err.count("auto: a low-rank change of the token that is read") == 1
    assert "lora" in out
    assert (folder / "comparison.png").exists()
    kept = load_config("runs/auto/config.json")
    assert (kept.space.kind, kept.optimizer.name) == ("lora", "openai-es")

    row = {"text": "it broke after a week", "label": "bad"}
    (folder / "one.jsonl").write_text(json.dumps(row) + "\n")
    evaluator = kept.model_copy(
        update={"task": kept.task.model_copy(update={"test": "one.jsonl", "data_dir": "."})}
    )
    judge = evaluator.local_evaluator()
    batch = judge.task.all_rows("test")
    z = load_point(folder / "runs" / "auto")
    ours = judge.answers(z[None], batch)[0, 0]
    theirs = names["logits"][list(batch.vocabulary)]
    assert torch.allclose(ours, theirs, atol=1e-4)
    moved = np.random.default_rng(0).standard_normal(len(z))
    export(judge, moved, "peft", folder / "moved")
    model = names["peft"].AutoPeftModelForCausalLM.from_pretrained(folder / "moved")
    with torch.no_grad():
        far = model(**names["tokenizer"](names["text"], return_tensors="pt")).logits[0, -1]
    far = far[list(batch.vocabulary)]
    assert torch.allclose(judge.answers(moved[None], batch)[0, 0], far, atol=1e-4)
    assert not torch.allclose(far, theirs, atol=1e-3)  # control
    assert names["ids"][names["answer"]] == batch.vocabulary[int(ours.argmax())]
