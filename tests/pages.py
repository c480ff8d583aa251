"""The README and the pages of docs as programs: their blocks in order, on a tiny model.

- Python: all blocks of a page, in one namespace.
- `gfo ...` lines of bash blocks: through the command line, in this process.
- TOML: a block whose first line is a comment with a file's name is written there, for the commands that
  follow; another one stands for the sections it has: it takes their place in the demo's config, and is run.
  One with [search] is read, and not run.
- text: shown, not run.

Budgets and dimensions are smaller than as they stand.
"""

from __future__ import annotations

import copy
import json
import re
import shlex
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from gfo import cli, config
from gfo.config.search import load_search
from gfo.core import registry

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
# extending.md is a package, which test_extending.py builds and runs; the tutorial has test_your_data.py
RUN = [page for page in PAGES if page.name not in ("extending.md", "your-data.md")]
LANGUAGES = {"python", "bash", "toml", "text"}
NEED_WEIGHTS = ("gfo download", "gfo demo")
MODEL = '"smollm2-135m"'
STARTS = {"train": "a", "dev": "the", "test": "one"}  # so alike that what helps on train helps on dev
WORDS = {"good": "positive", "bad": "negative", "great": "positive", "terrible": "negative"}


@dataclass(frozen=True)
class Block:
    """A block of code of a page: its language, text and line."""

    page: Path
    language: str
    text: str
    line: int

    @property
    def where(self):
        return f"{self.page.name}:{self.line}"

    @property
    def commands(self):
        """The gfo command lines of a bash block; none in others."""
        if self.language != "bash":
            return []
        lines = [shlex.split(line, comments=True) for line in self.text.splitlines()]
        return [line for line in lines if line[:1] == ["gfo"]]


def blocks(page):
    """All blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\S*)\n(.*?)^```$", text, flags=re.M | re.S)
    return [Block(page, m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in found]


def install_commands():
    """The first two blocks of the README: for people, and for CI."""
    return [block for block in blocks(README) if block.language == "bash"][:2]


def smaller(code):
    """The same with fewer evaluations in fewer dimensions, 24 and 20 at least."""
    code = re.sub(
        r"evaluations( ?= ?)([\d_]+)", lambda m: f"evaluations{m[1]}{max(int(m[2]) // 25, 24)}", code
    )
    code = code.replace("forward_tokens=20_000", "forward_tokens=2_000").replace("range(50)", "range(2)")
    code = code.replace("forward_tokens = 20000", "forward_tokens = 2000")
    return re.sub(r"\bdim( ?= ?)\d+", r"dim\g<1>20", code)


def rows(split):
    """Of which none stands in two splits."""
    return [{"text": f"{STARTS[split]} food was {word}", "label": label} for word, label in WORDS.items()]


def write_data(folder):
    """What the pages name: data and the demo's configs with the tiny model."""
    files = {f"{split}.jsonl": rows(split) for split in ("train", "dev", "test")}
    options = ["the food was good", "the food was bad"]
    files["questions.jsonl"] = [{"question": f"What of {i}?", "options": options, "label": i} for i in (0, 1)]
    files["articles.jsonl"] = [{"source": f"the {w} food", "summary": w} for w in WORDS]
    files["documents.jsonl"] = [{"text": "the food was good, but the service was bad. " * 3}]
    for name, lines in files.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in lines))
    demos = folder / "gfo" / "data"
    demos.mkdir(parents=True)
    for demo in config.DEMOS.values():
        (demos / demo.name).write_text(tiny(demo.read_text(encoding="utf-8")))


def tiny(toml):
    """A config with the tiny model."""
    return smaller(toml).replace(MODEL, '"./smollm2-135m"\ndevice = "cpu"')


CHAT = (
    "{% for m in messages %}{{ m['role'] + ':\n' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}"
)


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny):
    """A working folder with model, data and the demo's config; what is registered in it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    model = tiny("llama", max_position_embeddings=512, intermediate_size=64)
    model.module.save_pretrained("smollm2-135m")
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained("smollm2-135m")
    write_data(tmp_path)
    return tmp_path


def call(monkeypatch, words):
    """A command line, in this process; what it prints goes to capsys."""
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code, shlex.join(words)


def run(page, folder, monkeypatch):
    """Run all blocks of a page; what was run (a block's place), and the names that Python left."""
    done, names = [], {}
    for number, block in enumerate(blocks(page)):
        if block in install_commands():
            continue
        if block.language == "python":
            code = smaller(block.text).replace(MODEL, '"./smollm2-135m", device="cpu"')
            code = code.replace(', device="auto"', "").replace('device="cpu", device="cpu"', 'device="cpu"')
            exec(compile("\n" * block.line + code, block.page.name, "exec"), names)
        elif block.language == "bash":
            for words in block.commands:
                if shlex.join(words[:2]) not in NEED_WEIGHTS:
                    call(monkeypatch, [smaller(word) for word in words])
        elif block.language == "toml":
            run_toml(block, folder, number)
        done.append(block.where)
    return done, names


def run_toml(block, folder, number):
    """Write a whole config down, or run the demo's with the block's sections in the place of its own."""
    text = tiny(block.text).replace('device = "auto"\n', "")
    name = re.match(r"# (\S+\.toml)\n", text)
    if name:
        (folder / name[1]).write_text(text)
        config.load_config(folder / name[1])
        return
    demo = folder / "gfo" / "data" / "demo-soft-prompt.toml"
    values = tomllib.loads(demo.read_text()) | tomllib.loads(text)
    if "baseline" in values:
        del values["optimizer"]
    if values.get("task", {}).get("kind") == "weighted":
        del values["dev_every"]
    if "search" in values:
        (folder / f"{number}.json").write_text(json.dumps(values))
        load_search(folder / f"{number}.json")
        return
    config.make_config(values, block.where).run(folder / f"toml{number}", progress=False)
