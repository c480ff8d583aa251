"""The README's Python and commands reach what they say; its commands are those of CI."""

import json
import subprocess

import pages
from pages import README, ROOT, folder, install_commands  # noqa: F401 (a fixture)


def test_the_readme_leaves_what_it_says(folder, monkeypatch, capsys):  # noqa: F811
    done, names = pages.run(README, folder, monkeypatch)
    assert done == [block.where for block in pages.blocks(README)[2:]]
    out = capsys.readouterr().out
    assert "accuracy" in out
    assert "sep-cma" in out
    assert names["result"].folder.samefile(folder / "runs" / "first")
    for file in ("loss.png", "comparison.png", "my-adapter/adapter_config.json"):
        assert (folder / file).exists(), file
    first, mine = (
        (folder / "runs" / run / "history.jsonl").read_text().splitlines() for run in ("first", "mine")
    )
    assert json.loads(first[-1])["evaluations"] == 36
    assert json.loads(mine[-1])["evaluations"] > 24  # it was resumed with a larger budget


def test_ci_runs_the_readmes_test_command():
    install, test = (block.text.strip() for block in install_commands())
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
