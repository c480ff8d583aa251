"""Rows from lists, JSON lines, CSV, Parquet and `datasets`, samples of them, and what cannot be read."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys

import datasets
import numpy as np
import pytest
from plain import refused as task_refused

import gfo
from gfo import Classification, GfoError
from gfo.tasks.parts.datasets import few_shot, length_statistics, load

ROWS = [
    {"text": 'a "good" one, really', "label": "good"},
    {"text": "two\nlines", "label": "bad"},
    {"text": "très\u2028bon ☃", "label": "good"},
]


def write_jsonl(path, rows=ROWS, ascii=False):
    lines = (json.dumps(row, ensure_ascii=ascii) for row in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_csv(path):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def write_parquet(path):
    datasets.Dataset.from_list(ROWS).to_parquet(path)
    return path


def refused(source, *parts, **options):
    with pytest.raises(GfoError) as error:
        load(source, "train", **options)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("train")
    for part in parts:
        assert part in message, message


def test_all_sources_give_the_same_rows(tmp_path):
    sources = [
        ROWS,
        tuple(ROWS),
        iter(ROWS),
        write_jsonl(tmp_path / "a.jsonl"),
        str(write_jsonl(tmp_path / "b.json", ascii=True)),
        write_csv(tmp_path / "c.csv"),
        write_parquet(tmp_path / "d.parquet"),
        datasets.Dataset.from_list(ROWS),
    ]
    for source in sources:
        assert load(source, "train") == ROWS
    assert load(ROWS[1:], "train") != ROWS  # control


def test_rows_are_copies():
    rows = [dict(row) for row in ROWS]
    load(rows, "train")[0]["text"] = "changed"
    assert rows == ROWS


def test_blank_lines_and_windows_line_ends(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\r\n\r\n  \n{"text": "b"}')
    assert load(path, "train") == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize("content", ['{"text": "a", "label": "b"}\n', "text,label\na,b\n"])
def test_a_byte_order_mark_is_no_text(tmp_path, content):
    """As spreadsheets write it."""
    path = tmp_path / ("a.jsonl" if content[0] == "{" else "a.csv")
    path.write_text(content, encoding="utf-8-sig")
    assert load(path, "train") == [{"text": "a", "label": "b"}]


def test_limit():
    assert load(ROWS, "train", limit=2) == ROWS[:2]
    assert load(ROWS, "train", limit=9) == ROWS
    with pytest.raises(GfoError, match=r"^dev: limit = 0 must be at least 1$"):
        load(ROWS, "dev", limit=0)


def test_labels_of_a_datasets_object():
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["negative", "positive"])}
    )
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    task = Classification(data, template="{text}{soft}", labels={0: " no", 1: " yes"})
    assert task.targets["train"].tolist() == [1, 0]


def test_a_folder_of_splits_is_not_rows():
    refused(datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)), "row 1 is a str", "give mappings")


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
@pytest.mark.parametrize("content", ["", "\n\n"])
def test_empty_file(tmp_path, ending, content):
    path = tmp_path / f"empty.{ending}"
    path.write_text(content)
    refused(path, str(path), "has no rows", "at least one example")


def test_csv_with_a_header_only(tmp_path):
    path = tmp_path / "header.csv"
    path.write_text("text,label\n")
    refused(path, str(path), "has no rows")


@pytest.mark.parametrize(
    "bad", ['{"text": "a"', "{'text': 'a'}", "text", '{"text": "a"} {"text": "b"}', '{"text": "a",}']
)
def test_malformed_jsonl(tmp_path, bad):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "a"}\n\n' + bad + '\n{"text": "b"}\n')
    refused(path, str(path), "line 3 is not JSON", "column", "one JSON object a line")


@pytest.mark.parametrize("value", ["[1, 2]", '"text"', "3", "null"])
def test_jsonl_of_other_values(tmp_path, value):
    path = tmp_path / "values.jsonl"
    path.write_text('{"text": "a"}\n' + value + "\n")
    kind = type(json.loads(value)).__name__
    refused(path, str(path), f"row 2 is a {kind}", "mappings of field to value")


def test_missing_file(tmp_path):
    path = tmp_path / "none.jsonl"
    refused(path, f"cannot read {path}", "No such file", "check the path")


def test_folder_with_a_files_name(tmp_path):
    path = tmp_path / "folder.csv"
    path.mkdir()
    refused(path, f"cannot read {path}", "directory", "check the path")


@pytest.mark.parametrize("name", ["a.txt", "a", "a.parquett"])
def test_unknown_ending(tmp_path, name):
    (tmp_path / name).write_text("text")
    refused(tmp_path / name, str(tmp_path / name), "give a .jsonl, .json, .csv, .tsv or .parquet file")


@pytest.mark.parametrize("row", ["only one", "one,two,three"])
def test_ragged_csv(tmp_path, row):
    path = tmp_path / "ragged.csv"
    path.write_text(f'text,label\na,b\n"two\nlines",b\n{row}\nc,d\n')
    refused(path, str(path), "line 5", "2 fields of the header", "quote fields")


def test_csv_with_a_very_long_field(tmp_path):
    """Longer than the csv module takes by default."""
    path = tmp_path / "long.csv"
    path.write_text("text,label\n" + "a" * 200_000 + ",b\n")
    before = csv.field_size_limit()
    assert load(path) == [{"text": "a" * 200_000, "label": "b"}]
    assert csv.field_size_limit() == before  # which is the process's


@pytest.mark.parametrize("name", ["a.CSV", "a.tsv", "a.json", "a.jsonl.gz", "a.csv.gz", "A.TSV.GZ"])
def test_other_endings(tmp_path, name):
    rows = [{"text": "a, b", "label": "x"}, {"text": "c", "label": "y"}]
    delimiter = "\t" if ".tsv" in name.lower() else ","
    text = io.StringIO()
    writer = csv.DictWriter(text, ["text", "label"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    lines = json.dumps(rows, indent=1) if name == "a.json" else "\n".join(map(json.dumps, rows))
    content = (lines if "json" in name else text.getvalue()).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.lower().endswith("gz") else content)
    assert load(tmp_path / name) == rows


def test_broken_arrays_and_archives(tmp_path):
    (tmp_path / "a.json").write_text('[{"text": 1},\n')
    refused(tmp_path / "a.json", "is not JSON", "in line 2")
    (tmp_path / "a.jsonl.gz").write_bytes(b"{}")
    refused(tmp_path / "a.jsonl.gz", "cannot read", "a.jsonl.gz")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"text\na\n")[:-9])
    refused(tmp_path / "b.csv.gz", "cannot read", "b.csv.gz")


@pytest.mark.parametrize("header", ["text,text,label", "label,text,label", "text,,"])
def test_a_header_with_a_name_twice(tmp_path, header):
    (tmp_path / "a.csv").write_text(f"{header}\na,b,c\n")
    refused(tmp_path / "a.csv", "has 2 columns", "rename all but one")
    (tmp_path / "b.csv").write_text("text,more,label\na,b,c\n")
    assert load(tmp_path / "b.csv") == [{"text": "a", "more": "b", "label": "c"}]  # control


def test_values_of_numpy_and_tables_of_pandas():
    rows = load([{"text": np.str_("a"), "n": np.int64(3), "x": np.float32(0.5), "all": np.arange(2)}])
    assert rows == [{"text": "a", "n": 3, "x": 0.5, "all": [0, 1]}]
    assert [type(value) for value in rows[0].values()] == [str, int, float, list]

    class Table(dict):
        columns = ("text",)

        def to_dict(self, orient):
            return []

    refused(Table(), "table of pandas", "to_dict('records')")


@pytest.mark.parametrize("missing", [float("nan"), np.float64("nan"), np.float32("nan")])
def test_missing_values(missing):
    labels = {"a": " a", "b": " b"}
    task_refused(
        lambda: gfo.Classification([{"text": missing, "label": "a"}], template="{text}", labels=labels),
        "train row 1: field 'text' is nan, a missing value",
    )
    for label in (missing, None):
        task_refused(
            lambda label=label: gfo.Classification(
                [{"text": "a", "label": label}], template="{text}", labels=labels
            ),
            "train row 1: its label is",
            "a missing value",
        )
    task_refused(
        lambda: gfo.Generation([{"text": "a", "target": missing}], template="{text}"),
        "target 'target' is nan",
    )
    task_refused(
        lambda: gfo.MultipleChoice([{"text": "a", "options": ["x", missing], "label": 0}], template="{text}"),
        "an option is nan",
    )
    row = {"text": "a", "A": "x", "B": "y", "C": missing, "label": 0}
    chosen = gfo.MultipleChoice([row], template="{text}", options=["A", "B", "C"])
    assert chosen.options["train"] == [("x", "y")]  # no option, as None


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
@pytest.mark.parametrize("place", [14, 20_000])
def test_not_utf8(tmp_path, ending, place):
    path = tmp_path / f"latin.{ending}"
    start = b'{"text": "tr' if ending == "jsonl" else b"text,label\ntr,"
    path.write_bytes(start.ljust(place, b" ") + "è".encode("latin-1") + b'"}\n')
    refused(path, str(path), "not UTF-8", f"byte {place};", "convert it to UTF-8")


@pytest.mark.parametrize("source", [["a", "b"], [1], [[("text", "a")]], {"text": "a"}])
def test_rows_that_are_no_mappings(source):
    refused(source, "row 1 is a", "give mappings of field to value")


def test_a_broken_parquet_file(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and no more")
    refused(path, str(path), "is not Parquet")


@pytest.mark.parametrize(("module", "name"), [("pyarrow", "a.parquet"), ("datasets", "hub:a/b:train")])
def test_without_the_extra(tmp_path, monkeypatch, module, name):
    monkeypatch.setitem(sys.modules, module, None)
    source = name
    if module == "pyarrow":
        source = tmp_path / name
        source.write_bytes(b"")
    refused(source, "needs the package datasets", "pip install 'gfo-llm[data]'")


def test_a_data_set_by_its_id(tmp_path, monkeypatch):
    """What `datasets` finds: here in a folder, as no hub is at hand."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mine"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl")
    write_jsonl(folder / "test.jsonl", ROWS[:1])
    assert load(f"hub:{folder}:train") == ROWS
    assert load(f"hub:{folder}:test") == ROWS[:1]
    assert load(f"hub:{folder}:train[1:]") == ROWS[1:]
    assert load(f"hub:{folder}:default:train[:2]") == ROWS[:2]
    refused(f"hub:{folder}:dev", f"cannot load 'hub:{folder}:dev'", "dev", "check the id")
    refused(f"hub:{folder}:other:train", "cannot load", "other", "check the id")


@pytest.mark.parametrize("source", ["hub:a/b", "hub:", "hub:a/b:c:d:e", "hub::train", "hub:a/b:train[:3"])
def test_a_malformed_id(source):
    refused(source, f"'{source}': write hub:ID:SPLIT")


def test_a_hub_that_cannot_be_reached():
    """HF_HUB_OFFLINE is set for all tests."""
    refused("hub:nyu-mll/glue:sst2:train", "cannot load 'hub:nyu-mll/glue:sst2:train'", "network")


def test_filtering():
    assert load(ROWS, keep=lambda row: row["label"] == "good") == [ROWS[0], ROWS[2]]
    assert load(ROWS, keep=lambda row: row["label"] == "good", skip=1) == [ROWS[2]]
    refused(ROWS, "none of 3 rows is left after filtering", "keep more", keep=lambda row: False)


def test_skip_and_shuffle():
    rows = [{"text": str(i)} for i in range(20)]
    assert load(rows, skip=5, limit=3) == rows[5:8]
    refused(rows, "skip = 20 leaves none of 20 rows", skip=20)
    refused(rows, "skip = -1 must be 0 or more", skip=-1)
    first, rest = load(rows, shuffle=1, limit=8), load(rows, shuffle=1, skip=8)
    assert sorted(int(row["text"]) for row in first + rest) == list(range(20))
    assert first != rows[:8]
    assert first == load(rows, shuffle=1, limit=8)
    assert first != load(rows, shuffle=2, limit=8)


def of_classes(**sizes):
    return [{"text": f"{label} {i}", "label": label} for label, size in sizes.items() for i in range(size)]


def test_few_shot():
    rows = of_classes(a=9, b=6, c=20)
    train, dev = few_shot(rows, 3, seed=4)
    for split in (train, dev):
        assert sorted(row["label"] for row in split) == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
        assert {row["label"] for row in split[:3]} == {"a", "b", "c"}  # by turns
    texts = [row["text"] for row in train + dev]
    assert len(set(texts)) == 18
    assert set(texts) <= {row["text"] for row in rows}
    assert few_shot(rows, 3, seed=4) == (train, dev)
    assert few_shot(rows, 3, seed=5) != (train, dev)
    assert gfo.datasets.few_shot is few_shot


def test_few_shot_takes_equal_rows_once():
    rows = of_classes(a=4, b=4)
    train, dev = few_shot(rows + rows, 2)
    assert len({row["text"] for row in train + dev}) == 8


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        (of_classes(a=9, b=5) * 2, {"k": 3}, "class 'b' has 5 different rows, .* 6"),
        (of_classes(a=9), {"k": 0}, "k = 0 must be at least 1"),
        (
            of_classes(a=9),
            {"k": 1, "label_field": "lable"},
            "row 1: unknown label_field 'lable': did you mean",
        ),
        ([], {"k": 1}, "has no rows"),
    ],
)
def test_few_shot_of_too_few(rows, options, words):
    with pytest.raises(GfoError, match=words):
        few_shot(rows, **options)


def test_length_statistics(tiny):
    model = tiny("llama", start=True)
    rows = [{"text": "the food was good " * n} for n in range(1, 41)]
    template = "Review: {text}\n{soft}Sentiment:"
    found = length_statistics(rows, template, model)
    whole = [
        1 + len(model.encode(f"Review: {row['text']}\n")) + len(model.encode("Sentiment:")) for row in rows
    ]
    assert list(found.lengths) == whole
    assert (found.min, found.max) == (whole[0], whole[-1])
    assert found.median == (whole[19] + whole[20]) / 2
    assert found.p95 == whole[37]  # 38 of 40 rows
    assert found.over(found.p95) == 2
    assert found.over(found.max) == 0
    text = f"40 rows of {whole[0]} to {whole[-1]} tokens, median {found.median:g}, 95 % up to {whole[37]}"
    assert str(found) == text
    assert length_statistics(rows, "{text}", model).max < found.max
    with pytest.raises(GfoError, match="row 1: unknown field 'txt'"):
        length_statistics(rows, "{txt}", model)


def test_rows_that_come_with_gfo():
    splits = {split: load(f"gfo:sentiment/{split}.jsonl") for split in ("train", "dev", "test")}
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 128, "dev": 128, "test": 400}
    assert {row["label"] for row in splits["dev"]} == {"negative", "positive"}
    with pytest.raises(GfoError, match=r"none\.jsonl"):
        load("gfo:sentiment/none.jsonl")


DEEP = "[" * 3000 + "]" * 3000


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (f'{{"text": {DEEP}}}', ["line 2", "nested deeper than 100"]),
        (f'{{"text": {DEEP[2800:-2800]}}}', ["line 2", "nested deeper than 100"]),
        (f'{{"text": {"1" * 5000}}}', ["line 2", "5000 digits, 309 are allowed"]),
        (r'{"text": "\ud800"}', ["line 2", "half a surrogate pair"]),
        (r'{"text": ["a", "b\udc00"]}', ["line 2", "half a surrogate pair"]),
        (r'{"a\udfff": "b"}', ["line 2", "half a surrogate pair"]),
    ],
)
def test_json_that_python_reads_badly(tmp_path, text, parts):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"text": "a"}}\n{text}\n')
    refused(path, *parts)
    path.write_text(f'[{{"text": "a"}}, {text}]')
    refused(path, parts[-1])
    path.write_text(f'{{"text": "a"}}\n{{"text": [[[{"1" * 300}]], "\\ud83d\\ude00"]}}\n')
    assert load(path)[1]["text"][1] == "😀"


def test_half_characters_in_rows_of_python():
    refused([{"text": "a"}, {"text": "b\ud800"}], "row 2", "half a character")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet", "rows.json.gz"])
def test_what_may_never_end_is_not_read(tmp_path, name):
    path = tmp_path / name
    for target in ("/dev/zero", "/dev/full", "/dev/stdin"):
        path.symlink_to(target)
        refused(path, "cannot read", "no file")
        path.unlink()
    os.mkfifo(path)
    refused(path, "cannot read", "no file")


def test_parquet_rows_that_cannot_be_read(tmp_path):
    import pyarrow
    from pyarrow import parquet

    offsets, letters = (pyarrow.py_buffer(each) for each in (b"\0\0\0\0\2\0\0\0\4\0\0\0", b"ok\xff\xfe"))
    columns = {
        "text": (pyarrow.StringArray.from_buffers(2, offsets, letters), "utf-8"),
        "date": (pyarrow.array([0, 2**62], pyarrow.timestamp("us")), "out of range"),
    }
    for name, (column, words) in columns.items():
        parquet.write_table(pyarrow.table({name: column}), tmp_path / "rows.parquet")
        refused(tmp_path / "rows.parquet", "row 2 cannot be read", words)
