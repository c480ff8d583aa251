"""What `gfo` promises by name, and what importing it costs."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys

import pytest

import gfo
from gfo.core.registry import entries

HEAVY = [
    "torch",
    "matplotlib",
    "transformers",
    "ray",
    "cma",
    "nevergrad",
    "sklearn",
    "scipy",
    "datasets",
    "peft",
]


def fresh(code):
    """What a new interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("name", gfo.__all__)
def test_every_public_name_is_there_and_explained(name):
    found = getattr(gfo, name)
    if name == "__version__":
        assert found.count(".") == 2
        return
    doc = inspect.getdoc(found)
    assert doc, f"gfo.{name} has no docstring"
    assert not doc.startswith(f"{name}("), "a dataclass's docstring that nobody wrote"
    assert name in dir(gfo)


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'gfo' has no attribute 'tone'"):
        _ = gfo.tone


@pytest.mark.parametrize(
    "module", ["gfo", "gfo.cli", "gfo.config", "gfo.optimizers", "gfo.baselines", "gfo.core.protocols"]
)
def test_importing_is_light(module):
    code = f"import sys, {module}; print(*sys.modules)"
    assert not set(HEAVY) & set(fresh(code))


def test_names_load_what_they_need():
    """A control of the test above: the same look finds torch once a model is asked for."""
    assert not {"torch", "matplotlib"} & set(fresh("import sys, gfo; gfo.compare; print(*sys.modules)"))
    loaded = fresh("import sys, gfo; gfo.Decoder; print(*sys.modules)")
    assert {"torch", "transformers"} <= set(loaded)
    assert "matplotlib" not in loaded


def test_import_gfo_takes_little_time():
    """CPU time, which other programs change little."""
    code = "import time; start = time.process_time(); import gfo; print(time.process_time() - start)"
    assert min(float(fresh(code)[0]) for _ in range(3)) < 0.5


def test_type_checkers_see_the_same_names():
    """The block for them is written out; spaces and tasks come from the registry's table."""
    tree = ast.parse(inspect.getsource(gfo))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in block.body for alias in node.names if node.module != "gfo"}
    modules = {alias.asname for node in block.body for alias in node.names if node.module == "gfo"}
    assert seen == gfo._PUBLIC | {"datasets": "gfo.tasks.parts"}
    assert modules | {"datasets"} == set(gfo._MODULES)
    for kind in ("space", "task"):
        for entry in entries(kind).values():
            assert getattr(gfo, entry.place.partition(":")[2]) is entry.load()
