"""The command line as a stranger meets it: a whole run on a tiny model, and every mistake."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from commands import bad, caller, fill, rows

from gfo.config import load_config
from gfo.run.stored import load_point


@pytest.fixture
def work(tmp_path, monkeypatch, tiny):
    """A working folder with a tiny model, data and a config."""
    monkeypatch.chdir(tmp_path)
    return fill(tmp_path, tiny)


@pytest.fixture
def gfo(monkeypatch, capsys):
    """Call the command line in this process: (exit code, stdout, stderr)."""
    return caller(monkeypatch, capsys)


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
        ".lock", "best.safetensors", "config.json", "history.jsonl", "plot.png", "result.json", "run.json",
    }  # fmt: skip
    assert str(work) not in (work / "run" / "result.json").read_text()  # results travel, paths do not

    code, out, err = gfo("eval", "run", "--split", "dev")
    assert code == 0, err
    scored = json.loads((work / "run" / "result.json").read_text())["scores"]
    assert scored["after"]["test"] == result["scores"]["after"]["test"]
    dev = [json.loads(line)["dev"] for line in (work / "run" / "history.jsonl").read_text().splitlines()]
    assert scored["after"]["dev"]["loss"] <= min(d["loss"] for d in dev if d) + 1e-5


def test_plot_draws_one_run_and_compare_several(work, gfo):
    for seed in (0, 1):
        assert gfo("tune", "run.toml", "--set", f"seed={seed}", "--out", f"run{seed}")[0] == 0
    assert gfo("tune", "run.toml", "--set", "optimizer.name=random", "--out", "other")[0] == 0
    drawn = (work / "run0" / "plot.png").read_bytes()
    (work / "run0" / "plot.png").unlink()
    code, out, err = gfo("plot", "run0")
    assert (code, out) == (0, "figure: run0/plot.png\n"), err
    assert (work / "run0" / "plot.png").read_bytes() == drawn  # the figure that the run made
    assert gfo("plot", "run0", "--x", "seconds", "--out", "seconds.png")[0] == 0
    assert (work / "seconds.png").read_bytes() != drawn

    figure = ("--x", "forward_tokens", "--out", "comparison.pdf", "--table", "table.tex")
    code, out, err = gfo("compare", "run0", "run1", "other", *figure)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[1].startswith("cma (2 seeds)")
    assert lines[2].startswith("random ")
    assert "test accuracy" in lines[0]
    assert " ± " in lines[1]
    assert lines[-2:] == ["table: table.tex", "figure: comparison.pdf"]
    assert (work / "comparison.pdf").read_bytes().startswith(b"%PDF")
    assert (work / "table.tex").read_text().startswith(r"\begin{tabular}")
    assert gfo("compare", "run0", "run1", "--out", "two.svg")[0] == 0
    assert (work / "two.svg").read_text().startswith("<?xml")
    assert sorted(gfo("compare", ".")[1].splitlines()[1:3]) == sorted(lines[1:3])  # the runs in a folder
    code, out, err = gfo("compare", ".", "--test", "loss")
    assert (code, "cma" in out.split("\n\n")[-1]) == (0, True), err
    bad(gfo("compare", ".", "--test", "los"), "did you mean 'loss'")


def test_plot_says_what_is_wrong(work, gfo):
    assert gfo("tune", "run.toml", "--out", "run")[0] == 0
    (work / "empty").mkdir()
    bad(gfo("plot", "empty"), "empty/history.jsonl", "give the folder of a gfo run")
    bad(gfo("plot", "run", "other"), "Got unexpected extra argument")
    bad(gfo("compare", "run", "nowhere"), "nowhere/history.jsonl")
    (work / "empty" / "history.jsonl").touch()
    bad(gfo("plot", "empty"), "the run has no steps")
    bad(gfo("compare", "run", "empty"), "empty has no steps yet")
    for call in (["plot", "run"], ["compare", "run", "run"]):
        bad(gfo(*call, "--x", "token"), "unknown x 'token'", "did you mean 'forward_tokens'")
        bad(gfo(*call, "--out", "a.pgn"), "a.pgn", "did you mean 'png'")
        bad(gfo(*call, "--out", "none/a.png"), "none/a.png", "cannot write there")
    bad(gfo("compare", "run", "--table", "a.pdf"), "unknown form of a table '.pdf'")
    bad(gfo("plot"), "Missing argument 'run_dir'. See gfo plot --help")


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
    assert scored[0] == 0, scored[2]
    now = json.loads((work / "run" / "result.json").read_text())["scores"]
    for when in ("before", "after"):
        assert now[when]["test"]["loss"] == pytest.approx(result["scores"][when]["test"]["loss"], abs=1e-5)


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
    for name in (
        "cma",
        "sep-cma",
        "random",
        "soft-prompt",
        "classification",
        "generation",
        "ce",
        "token_f1",
        "smollm2-135m",
        "mezo-lora",
    ):
        assert f"  {name} " in out
    code, out, _ = gfo("--help")
    assert code == 0
    for command in ("demo", "tune", "eval", "plot", "export", "list", "download"):
        assert command in out


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("optimizer.name=cme", ["unknown optimizer 'cme'", "did you mean 'cma'"]),
        ("optimizer.options.populatoin=3", ["populatoin"]),
        ("space.kind=soft", ["unknown space 'soft'", "soft-prompt"]),
        ("model.name=smollm2-135", ["unknown model 'smollm2-135'", "did you mean 'smollm2-135m'"]),
        ("model.device=cuda:77x", ["device = 'cuda:77x'"]),
        ("model.device=meta", ["device = 'meta': give auto"]),
        ("model.memory_gib=1e300", ["model.memory_gib = 1e+300: input should be less than"]),
        ('task.data_dir="a\\u0000b"', ["task.data_dir = ", "is no path"]),
        ("optimizer.options.seed=3", ["optimizer 'cma' has no option 'seed'"]),
        ('optimizer.name="a\\nb"', ["unknown optimizer 'a\\nb'"]),
        ("task.template=Review: {text}", ["no {soft}"]),
        ("task.template={txt}{soft}", ["unknown field 'txt'", "did you mean 'text'"]),
        ('task.labels={"+" = " ", "-" = "bad"}', ["the word for '+'"]),
        ('task.labels={"+" = "good", "-" = "good bad"}', ["never the less likely"]),
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
    bad(gfo("tune", "run.toml", "--out", "run.toml/x"), "run.toml/x:", "cannot write there")
    bad(gfo("eval", "nowhere"), "nowhere/result.json")
    assert gfo("tune", "run.toml", "--out", "run")[0] == 0
    bad(gfo("tune", "run.toml", "--out", "run"), "holds a run already")
    (work / "run" / "best.safetensors").write_bytes(b"cut off")
    bad(gfo("eval", "run"), "best.safetensors")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")  # peft's own
def test_export_prints_how_to_load_it(work, gfo):
    """The lines printed, run as they are, give the logits of the run's result."""
    assert gfo("tune", "run.toml", "--out", "run")[0] == 0
    evaluator = load_config("run/config.json").local_evaluator()
    batch = evaluator.task.all_rows("test")
    expected, words = evaluator.answers(load_point(work / "run")[None], batch)[0], list(batch.vocabulary)
    for form, folder in (("peft", "run/peft"), ("merged", "out")):
        code, out, err = gfo(
            "export", "run", "--format", form, *(["--out", "out"] if folder == "out" else [])
        )
        assert code == 0, err
        first, *lines = out.splitlines()
        assert first == f"{form}: {folder}"
        assert 2 <= len(lines) <= 3
        names = {}
        exec("\n".join(line.strip() for line in lines), names)
        template = json.loads((work / folder / "gfo_prompt.json").read_text())["template"]
        with torch.no_grad():
            for row, wanted in zip(rows("test"), expected, strict=True):
                ids = names["tokenizer"](template.format(**row), return_tensors="pt")
                found = names["model"].eval()(**ids).logits[0, -1, words]
                assert float((found - wanted).abs().max()) < 1e-4
    code, out, err = gfo("export", "run", "--format", "prompt-text")
    assert code == 0, err
    assert out.splitlines()[0] == "prompt-text: run/prompt-text"
    assert len(out.splitlines()) == 3 + 3  # its folder, a header, a line a token, the warning


def test_bad_exports(work, gfo):
    bad(gfo("export", "nowhere"), "nowhere/result.json")
    assert (
        gfo("tune", "run.toml", "--out", "run", "--set", "space.kind=deep-prompt", "--set", "seed=3")[0] == 0
    )
    bad(gfo("export", "run", "--format", "pfet"), "unknown format 'pfet'", "did you mean 'peft'")
    bad(gfo("export", "run"), "deep prompt", "SoftPrompt")
    bad(gfo("export", "run", "--format", "merged"), "deep prompt", "SoftPrompt")
    bad(gfo("export", "run", "--format", "prompt-text", "--out", "run"), "out = run: it is not empty")


def test_a_search_starts_from_an_exported_adapter(work, gfo):
    """The next run's scores before are this one's after."""
    assert gfo("tune", "run.toml", "--out", "one")[0] == 0
    assert gfo("export", "one", "--out", "adapter")[0] == 0
    second = work / "second.toml"
    second.write_text((work / "run.toml").read_text().replace("tokens = 3", 'from_peft = "adapter"'))
    code, _, err = gfo("tune", "second.toml", "--out", "two")
    assert code == 0, err
    one, two = (json.loads((work / name / "result.json").read_text())["scores"] for name in ("one", "two"))
    assert two["before"]["test"]["loss"] == pytest.approx(one["after"]["test"]["loss"], abs=1e-5)
    assert two["before"]["test"]["loss"] != pytest.approx(one["before"]["test"]["loss"], abs=1e-3)
    assert gfo("eval", "two", "--split", "dev")[0] == 0
    bad(gfo("tune", "second.toml", "--set", "space.tokens=3"), "from_peft", "leave tokens out")
    bad(gfo("tune", "second.toml", "--set", "space.from_peft=nowhere"), "from_peft = nowhere")


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
    bad(gfo("demo", "--space", "soft-promt"), "unknown space of the demo 'soft-promt'", "'soft-prompt'")
    bad(gfo("demo", "--space", "soft-prompt", "--optimizer", "cmaes"), "unknown optimizer 'cmaes'")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_says_where(work, number):
    """A real interrupt of a real process in the middle of a search; schedulers send SIGTERM."""
    command = [sys.executable, "-m", "gfo", "tune", "run.toml", "--set", "budget.evaluations=1000000"]
    command += ["--set", "optimizer.name=random", "--set", "optimizer.options={}"]  # never ends by itself
    process = subprocess.Popen(
        [*command, "--out", "run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    history = work / "run" / "history.jsonl"
    deadline = time.monotonic() + 90
    while not (history.exists() and history.read_text().count("\n") >= 3):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted after" in out
    assert "what was found is in run" in out
    assert "Traceback" not in err
    result = json.loads((work / "run" / "result.json").read_text())
    assert result["stopped"] == "interrupted"
    assert result["steps"] == history.read_text().count("\n")
    assert (work / "run" / "best.safetensors").exists()
