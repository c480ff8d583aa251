"""docs/extending.md, followed to the letter: as a package by entry points, and in a checkout of gfo."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:^`([\w./]+)`:\n\n)?^```(\w+)\n(.*?)^```$", re.M | re.S)
BLOCKS = [match.groups() for match in BLOCK.finditer(PAGE)]
FILES = {name: text for name, _, text in BLOCKS if name}
CODE = {"one_plus_lambda": "optimizers", "mixture": "spaces", "rating": "tasks"}
NAMES = ("one-plus-lambda", "mixture", "rating")
SLOT, ITS_SPACE = "shift", "input-shift"
(LINES,) = (text for name, language, text in BLOCKS if not name and language == "python")
(COMMANDS,) = (text.splitlines() for _, language, text in BLOCKS if language == "bash")


def test_how_much_each_takes():
    """A file and a line each, and a task of at most 60 lines; there is no other code on the page."""
    assert set(FILES) == {
        *(f"mypackage/{file}.py" for file in (*CODE, SLOT)),
        "pyproject.toml",
        "ratings.toml",
        "checks.py",
    }
    assert len(BLOCKS) == len(FILES) + 2
    points = tomllib.loads(FILES["pyproject.toml"])["project"]["entry-points"]["gfo.plugins"]
    places = {name.split(".")[1]: place.partition(":")[0] for name, place in points.items()}
    files = dict(zip(NAMES, CODE, strict=True)) | {ITS_SPACE: SLOT}
    assert places == {name: f"mypackage.{file}" for name, file in files.items()}
    assert [line.split('"')[1] for line in LINES.splitlines()] == list(NAMES)
    assert max(len(FILES[f"mypackage/{file}.py"].splitlines()) for file in files.values()) <= 60
    assert len(FILES["mypackage/rating.py"].splitlines()) <= 30
    assert max(len(line) for text in FILES.values() for line in text.splitlines()) <= 110


def package(folder):
    """The page's package, installed in a folder as pip would have it."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "mypackage" / "__init__.py").touch()
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    info = folder / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = project["entry-points"]["gfo.plugins"]
    (info / "entry_points.txt").write_text(
        "[gfo.plugins]\n" + "".join(f"{name} = {place}\n" for name, place in points.items())
    )


def checkout(folder):
    """A copy of gfo with the page's files and lines."""
    shutil.copytree(ROOT / "gfo", folder / "gfo", ignore=shutil.ignore_patterns("__pycache__"))
    names = folder / "gfo" / "core" / "names.py"
    text = names.read_text()
    for line, (file, where) in zip(LINES.splitlines(), CODE.items(), strict=True):
        (folder / "gfo" / where / f"{file}.py").write_text(FILES[f"mypackage/{file}.py"])
        begins = f'    "{where.removesuffix("s")}": {{\n'
        assert text.count(begins) == 1
        text = text.replace(begins, f"{begins}        {line}\n")
    names.write_text(text)
    (folder / "ratings.toml").write_text(FILES["ratings.toml"])


@pytest.fixture
def run(tmp_path, tiny, request):
    """Runs a command line in a new process: (exit code, stdout, stderr)."""
    model = tiny(getattr(request, "param", "llama"))
    model.module.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    for split in ("train", "dev", "test"):
        rows = [{"text": f"{split} {'abcdef'[i]} was so", "label": "135"[i % 3]} for i in range(6)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    site = tmp_path / "site"
    site.mkdir()
    env = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def call(*command, file=None):
        what = [file] if file else ["-m", "gfo"]
        done = subprocess.run(
            [sys.executable, *what, *command], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        return done.returncode, done.stdout, done.stderr

    return call


def small(folder):
    """The page's config with a tiny model and a tenth of the budget."""
    text = FILES["ratings.toml"].replace('"smollm2-135m"', '"model"').replace("= 600", "= 60")
    (folder / "ratings.toml").write_text(text)


def test_in_a_checkout(tmp_path, run):
    assert run("list", "rating")[0] == 2  # a control: gfo does not know it by itself
    checkout(tmp_path / "site")
    small(tmp_path)
    code, listed, err = run("list")
    assert code == 0, err
    for name in NAMES:
        assert f"  {name} " in listed
    code, said, err = run("tune", "ratings.toml", "--out", "run")
    assert code == 0, err
    assert "mae" in said


def test_as_a_package(tmp_path, run):
    """Its commands as they stand."""
    package(tmp_path / "site")
    small(tmp_path)
    code, listed, err = run("list")
    assert code == 0, err
    for name in NAMES:
        assert f"  {name} " in listed
    said = {}
    for line in COMMANDS:
        command = line.replace("=900", "=90").split()
        assert command[0] == "gfo"
        code, said[command[1]], err = run(*command[1:])
        assert code == 0, err
        assert "warning" not in err
    assert "label -> the word that stands for it" in said["list"]
    assert "mae" in said["tune"]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["cost"]["candidates"] == 90
    assert result["space"] == {"kind": "Mixture", "words": [" good", " bad", " food", " not"], "tokens": 2}
    assert result["task"]["template"] == "Review: {text}\n{soft}Stars:"
    assert set(result["scores"]["after"]) == {"test", "dev"}
    for change, words in (
        ("space.tokns=3", "unknown key in [space] 'tokns': did you mean 'tokens'"),
        ("space.kind=mixtur", "unknown space 'mixtur': did you mean 'mixture'"),
    ):
        code, _, err = run("tune", "ratings.toml", "--out", "other", "--set", change)
        assert code == 2
        (error,) = (line for line in err.splitlines() if line.startswith("error: "))
        assert words in error
        assert "Traceback" not in err
    assert not (tmp_path / "other").exists()
    code, _, err = run("resume", "run", "--set", "space.words=[' good']")
    assert code == 2
    assert "the run there has config.space.words" in err
    code, _, err = run("export", "run")
    assert code == 0, err
    assert "{text}" in json.loads((tmp_path / "run" / "peft" / "gfo_prompt.json").read_text())["template"]
    code, _, err = run("export", "run", "--format", "merge", "--out", "other")
    assert (code, err.startswith("error: unknown format 'merge': did you mean 'merged'")) == (2, True)


def test_the_checks_of_the_page_pass(tmp_path, run):
    package(tmp_path / "site")
    code, _, err = run(file=str(tmp_path / "site" / "checks.py"))
    assert code == 0, err


@pytest.mark.parametrize(("run", "biases"), [("gpt2", True), ("llama", False)], indirect=["run"])
def test_a_slot_of_the_page(tmp_path, run, biases):
    """Its space is searched from a TOML; it leaves in the weights of a model that has a place for it."""
    package(tmp_path / "site")
    small(tmp_path)
    for split in ("dev", "test"):  # so that what is better on train is better there
        shutil.copy(tmp_path / "train.jsonl", tmp_path / f"{split}.jsonl")
    text = re.sub(r"\[space\]\n.*?\n\n", f'[space]\nkind = "{ITS_SPACE}"\nalpha = 2.0\n\n',
                  (tmp_path / "ratings.toml").read_text().replace("{soft}", ""), flags=re.S)  # fmt: skip
    (tmp_path / "shifts.toml").write_text(text)
    code, _, err = run("tune", "shifts.toml", "--out", "run")
    assert code == 0, err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["space"]["kind"] == "InputShift"
    before, after = (result["scores"][when]["test"]["loss"] for when in ("before", "after"))
    code, _, err = run("export", "run", "--format", "peft")
    assert code == 2
    assert "PEFT has no adapter for shift" in err
    code, _, err = run("export", "run", "--format", "merged", "--out", "merged")
    if not biases:
        assert code == 2
        assert "a module without a bias cannot hold a shift" in err
        return
    assert code == 0, err
    # the merged model, unmoved, is the model that was found
    plain = text.replace('"model"', '"merged"').replace("= 60", "= 6")
    (tmp_path / "merged.toml").write_text(plain)
    code, _, err = run("tune", "merged.toml", "--out", "again")
    assert code == 0, err
    again = json.loads((tmp_path / "again" / "result.json").read_text())["scores"]["before"]["test"]["loss"]
    assert again == pytest.approx(after, rel=1e-4)
    assert again != pytest.approx(before, rel=1e-3)
