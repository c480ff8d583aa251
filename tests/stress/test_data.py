"""Data files with something changed at random: each gives rows and a task, or one line."""

import csv
import gzip
import io
import json
import random
from pathlib import Path

import pytest
from figures import Outcomes

import gfo

SAMPLE, WHOLE = 200, 3_000
ROWS = [
    {"text": f"it is {word}", "label": "+-"[i % 2]} for i, word in enumerate(["good", "bad", "ok", "so"] * 3)
]
SNIPPETS = [
    b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800", b"\n", b"\r", b"\r\n", b'"',
    b"'", b",", b"\t",
    b"{", b"}", b"[", b"]", b"[" * 5000, b"{\"a\":" * 2000, b"9" * 5000, b"NaN", b"-Infinity",
    b"1e999", b"null",
    b"true", b"\\", b"\x1b[31m", b"{text}", b"{soft}", b"</s>", "é\u2028\u202e".encode(),
    b"x" * 200_000, b"text",
    b"PAR1", b"\x1f\x8b", b"\x01\x00\x00\x00", b"\xff\xff\xff\x7f",
]  # fmt: skip
TEXTS = [
    None,
    3,
    True,
    1.5,
    [],
    {},
    ["a"],
    "",
    " ",
    "\ud800",
    "a\x00",
    "{text}",
    [["a"]],
    "x" * 5000,
    float("nan"),
]


def as_jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_json(rows):
    return json.dumps(rows).encode()


def as_table(rows, delimiter):
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode("utf-8", "surrogatepass")


def as_parquet(rows):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    buffer = io.BytesIO()
    columns = {key: [str(row.get(key)).encode("utf-8", "replace") for row in rows] for key in rows[0]}
    texts = {key: pyarrow.array([each.decode() for each in column]) for key, column in columns.items()}
    parquet.write_table(pyarrow.table(texts), buffer)
    return buffer.getvalue()


FORMS = {
    ".jsonl": as_jsonl,
    ".json": as_json,
    ".csv": lambda rows: as_table(rows, ","),
    ".tsv": lambda rows: as_table(rows, "\t"),
    ".parquet": as_parquet,
    ".jsonl.gz": lambda rows: gzip.compress(as_jsonl(rows)),
}


def mutated(form, rng):
    """A file's bytes, with one to three changes of rows or of bytes."""
    rows = [dict(row) for row in ROWS]
    if rng.random() < 0.4:
        row = rng.choice(rows[1:])
        row[rng.choice(["text", "label", "text\n", "", "x"])] = rng.choice(TEXTS)
        if rng.random() < 0.3:
            row.pop(rng.choice(list(row)))
    content = bytearray(FORMS[form](rows))
    for _ in range(rng.choice([0, 1, 1, 2])):
        at = rng.randrange(len(content)) if content else 0
        change = rng.choice(["bit", "put", "put", "away", "end", "twice"])
        if change == "bit" and content:
            content[at] ^= 1 << rng.randrange(8)
        elif change == "put":
            content[at:at] = rng.choice(SNIPPETS)
        elif change == "away":
            del content[at : at + rng.choice([1, 4, 100])]
        elif change == "end":
            del content[at:]
        else:
            content += content[at:]
    return bytes(content)


def use(path, model):
    """Read it as a user does: rows, a task, the model's tokens, losses of two candidates."""
    rows = gfo.datasets.load(path, "train")
    labels = {"+": " good", "-": " bad"}
    gfo.datasets.few_shot(rows, 1)
    task = gfo.Classification(path, template="Say {text}\n{soft}:", labels=labels, batch_size=2)
    evaluator = gfo.LocalEvaluator(model, task, gfo.SoftPrompt(model, tokens=2, dim=3))
    gfo.minimize(
        gfo.optimizers.make("random", domain=evaluator.space.domain, seed=0, population=2),
        evaluator,
        budget=gfo.Budget(evaluations=2),
    )


@pytest.mark.parametrize("number", [SAMPLE, pytest.param(WHOLE, marks=pytest.mark.stress)])
def test_mutated_data(number, tiny, tmp_path):
    rng, outcomes, model = random.Random(number), Outcomes(), tiny("llama")
    for i in range(number):
        form = list(FORMS)[i % len(FORMS)]
        path = Path(tmp_path / f"rows{form}")
        path.write_bytes(mutated(form, rng))
        outcomes.of(lambda path=path: use(path, model), f"{i} {form} {path.read_bytes()[:200]!r}")
    outcomes.write("data", number == WHOLE)
    assert outcomes.bad == []
    assert outcomes.counts["refused in a line"] > number / 4
    assert outcomes.counts["taken"] > number / 10
