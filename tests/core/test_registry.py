"""One registry: gfo's names, a user's, and those of other packages."""

import os
import subprocess
import sys

import pytest

import gfo
from gfo import optimizers
from gfo.core import registry
from gfo.core.names import BUILT_IN
from gfo.core.registry import KINDS, entries, find, register


class Mine:
    """A thing of the user's.

    And more of it.
    """


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", {})


@pytest.mark.parametrize("kind", KINDS)
def test_every_line_names_something_that_is_there(kind):
    for name, entry in entries(kind).items():
        assert entry.load() is not None
        assert entry.describe() == BUILT_IN[kind][name][1]
        assert find(kind, name) is not None if not entry.is_family else True
    with pytest.raises(gfo.GfoError, match=f"unknown {kind} 'nothing'"):
        find(kind, "nothing")


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_of_the_users(kind):
    gfo.register(kind, "mine", Mine)
    assert find(kind, "mine").load() is Mine
    assert find(kind, "mine").describe() == "A thing of the user's."
    assert "mine" in entries(kind)
    assert all("mine" not in entries(other) for other in KINDS if other != kind)
    gfo.register(kind, "later", "fractions:Fraction", "a line")
    assert find(kind, "later").load().__name__ == "Fraction"
    assert entries(kind)["later"].describe() == "a line"


def test_a_class_that_is_written_again_takes_its_name_over():
    register("space", "mine", Mine)
    again = type("Mine", (), {"__module__": Mine.__module__, "__qualname__": Mine.__qualname__})
    register("space", "mine", again)
    assert find("space", "mine").load() is again
    with pytest.raises(gfo.GfoError, match="space 'mine' is registered already"):
        register("space", "mine", dict)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("optimiser", "x", Mine), "unknown kind 'optimiser': did you mean 'optimizer'"),
        (("optimizer", "cma", Mine), "optimizer 'cma' is registered already; choose another name"),
        (("space", "", Mine), "name = ''; give a text"),
        (("space", 3, Mine), "name = 3; give a text"),
        (("task", "x", 3), "task 'x': 3 cannot be called"),
        (("task", "x", "no place"), "'no place' cannot be called; give a class"),
    ],
)
def test_what_cannot_be_registered(arguments, words):
    with pytest.raises(gfo.GfoError, match=words) as error:
        register(*arguments)
    assert "\n" not in str(error.value)


def test_a_family_has_all_names_that_begin_like_it():
    entry = find("optimizer", "nevergrad:DE")
    assert (entry.name, entry.member) == ("nevergrad:DE", "DE")
    assert "nevergrad:<name>" in optimizers.describe()
    assert "nevergrad:<name>" not in optimizers.names()
    for name in ("nevergrad:<name>", "nevergrad:", "nevergrad", "nevergard:DE"):
        with pytest.raises(gfo.GfoError, match=rf"unknown optimizer '{name}'"):
            find("optimizer", name)


def test_a_model_of_the_users(tiny, tmp_path):
    model = tiny("llama")
    model.module.save_pretrained(tmp_path / "m")
    model.tokenizer.save_pretrained(tmp_path / "m")
    gfo.register("model", "ours", tmp_path / "m")
    found = gfo.load_model("ours", device="cpu")
    assert (found.name, found.hidden_size) == ("ours", model.hidden_size)
    with pytest.raises(gfo.GfoError, match=r"model 'our': did you mean 'ours'"):
        gfo.load_model("our", device="cpu")


def packages(folder, points):
    """A folder with an installed package whose entry points these are."""
    info = folder / "other-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gfo.plugins]\n" + "".join(f"{line}\n" for line in points))
    (folder / "broken.py").write_text("import nothing_like_that")
    (folder / "other.py").write_text('class Other:\n    """Of another package."""\n')


def listed(folder, *command):
    env = os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "160"}
    done = subprocess.run(
        [sys.executable, "-m", "gfo", "list", *command], env=env, capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


def test_entry_points_and_what_is_wrong_with_them(tmp_path):
    points = [
        "space.other = other:Other",
        "space.lora = other:Other",
        "Other = other:Other",
        "tsk.x = other:Other",
    ]
    packages(tmp_path / "good", points)
    code, out, err = listed(tmp_path / "good")
    assert code == 0, err
    assert "  other " in out
    assert "Of another package." in out
    warned = [line for line in err.splitlines() if line.startswith("warning: entry point")]
    assert ["is there already" in line for line in warned].count(True) == 1
    assert ["should be KIND.NAME" in line for line in warned].count(True) == 2
    packages(tmp_path / "bad", ["space.broken = broken:Broken", "task.gone = other:Gone"])
    for name, kind in (("broken", "space"), ("gone", "task")):
        code, _, err = listed(tmp_path / "bad", name)
        assert code == 2
        assert f"{kind} '{name}': " in err
        assert "cannot be loaded" in err
        assert len(err.splitlines()) == 1
    code, out, err = listed(tmp_path / "bad")  # what is broken stands in the list, and breaks nothing
    assert code == 0, err
    assert "cannot be loaded" in out
    assert "  cma " in out
