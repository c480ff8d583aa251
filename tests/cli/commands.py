"""The command line called in this process, and a folder to call it in."""

import json
import sys

from gfo import cli


def rows(end):
    return [{"text": text + end, "label": label} for text, label in zip("abcdefgh", "+-+-+-+-", strict=True)]


def fill(tmp_path, tiny):
    """Write a tiny model, data and a config, relative to the folder, which must be the working one."""
    model = tiny("llama")
    model.module.save_pretrained("model")
    model.tokenizer.save_pretrained("model")
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(split)))
    (tmp_path / "run.toml").write_text(
        """
        dev_every = 2
        [model]
        name = "model"
        device = "cpu"
        [task]
        train = "train.jsonl"
        dev = "dev.jsonl"
        test = "test.jsonl"
        template = "Review: {text}\\n{soft}Sentiment:"
        labels = { "+" = " good", "-" = " bad" }
        [space]
        tokens = 3
        dim = 10
        [budget]
        evaluations = 40
        """
    )
    return tmp_path


def caller(monkeypatch, capsys):
    """Calls the command line: (exit code, stdout, stderr)."""

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["gfo", *map(str, args)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code or 0, out, err

    return call


def bad(result, *words):
    """Exit code 2 and one line of error that holds the words."""
    code, _, err = result
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2, err
    assert len(lines) == 1, err
    assert "Traceback" not in err
    for word in words:
        assert word in lines[0], lines[0]
