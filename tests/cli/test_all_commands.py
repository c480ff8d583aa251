"""Every command: its help, what a typo in it ends in, what a shell completes; by walking the application."""

from __future__ import annotations

import inspect
import re
from typing import get_args, get_type_hints

import pytest
import typer.main
from commands import bad, caller

from gfo.cli import app, names
from gfo.config import listing
from gfo.core.registry import entries
from gfo.report.curves import BANDS
from gfo.report.panels import SEEDS, SIZES

COMMANDS = typer.main.get_command(app).commands
PARAMETERS = [
    (name, each) for name, command in COMMANDS.items() for each in command.params if each.name != "help"
]
UNITS = ("whole number", "evaluations", "candidates", "tokens", "seconds", "bytes")

NEEDED = {"search": ["--out", "to"], "sweep": ["--grid", "seed=0", "--out", "to"]}


@pytest.fixture
def gfo(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    return caller(monkeypatch, capsys)


def options(command):
    return [
        each for each in COMMANDS[command].params if each.param_type_name == "option" and each.name != "help"
    ]


def test_there_are_commands():
    assert {"tune", "show", "compare", "predict", "rm", "init", "runs", "eval", "export"} <= set(COMMANDS)


@pytest.mark.parametrize(("command", "parameter"), PARAMETERS, ids=lambda x: getattr(x, "name", x))
def test_every_parameter_says_what_it_is_its_default_and_unit(command, parameter):
    assert parameter.help, "no help"
    told = parameter.help.lower()
    if not parameter.required:
        shown = parameter.default not in (None, (), []) and parameter.show_default is not False
        flag = getattr(parameter, "is_flag", False)
        assert shown or flag or "default" in told, "no default"
    hint = get_type_hints(inspect.unwrap(COMMANDS[command].callback))[parameter.name]
    if {int, float} & {hint, *get_args(hint)}:
        assert any(unit in told for unit in UNITS), "no unit"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_a_sentence_and_shows_every_option(gfo, command):
    code, out, _ = gfo(command, "-h")
    assert code == 0
    assert (
        COMMANDS[command].help.strip().rstrip().split("\n")[0].endswith(".") or ":" in COMMANDS[command].help
    )
    for option in options(command):
        assert option.opts[0] in out


def misspelled(word):
    """Two letters in the middle the other way round, or one left out."""
    middle = max(1, len(word) // 2)
    turned = word[: middle - 1] + word[middle] + word[middle - 1] + word[middle + 1 :]
    return turned if turned != word else word[:middle] + word[middle + 1 :]


@pytest.mark.parametrize("command", [name for name in COMMANDS if len(name) > 2])
def test_a_typo_in_a_command_gets_the_nearest(gfo, command):
    bad(gfo(misspelled(command)), "Did you mean", f"'{command}'", "See gfo --help")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_typo_in_an_option_gets_the_nearest(gfo, command):
    for option in (each for each in options(command) if len(each.opts[0]) > 4):
        wrong = f"--{misspelled(option.opts[0].removeprefix('--'))}"
        if len(option.opts[0]) > 5:
            bad(gfo(command, wrong, "x"), f"Did you mean '{option.opts[0]}'", f"See gfo {command} --help")
        else:
            bad(gfo(command, wrong, "x"), wrong[:3])


@pytest.mark.parametrize("command", COMMANDS)
def test_words_that_are_missing_or_too_many_are_one_line(gfo, command):
    needed = [each for each in COMMANDS[command].params if each.required]
    if needed:
        bad(gfo(command), "Missing ", f"See gfo {command} --help")
    if not any(each.nargs == -1 for each in COMMANDS[command].params):
        given = NEEDED.get(command, [])
        bad(gfo(command, "a", "b", "c", "d", *given), "unexpected extra argument")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_or_name_that_is_not_there_is_one_line(gfo, tmp_path, monkeypatch, command):
    if command == "demo":  # which takes none
        return
    monkeypatch.chdir(tmp_path)
    more = {"predict": ["rows.jsonl"], "rm": ["--yes"], **NEEDED}.get(command, [])
    code, _, err = gfo(command, "nowhere", *more)
    assert code == 2
    assert re.fullmatch(r"error: [^\n]+\n", err)
    assert "nowhere" in err


@pytest.mark.parametrize(
    ("complete", "begun", "kind"),
    [(names.optimizers, "", "optimizer"), (names.models, "smol", "model"), (names.tasks, "", "task"),
     (names.metrics, "", "metric")],
)  # fmt: skip
def test_names_are_completed(complete, begun, kind):
    assert complete(begun) == [name for name in sorted(entries(kind)) if name.startswith(begun)]
    assert complete("no such") == []


def test_keys_of_configs_and_their_names_are_completed():
    assert names.keys("budget.e") == ["budget.evaluations="]
    assert names.keys("space.ki") == ["space.kind="]
    assert names.keys("space.kind=soft") == ["space.kind=soft-prompt"]
    assert names.keys("optimizer.name=cm") == ["optimizer.name=cma"]
    assert names.facts("opt") == ["optimizer="]
    assert names.facts("space=lo") == ["space=lora"]
    assert "test.accuracy" in names.numbers("test.acc")
    assert set(names.everything("")) >= {
        name for kind in ("optimizer", "space", "task") for name in entries(kind)
    }


@pytest.mark.parametrize(("section", "kind"), names.OPTIONS.items())
def test_every_option_is_completed(section, kind):
    found = set(names.keys(f"{section}."))
    for entry in entries(kind).values():
        for option in listing.describe(entry).options:
            assert f"{section}.{option.name}=" in found
    assert f"{section}." in names.keys(section[:-1])
    assert not any(key.startswith("space.dim") for key in names.keys("spac"))  # control: not yet asked for


def test_what_figures_take_is_completed():
    assert set(names.bands("")) == {*BANDS, SEEDS}
    assert set(names.sizes("")) == set(SIZES)


def test_logs_are_completed():
    assert names.keys("log.wandb.") == [
        "log.wandb.folder=",
        "log.wandb.mode=",
        "log.wandb.name=",
        "log.wandb.project=",
    ]
    assert names.keys("log.csv") == ["log.csv.path="]


def test_a_shell_can_ask(gfo, monkeypatch):
    monkeypatch.setenv("_GFO_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "gfo tune run.toml --set optimizer.name=sn")
    monkeypatch.setenv("COMP_CWORD", "4")
    assert "optimizer.name=snes" in gfo()[1]
    monkeypatch.delenv("_GFO_COMPLETE")
    assert "--install-completion" in gfo("--help")[1]
