"""The command line as a stranger meets it: a whole run on a tiny model, and every mistake."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from gfo import cli

ROWS = [{"text": text, "label": label} for text, label in zip("abcdefgh", "+-+-+-+-", strict=True)]


@pytest.fixture
def work(tmp_path, monkeypatch, tiny):
    """A working folder with a tiny model, data and a config."""
    monkeypatch.chdir(tmp_path)
    model = tiny("llama")
    model.module.save_pretrained("model")
    model.tokenizer.save_pretrained("model")
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
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
        labels = { "+" = "good", "-" = "bad" }
        [space]
        tokens = 3
        dim = 10
        [budget]
        evaluations = 40
        """
    )
    return tmp_path


@pytest.fixture
def gfo(monkeypatch, capsys):
    """Call the command line in this process: (exit code, stdout, stderr)."""

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


def test_tune_then_eval(work, gfo):
    code, out, err = gfo("tune", "run.toml", "--out", "run")
    assert code == 0, err
    assert "accuracy" in out
    assert "40 evaluations" in out
    result = json.loads((work / "run" / "result.json").read_text())
    assert set(result["scores"]) == {"before", "after"}
    assert 0 <= result["scores"]["after"]["test"]["accuracy"] <= 1
    assert result["config"]["space"]["dim"] == 10
    assert {p.name for p in (work / "run").iterdir()} == {
        "best.safetensors", "config.json", "history.jsonl", "plot.png", "result.json",
    }  # fmt: skip
    assert str(work) not in (work / "run" / "result.json").read_text()  # results travel, paths do not

    code, out, err = gfo("eval", "run", "--split", "dev")
    assert code == 0, err
    scored = json.loads((work / "run" / "result.json").read_text())["scores"]
    assert scored["after"]["test"] == result["scores"]["after"]["test"]
    dev = [json.loads(line)["dev"] for line in (work / "run" / "history.jsonl").read_text().splitlines()]
    assert scored["after"]["dev"]["loss"] <= min(d["loss"] for d in dev if d) + 1e-5


def test_tune_again_from_the_config_of_a_run_gives_the_same_history(work, gfo):
    gfo("tune", "run.toml", "--out", "one")
    gfo("tune", "one/config.json", "--out", "two")
    gfo("tune", "run.toml", "--set", "seed=1", "--out", "three")

    def losses(name):
        return [json.loads(line)["loss"] for line in (work / name / "history.jsonl").read_text().splitlines()]

    assert losses("one") == losses("two")
    assert losses("one") != losses("three")


@pytest.mark.parametrize(
    ("name", "options"),
    [("gradient", "{lr=0.3}"), ("lora", "{rank=2}"), ("linear-head", "{}"), ("in-context", "{k=2}")],
)
def test_tune_a_baseline(work, gfo, name, options):
    code, out, err = gfo(
        "tune",
        "run.toml",
        "--set",
        f"baseline.name={name}",
        "--set",
        f"baseline.options={options}",
        "--out",
        "run",
    )
    assert code == 0, err
    assert f"model, {name}, seed 0" in err
    assert "accuracy" in out
    result = json.loads((work / "run" / "result.json").read_text())
    assert result["baseline"] == result["config"]["baseline"]["name"] == name
    assert "optimizer" not in result["config"]
    assert (result["cost"]["forward_tokens"] > 0) == (name != "in-context")
    gfo("tune", "run/config.json", "--out", "again")
    again = json.loads((work / "again" / "result.json").read_text())
    assert again["scores"] == result["scores"]

    scored = gfo("eval", "run", "--split", "test")
    if name == "lora":  # its weights are gone with the process
        bad(scored, "updates are gone", "score them there")
    else:
        assert scored[0] == 0, scored[2]
        now = json.loads((work / "run" / "result.json").read_text())["scores"]
        for when in ("before", "after"):
            assert now[when]["test"]["loss"] == pytest.approx(
                result["scores"][when]["test"]["loss"], abs=1e-5
            )


def test_bad_baselines(work, gfo):
    bad(
        gfo("tune", "run.toml", "--set", "baseline.name=lra"), "unknown baseline 'lra'", "did you mean 'lora'"
    )
    wrong = ["--set", "baseline.name=full", "--set", "baseline.options={rat=1}"]
    bad(gfo("tune", "run.toml", *wrong), "'full' has no option 'rat'", "lr")
    both = ["--set", "baseline.name=full", "--set", "optimizer.name=cma"]
    bad(gfo("tune", "run.toml", *both), "it has [optimizer] and [baseline]; give one of them")
    assert not (work / "runs").exists()


def test_list_and_help_name_everything(gfo):
    code, out, _ = gfo("list")
    assert code == 0
    for name in ("cma", "sep-cma", "mezo-lora", "soft-prompt", "classification", "ce", "smollm2-135m"):
        assert f"  {name} " in out
    code, out, _ = gfo("--help")
    assert code == 0
    for command in ("demo", "tune", "eval", "list", "download"):
        assert command in out


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("optimizer.name=cme", ["unknown optimizer 'cme'", "did you mean 'cma'"]),
        ("optimizer.options.populatoin=3", ["populatoin"]),
        ("space.kind=soft", ["unknown space 'soft'", "soft-prompt"]),
        ("model.name=smollm2-135", ["unknown model 'smollm2-135'", "did you mean 'smollm2-135m'"]),
        ("model.device=cuda:77x", ["device = 'cuda:77x'"]),
        ("task.template=Review: {text}", ["no {soft}"]),
        ("task.template={txt}{soft}", ["unknown field 'txt'", "did you mean 'text'"]),
        ('task.labels={"+" = " ", "-" = "bad"}', ["the word for '+'"]),
        ('task.labels={"+" = "good", "-" = "good bad"}', ["share their first token"]),
        ('task.labels={"+" = "good", "x" = "bad"}', ["train row 2", "label '-' has no word"]),
        ("task.train=empty.jsonl", ["empty.jsonl has no rows"]),
        ("task.train=broken.jsonl", ["broken.jsonl line 3 is not JSON"]),
        ("task.train=long.jsonl", ["train row 1 has", "tokens", "the model's context has 128"]),
        ("space.dim=97", ["dim = 97 must be 1 to 96"]),
        ("budget.evaluations=-1", ["evaluations = -1"]),
        ("budget.evaluations=3", ["3 evaluations are fewer than one population"]),
        ("seed=-1", ["seed = -1"]),
    ],
)
def test_bad_configs(work, gfo, setting, words):
    (work / "empty.jsonl").write_text("\n")
    (work / "broken.jsonl").write_text('{"text": "a", "label": "+"}\n\n{"text": "a", \n')
    (work / "long.jsonl").write_text(json.dumps({"text": "good " * 200, "label": "+"}) + "\n")
    bad(gfo("tune", "run.toml", "--set", setting, "--out", "run"), *words)


def test_bad_folders(work, gfo):
    bad(gfo("tune", "run.toml", "--out", "run.toml/x"), "out = run.toml/x", "cannot write there")
    bad(gfo("eval", "nowhere"), "nowhere/result.json")
    assert gfo("tune", "run.toml", "--out", "run")[0] == 0
    bad(gfo("tune", "run.toml", "--out", "run"), "holds a run already")
    (work / "run" / "best.safetensors").write_bytes(b"cut off")
    bad(gfo("eval", "run"), "best.safetensors")


def test_bad_split_option_and_download(work, gfo):
    assert gfo("tune", "run.toml", "--out", "run")[0] == 0
    bad(gfo("eval", "run", "--split", "tset"), "split 'tset'")
    bad(gfo("download", "smollm3"), "smollm3", "smollm2-135m")
    code, _, err = gfo("tune", "run.toml", "--colour", "red")
    assert code == 2
    assert "--colour" in err


def test_demo_checks_its_options_before_it_loads_anything(gfo):
    bad(gfo("demo", "--optimizer", "cmaes"), "unknown optimizer 'cmaes'")
    bad(gfo("demo", "--budget", "-7"), "evaluations = -7")


def test_ctrl_c_saves_and_says_where(work):
    """A real interrupt of a real process in the middle of a search."""
    command = [sys.executable, "-m", "gfo", "tune", "run.toml", "--set", "budget.evaluations=1000000"]
    command += ["--set", "optimizer.name=random", "--set", "optimizer.options={}"]  # never ends by itself
    process = subprocess.Popen(
        [*command, "--out", "run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # a shell's "&" ignores it for all below
    )
    history = work / "run" / "history.jsonl"
    deadline = time.monotonic() + 90
    while not (history.exists() and history.read_text().count("\n") >= 3):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted after" in out
    assert "what was found is in run" in out
    assert "Traceback" not in err
    result = json.loads((work / "run" / "result.json").read_text())
    assert result["stopped"] == "interrupted"
    assert result["steps"] == history.read_text().count("\n")
    assert (work / "run" / "best.safetensors").exists()
