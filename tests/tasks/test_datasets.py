"""Rows from lists, JSON lines, CSV and `datasets`, and files that cannot be read."""

from __future__ import annotations

import json

import datasets
import pytest

from gfo import Classification, GfoError
from gfo.tasks.datasets import load

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
    import csv

    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def refused(source, *parts):
    with pytest.raises(GfoError) as error:
        load(source, "train")
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
    refused(tmp_path / name, str(tmp_path / name), "give a .jsonl, .csv or .parquet file")


@pytest.mark.parametrize("row", ["only one", "one,two,three"])
def test_ragged_csv(tmp_path, row):
    path = tmp_path / "ragged.csv"
    path.write_text(f'text,label\na,b\n"two\nlines",b\n{row}\nc,d\n')
    refused(path, str(path), "line 5", "2 fields of the header", "quote fields")


def test_csv_with_a_very_long_field(tmp_path):
    """Longer than the csv module takes by default."""
    path = tmp_path / "long.csv"
    path.write_text("text,label\n" + "a" * 200_000 + ",b\n")
    refused(path, str(path), "not CSV after line 1", "131072")


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
