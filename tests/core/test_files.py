"""Writing whole files through no links, and reading those that are files, of a sensible size and depth."""

import gzip
import os
import stat
from pathlib import Path

import pytest

import gfo
from gfo.cli import folders, results, running
from gfo.config import DEMO, load_config
from gfo.core import files, reading
from gfo.core.errors import GfoError
from gfo.tasks.parts import datasets, sources


def refused(call, *words):
    with pytest.raises(GfoError) as error:
        call()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_the_permissions_of_new_ones(tmp_path, umask):
    before = os.umask(umask)
    try:
        files.write_whole(tmp_path / "a", "text")
        (tmp_path / "b").write_text("text")
        with files.whole_folder(tmp_path / "c") as begun:
            (begun / "secret").touch(0o600)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "b", "c/secret")]
    assert modes == [0o666 & ~umask] * 3


def test_a_link_is_replaced_and_what_is_no_file_is_left(tmp_path):
    (tmp_path / "mine").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    for target in ("mine", "nothing"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(tmp_path / target)
        files.write_whole(tmp_path / "link", "new")
        assert not (tmp_path / "link").is_symlink()
        (tmp_path / "link").unlink()
        (tmp_path / "link").symlink_to(tmp_path / target)
        refused(lambda: files.append(tmp_path / "link", "more"), "cannot write")
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "null").symlink_to("/dev/null")
    for name, what in (("pipe", "a pipe"), ("null", "a device"), (".", "a directory")):
        refused(lambda path=tmp_path / name: files.write_whole(path, "x"), "cannot write there", what)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert (tmp_path / "null").is_symlink()


def test_a_failure_leaves_what_was_there(tmp_path):
    files.write_whole(tmp_path / "a", "old")
    with pytest.raises(UnicodeEncodeError):
        files.write_whole(tmp_path / "a", "\ud800")
    with pytest.raises(IsADirectoryError), files.whole_folder(tmp_path / "b") as begun:
        begun.write_text("half")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_leftovers_of_a_kill_are_swept(tmp_path):
    for name in (".gfo-0123.partial", "mine.partial", ".gfo-mine"):
        (tmp_path / name).touch()
    files.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".gfo-mine", "mine.partial"]


@pytest.mark.parametrize("path", ["", "a\0b", None, 3, b"runs"])
def test_what_is_no_path(path):
    refused(lambda: files.absolute(path), "out = ", "name a file or folder")


def test_paths_are_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert files.absolute("runs/a") == tmp_path / "runs" / "a"
    assert files.absolute("~/a") == tmp_path / "home" / "a"


def odd(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    return [tmp_path / "pipe", "/dev/zero", "/dev/full", "/dev/null", tmp_path]


def test_what_is_no_file_is_no_config_and_no_data(tmp_path):
    for number, path in enumerate(odd(tmp_path)):
        refused(lambda path=path: load_config(path), "config: cannot read", "no file")
        link = tmp_path / f"rows{number}.jsonl"
        link.symlink_to(path)
        refused(lambda link=link: datasets.load(link, "train"), "train: cannot read", "no file")


DEEP = 100_000
BROKEN = {
    "deep.json": "[" * DEEP + "]" * DEEP,
    "deeper.json": '{"a": ' * 150 + "1" + "}" * 150,
    "digits.json": '{"seed": ' + "9" * 5000 + "}",
    "fewer.json": '{"seed": ' + "9" * 400 + "}",
    "half.json": '{"seed": "\\ud800"}',
    "deep.toml": "a = " + "[" * DEEP + "]" * DEEP,
    "dotted.toml": ".".join("a" * 200) + " = 1",
    "digits.toml": "seed = " + "9" * 5000,
    "open.json": '{"seed": 1',
    "open.toml": "seed = [",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_configs_and_rows(tmp_path, name):
    path = tmp_path / name
    path.write_text(BROKEN[name])
    refused(lambda: load_config(path), f"config: {path}")
    if name.endswith(".json"):
        rows = tmp_path / "rows.jsonl"
        rows.write_text('{"text": "a"}\n' + BROKEN[name] + "\n")
        refused(lambda: datasets.load(rows, "train"), "train", "line 2")


def test_the_line_of_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"seed = 1\nname = '\xe9'\n")
    refused(lambda: load_config(path), "not UTF-8 in line 2, byte 17")


def test_depth_and_digits_that_are_allowed():
    deep = "[" * reading.DEPTH + "]" * reading.DEPTH
    assert reading.parse_json(deep, "x", "") is not None
    refused(lambda: reading.parse_json(f"[{deep}]", "x", "mend it"), "(nested deeper than 100); mend it")
    assert reading.parse_json("9" * reading.DIGITS, "x", "") == int("9" * reading.DIGITS)
    assert reading.parse_json('"\\ud83d\\ude00"', "x", "") == "\U0001f600"  # a whole pair


def test_sizes(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(bytes(100))
    assert len(reading.read_bytes(tmp_path / "a", "x", most=100)) == 100
    refused(lambda: reading.read_bytes(tmp_path / "a", "x", most=99), "100 bytes, 99 are allowed")
    monkeypatch.setattr(sources, "MOST_BYTES", 2000)
    bomb = tmp_path / "a.jsonl.gz"
    bomb.write_bytes(gzip.compress(b" " * 10**6))
    refused(lambda: datasets.load(bomb, "train"), "unpacks to over 2,000 bytes")


def test_a_byte_order_mark_in_a_config(tmp_path):
    (tmp_path / "marked.toml").write_text(DEMO.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert (tmp_path / "marked.toml").read_bytes().startswith(b"\xef\xbb\xbf")
    assert load_config(tmp_path / "marked.toml").record() == load_config(DEMO).record()


NAME = "é" * 300  # more bytes than a file's name may have


@pytest.mark.parametrize(
    "call",
    [
        lambda: gfo.load_model(NAME),
        lambda: gfo.load_model(f"{NAME}.gguf"),
        lambda: gfo.compare([NAME]),
        lambda: folders.check(Path(NAME)),
        lambda: running.resume(Path(NAME)),
        lambda: results.evaluate(Path(NAME)),
        lambda: results.plot(Path(NAME)),
        lambda: results.export(Path(NAME)),
        lambda: load_config(DEMO).run(NAME, resume=True),
        lambda: gfo.datasets.load(NAME),
    ],
)
def test_names_too_long(call):
    with pytest.raises(gfo.GfoError) as error:
        call()
    assert "\n" not in str(error.value)
