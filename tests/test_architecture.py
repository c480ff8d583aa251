"""Imports go one way, heavy libraries load late, files and functions stay small: by the syntax trees."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Top to bottom. A package may import itself and what lies in lower rows, never its neighbours in a row.
LAYERS = [
    {"gfo.__main__"},
    {"gfo.cli"},
    {"gfo.config"},
    {"gfo.baselines", "gfo.testing"},
    {"gfo.run"},
    {"gfo.report"},
    {"gfo.evaluation"},
    {"gfo.optimizers", "gfo.spaces", "gfo.models", "gfo.tasks"},
    {"gfo.core"},
]
ROW = {package: row for row, packages in enumerate(LAYERS) for package in packages}
HEAVY = {"torch", "transformers", "matplotlib", "ray", "cma", "nevergrad"}
LIGHT = {"gfo.core", "gfo.optimizers", "gfo.cli", "gfo.config", "gfo"}  # without HEAVY when imported
MOST_LINES = {"gfo": 400, "benchmarks": 400, "tests": 600}
MOST_LINES_OF_A_FUNCTION = 60


def files(root, folder):
    return sorted((root / folder).rglob("*.py"))


def module_name(root, path):
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package(module):
    """The layer's package: gfo.core of gfo.core.domain."""
    return ".".join(module.split(".")[:2])


def imported(node, module, is_package):
    """Absolute names that an import statement may load; `from gfo import tasks` may load gfo.tasks."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        here = module.split(".") if is_package else module.split(".")[:-1]
        here = here[: len(here) - node.level + 1]
        base = ".".join([*here, base] if base else here)
    return [base] + [f"{base}.{alias.name}" for alias in node.names]


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(tree, *, at_import_time):
    """Import statements: all, or those that run when the module is imported."""
    found = []
    todo = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append(node)
        elif at_import_time and is_type_checking(node):
            todo += node.orelse
        elif not (at_import_time and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            todo += ast.iter_child_nodes(node)
    return found


def import_violations(root):
    found = []
    for path in files(root, "gfo"):
        module, is_package = module_name(root, path), path.name == "__init__.py"
        tree = ast.parse(path.read_text(encoding="utf-8"))
        own = package(module)
        where = path.relative_to(root)
        if own != "gfo" and own not in ROW:
            found.append(f"{where}: {own} is in no layer")
        elif own != "gfo":  # gfo/__init__.py is the table of public names
            for node in imports(tree, at_import_time=False):
                for name in imported(node, module, is_package):
                    other = package(name)
                    if other in ROW and other != own and ROW[other] <= ROW[own]:
                        found.append(f"{where}:{node.lineno} imports {other}, which is not below {own}")
        if own in LIGHT:
            for node in imports(tree, at_import_time=True):
                heavy = {name.split(".")[0] for name in imported(node, module, is_package)} & HEAVY
                found += [f"{where}:{node.lineno} loads {name} when imported" for name in sorted(heavy)]
    return list(dict.fromkeys(found))


def size_violations(root):
    found = []
    for folder, most in MOST_LINES.items():
        for path in files(root, folder):
            text = path.read_text(encoding="utf-8")
            where = path.relative_to(root)
            lines = len(text.splitlines())
            if lines >= most:
                found.append(f"{where} has {lines} lines, under {most} are allowed")
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and folder != "tests":
                    lines = node.end_lineno - node.lineno + 1
                    if lines >= MOST_LINES_OF_A_FUNCTION:
                        found.append(f"{where}:{node.lineno} {node.name} has {lines} lines")
    return found


def test_imports_go_one_way():
    assert import_violations(ROOT) == []
    assert len(files(ROOT, "gfo")) > 30


def test_files_and_functions_are_small():
    assert size_violations(ROOT) == []


def write(root, modules):
    for name, text in modules.items():
        path = root / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("name", "text", "violation"),
    [
        ("gfo/core/a", "from gfo.tasks import losses", "gfo/core/a.py:1 imports gfo.tasks"),
        ("gfo/core/a", "def f():\n    import gfo.run.loop", "gfo/core/a.py:2 imports gfo.run"),
        ("gfo/core/a", "from ..spaces import b", "gfo/core/a.py:1 imports gfo.spaces"),
        ("gfo/core/a", "from gfo import models", "gfo/core/a.py:1 imports gfo.models"),
        ("gfo/tasks/a", "import gfo.models.loading", "gfo/tasks/a.py:1 imports gfo.models"),
        ("gfo/evaluation/a", "import gfo.report", "gfo/evaluation/a.py:1 imports gfo.report"),
        ("gfo/run/a", "if TYPE_CHECKING:\n    import gfo.cli", "gfo/run/a.py:2 imports gfo.cli"),
        ("gfo/config", "class A:\n    import gfo.cli", "gfo/config.py:2 imports gfo.cli"),
        ("gfo/misc/a", "", "gfo/misc/a.py: gfo.misc is in no layer"),
        ("gfo/core/a", "import torch.nn", "gfo/core/a.py:1 loads torch when imported"),
        ("gfo/cli", "try:\n    from cma import CMA\nfinally: pass", "gfo/cli.py:2 loads cma when imported"),
        (
            "gfo/optimizers/a",
            "class A:\n    import nevergrad as ng",
            "a.py:2 loads nevergrad when imported",
        ),
    ],
)
def test_the_import_checker_sees(tmp_path, name, text, violation):
    write(tmp_path, {name: text})
    found = import_violations(tmp_path)
    assert len(found) == 1
    assert violation in found[0]


def test_the_import_checker_allows(tmp_path):
    modules = {
        "gfo/__init__": "from gfo.run import loop\nif TYPE_CHECKING:\n    import gfo.cli",
        "gfo/core/a": "if TYPE_CHECKING:\n    import torch\ndef f():\n    import torch\nimport gfo.core.b",
        "gfo/run/a": "from gfo.tasks import a\nimport gfo.core.b\nimport torch, gfo",
        "gfo/cli": "from gfo import config\ndef f():\n    import matplotlib",
        "gfo/tasks/a": "from . import b\nfrom .b import c\nfrom ..core import d\nfrom gfo.core.e import f",
    }
    write(tmp_path, modules)
    assert import_violations(tmp_path) == []


def test_the_size_checker_sees(tmp_path):
    long = "def f():\n" + "    x = 1\n" * 59
    write(tmp_path, {"gfo/a": long, "gfo/b": "\n" * 400, "benchmarks/c": long, "tests/e": "\n" * 600})
    short = long.removesuffix("    x = 1\n")
    write(
        tmp_path, {"gfo/fine": "\n" * 399, "gfo/short": short, "tests/fine": "\n" * 599, "tests/long": long}
    )
    assert size_violations(tmp_path) == [
        "gfo/a.py:1 f has 60 lines",
        "gfo/b.py has 400 lines, under 400 are allowed",
        "benchmarks/c.py:1 f has 60 lines",
        "tests/e.py has 600 lines, under 600 are allowed",
    ]
