"""The README does what it says: its Python runs, its commands are those of CI."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gfo import cli, optimizers
from gfo.core import registry

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
WORDS = {"good": "positive", "bad": "negative", "great": "positive", "terrible": "negative"}

CONFIG = (ROOT / "gfo" / "data" / "demo.toml").read_text(encoding="utf-8")


def rows(split):
    """Of which none stands in two splits."""
    return [{"text": f"the {split} food was {word}", "label": label} for word, label in WORDS.items()]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.M | re.S)


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny):
    monkeypatch.chdir(tmp_path)
    model = tiny("llama", max_position_embeddings=512)
    model.module.save_pretrained("smollm2-135m")
    model.tokenizer.save_pretrained("smollm2-135m")
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(split)))
    return tmp_path


def test_python_blocks_run_one_after_the_other(folder, capsys, monkeypatch):
    """As they stand, but for the model (a tiny one in a folder) and fewer, smaller steps."""
    monkeypatch.setattr(registry, "_REGISTERED", {})
    names = {}
    for block in blocks("python"):
        code = block.replace('"smollm2-135m"', '"./smollm2-135m", device="cpu"')
        code = code.replace("evaluations=1000", "evaluations=40").replace("range(50)", "range(2)")
        code = code.replace("evaluations=1500", "evaluations=60")
        exec(compile(code.replace("dim=200", "dim=20"), "README.md", "exec"), names)
    assert "accuracy" in capsys.readouterr().out
    assert (folder / "loss.png").exists()
    history = (folder / "runs" / "first" / "history.jsonl").read_text().splitlines()
    assert 40 < json.loads(history[-1])["evaluations"] <= 60
    assert len((folder / "runs" / "first.csv").read_text().splitlines()) == len(history) + 1
    assert names["step"] == 1
    assert "one-plus-lambda" in optimizers.names()


def commands():
    """The lines of all blocks that call gfo, without comments."""
    lines = [line.partition("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("gfo ")]


def call(monkeypatch, line):
    """The command line, in this process; what it prints goes to capsys."""
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code, line


def test_command_lines_run_one_after_the_other(folder, capsys, monkeypatch):
    """As they stand, on the demo's config with a tiny model."""
    config = CONFIG.replace('"smollm2-135m"', '"./smollm2-135m"\ndevice = "cpu"')
    (folder / "CONFIG.toml").write_text(config)
    call(monkeypatch, "gfo tune CONFIG.toml --set budget.evaluations=40 --set seed=1 --out runs/other")
    for line in commands():
        if "download" not in line:
            call(monkeypatch, line)
    assert (folder / "comparison.png").exists()
    steps = (folder / "runs" / "mine" / "history.jsonl").read_text().splitlines()
    assert json.loads(steps[-1])["evaluations"] > 40
    assert "sep-cma" in capsys.readouterr().out


@pytest.mark.weights
def test_the_download_command_runs(monkeypatch, capsys):
    (line,) = (line for line in commands() if "download" in line)
    call(monkeypatch, line)
    assert capsys.readouterr().out


def test_every_block_is_run_by_a_test():
    """Python one after the other, gfo's command lines too, the two others by .ci/run and by people."""
    languages = re.findall(r"^```(.*)$", README, flags=re.M)
    assert set(languages) <= {"python", "bash", ""}
    other = [block for block in blocks("bash") if not block.startswith("gfo ")]
    assert other == blocks("bash")[:2]


def test_ci_runs_the_readmes_test_command():
    install, test = (block.strip() for block in blocks("bash")[:2])
    assert "\n" not in install
    assert "\n" not in test
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    extract = next(line for line in ci.splitlines() if line.startswith("command="))
    found = subprocess.run(
        ["bash", "-c", f'{extract}\nprintf %s "$command"'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == test
    assert found.stdout != install


def test_files_that_the_readme_names_exist():
    for target in re.findall(r"\]\((?!https:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
