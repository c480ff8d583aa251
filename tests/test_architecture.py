"""Imports go one way and in no circle, heavy libraries load late, files and functions stay small and simple,
and only gfo.models knows families of models: by the syntax trees."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from statistics import mean

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
LONG, MOST_LONG = 40, 10  # lines of a function, and how many in gfo may have more
MOST_COMPLEX, MOST_COMPLEX_ON_AVERAGE = 20, 3.1
FAMILIES = re.compile(  # of models: their names, and those of their modules
    r"llama|\bgpt|roberta|(\b|al|de|distil)bert\b|\bt5\b|\bopt\b|gemma|qwen|mi[sx]tral|bloom\b|mamba|conv1d|[qkv]_(proj|lin)\b|qkv|"
    r"query_key_value|(up|down)_proj|selfattention|encdecattention|c_(attn|proj|fc)\b|\bfc[12]\b|\blin[12]\b|"
    r"dense_4?h_to|\bmlp\b|relative_attention_bias",
    re.IGNORECASE,
)
MAKES_A_MODEL = "gfo.testing.tiny"  # of some family


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


def circles(root):
    """Groups of modules that import each other, by any import statement, wherever it stands."""
    paths = {module_name(root, path): path for path in files(root, "gfo")}
    edges = {}
    for module, path in paths.items():
        names = set()
        for node in imports(ast.parse(path.read_text(encoding="utf-8")), at_import_time=False):
            found = imported(node, module, path.name == "__init__.py")
            first, *more = found
            inner = [name for name in more if name in paths]  # from package import module
            names |= {*inner, *(() if inner and len(inner) == len(more) else (first,))}
        edges[module] = (names & set(paths)) - {module, "gfo"}  # gfo is the table of public names
    reach = {module: reached(edges, module) for module in edges}
    found = {frozenset(other for other in reach[m] if m in reach[other]) | {m} for m in reach}
    return sorted(sorted(group) for group in found if len(group) > 1)


def reached(edges, module):
    """Modules that can be reached along one edge or more."""
    found, todo = set(), [module]
    while todo:
        new = edges[todo.pop()] - found
        found |= new
        todo += new
    return found


def functions(root, folder):
    """(where, function) of each function, also those inside others."""
    for path in files(root, folder):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(root)}:{node.lineno} {node.name}", node


def long_functions(root):
    """where -> lines of each function of gfo that has more than LONG."""
    lines = {where: node.end_lineno - node.lineno + 1 for where, node in functions(root, "gfo")}
    return {where: n for where, n in lines.items() if n > LONG}


def complexity(function):
    """Cyclomatic complexity as radon counts it, with that of functions inside.

    1, and 1 more for each if, elif, conditional expression, loop, except, assert, case, `for` and `if` of a
    comprehension, and each `and` and `or`.
    """
    branches = ast.If | ast.IfExp | ast.For | ast.AsyncFor | ast.While | ast.ExceptHandler | ast.Assert
    found = 1
    for node in ast.walk(function):
        if isinstance(node, branches | ast.match_case):
            found += 1
        elif isinstance(node, ast.comprehension):
            found += 1 + len(node.ifs)
        elif isinstance(node, ast.BoolOp):
            found += len(node.values) - 1
    return found


def family_names(root):
    """Strings of code, and names, that a family of models has, outside of gfo.models."""
    found = []
    for path in files(root, "gfo"):
        module = module_name(root, path)
        if package(module) == "gfo.models" or module == MAKES_A_MODEL:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            text = ""
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
                text = node.value
            elif isinstance(node, ast.alias):
                text = node.name
            if FAMILIES.search(text):
                found.append(f"{path.relative_to(root)}:{node.lineno} {text}")
    return found


def test_imports_go_one_way():
    assert import_violations(ROOT) == []
    assert len(files(ROOT, "gfo")) > 30


def test_no_module_imports_itself_by_others():
    assert circles(ROOT) == []


def test_files_and_functions_are_small():
    assert size_violations(ROOT) == []
    assert len(long_functions(ROOT)) <= MOST_LONG, long_functions(ROOT)


def test_functions_are_simple():
    found = {where: complexity(node) for where, node in functions(ROOT, "gfo")}
    assert {where: n for where, n in found.items() if n > MOST_COMPLEX} == {}
    assert 1 < mean(found.values()) <= MOST_COMPLEX_ON_AVERAGE


def test_only_models_know_families():
    assert family_names(ROOT) == []


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


def test_the_checker_of_long_functions_sees(tmp_path):
    """Those inside of others and methods, too; of 40 lines none."""
    forty = "def f():\n" + "    x = 1\n" * 39
    inner = "class A:\n    def g(self):\n        def h():\n" + "            x = 1\n" * 40
    write(tmp_path, {"gfo/a": forty, "gfo/b": forty + "    x = 1\n", "gfo/c": inner, "benchmarks/d": inner})
    assert long_functions(tmp_path) == {"gfo/b.py:1 f": 41, "gfo/c.py:2 g": 42, "gfo/c.py:3 h": 41}


def test_the_circle_checker_sees(tmp_path):
    modules = {
        "gfo/__init__": "from gfo.run import loop",
        "gfo/run/__init__": "",
        "gfo/run/a": "def f():\n    from gfo.run.b import g",
        "gfo/run/b": "from gfo.run import c",
        "gfo/run/c": "if TYPE_CHECKING:\n    from . import a\nimport gfo",
        "gfo/run/d": "from gfo.run.a import f\nfrom gfo.run.e.f import g",
        "gfo/run/e/__init__": "from gfo.run.e.f import g\nfrom gfo.run.e.h import g",
        "gfo/run/e/f": "from gfo.run.e import h",
        "gfo/run/e/h": "x = 1",
    }
    write(tmp_path, modules)
    assert circles(tmp_path) == [["gfo.run.a", "gfo.run.b", "gfo.run.c"]]
    write(tmp_path, {"gfo/run/e/h": "from gfo.run.e import g"})
    assert circles(tmp_path)[1] == ["gfo.run.e", "gfo.run.e.f", "gfo.run.e.h"]


def test_complexity_is_counted():
    text = """
def f(a, b):
    assert a
    if a and b or not a:
        return [x for x in a if x if b]
    elif b:
        while a:
            a = 1 if b else 2
    try:
        for x in b:
            pass
    except ValueError:
        match a:
            case 1:
                pass
            case _:
                pass
    def g(c):
        return c or b
"""
    # 1; assert; if, and, or; for, if, if; elif; while; if; for; except; case, case; or
    assert complexity(ast.parse(text).body[0]) == 16
    assert complexity(ast.parse("def f(a):\n    with a:\n        return a").body[0]) == 1


def test_the_family_checker_sees(tmp_path):
    write(
        tmp_path,
        {
            "gfo/models/a": "x = 'q_proj'",
            "gfo/spaces/a": '"""Llama."""\nclass A:\n    """GPT-2."""\nx = "the opted option, Robert"',
            "gfo/spaces/b": "def f():\n    return f'*.{x}.v_proj'",
            "gfo/report/c": "from transformers.pytorch_utils import Conv1D\nx = ['t5', 'distilbert']",
        },
    )
    assert family_names(tmp_path) == [
        "gfo/report/c.py:1 Conv1D",
        "gfo/report/c.py:2 t5",
        "gfo/report/c.py:2 distilbert",
        "gfo/spaces/b.py:2 .v_proj",
    ]
