"""What the leaderboard is made of: runs, the files they are written to, and whether those are still true.

A run is a method on a split of a task, from a file of experiments/leaderboard:

    [splits]             # split -> root seed; "{split}" in the sections below stands for the split's name
    budgets = [5000]     # forward tokens; each is a task of its own, as sst2-5000. None: as in [all.budget]
    [all.SECTION]        # what all methods share, as in a config of `gfo tune`
    [methods.NAME]       # what the method has otherwise, laid over it

`dev_every` is that of the largest budget; with a smaller one dev is read in proportion more often, so that it
is read about as many times.

Its outcome is one JSON file: the result, the history, and what they depend on: the config with its defaults
filled in, the data files, and the modules of gfo that were loaded. Of these modules the code counts, not
comments and docstrings, and those that only show, save or read arguments do not count at all.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gfo
from benchmarks import shared
from gfo.core.errors import GfoError
from gfo.core.files import write_whole

EXPERIMENTS = shared.EXPERIMENTS / "leaderboard"
RESULTS = shared.RESULTS / "leaderboard"
PACKAGE = Path(gfo.__file__).parent
NAMES = ("gfo", "gfo.baselines", "gfo.optimizers")  # packages that name what is in them, no more
WITHOUT_NUMBERS = (  # with all that is in them
    "gfo.cli",
    "gfo.config",  # the config with its defaults filled in counts instead
    "gfo.report",
    "gfo.run.callbacks",
    "gfo.run.checkpoint",
    "gfo.run.compare",
    "gfo.run.environment",
    "gfo.run.files",
    "gfo.run.folder",
    "gfo.run.history",
    "gfo.run.progress",
    "gfo.run.result",
    "gfo.run.state",
    "gfo.run.terms",
    "gfo.core.errors",
    "gfo.testing",
)
CODE = "code has changed"
CONFIRMED = 0.05  # the share of its tokens that a run is repeated for when code has changed
SAME = ("loss", "points", "dev", "forward_tokens")  # of a step

Outcome = dict[str, Any]
"""What the file of a run holds: "depends" on config, data and code, "result" and "history"."""


@dataclass(frozen=True)
class Run:
    """A method on a split of a task.

    Attributes:
        task: stem of the file that names it, and the budget where it has several.
        method: its name there.
        split: of the data.
        config: sections and keys, as `gfo tune` reads them, data folder apart.
    """

    task: str
    method: str
    split: str
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Of the run, and of its file."""
        return f"{self.task}/{self.method}--{self.split}"

    def file(self, results: Path) -> Path:
        """Where its outcome is."""
        return results / f"{self.name}.json"

    def read(self, results: Path) -> Outcome | None:
        """Its outcome; None if there is none, or none that can be read."""
        try:
            found: Outcome = json.loads(self.file(results).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and {"depends", "result", "history"} <= set(found) else None

    def write(self, results: Path, outcome: Outcome) -> None:
        """Write its outcome: a line a step, so that changes can be read."""
        self.file(results).parent.mkdir(parents=True, exist_ok=True)
        *front, (_, history) = outcome.items()
        parts = [f"{json.dumps(key)}: {json.dumps(value, indent=1)}" for key, value in front]
        steps = ",\n".join(json.dumps(step) for step in history)
        write_whole(self.file(results), "{" + ",\n".join([*parts, f'"history": [\n{steps}\n]']) + "}\n")


def read_runs(folder: Path) -> list[Run]:
    """All runs of the files in a folder: split by split, so that tables fill evenly.

    Raises:
        GfoError: for a file that cannot be read or holds something else.
    """
    files = sorted(folder.glob("*.toml"))
    if not files:
        raise GfoError(f"--experiments {folder}: it holds no .toml file; name the folder of the experiments")
    read = [(path, _sections(path)) for path in files]
    longest = max(len(sections["splits"]) for _, sections in read)
    return [
        Run(task, method, split, _config(limited, method, split))
        for number in range(longest)
        for path, sections in read
        for split in list(sections["splits"])[number : number + 1]
        for task, limited in _by_budget(path.stem, sections)
        for method in sections["methods"]
    ]


def _by_budget(stem: str, sections: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Tasks and their sections, one a budget; the budgets in rising order."""
    budgets = sorted(sections.get("budgets", ()))
    for tokens in budgets:
        share, limited = tokens / budgets[-1], {"budget": {"forward_tokens": tokens}}
        methods = {
            name: _read_oftener(_over(method, limited), share) for name, method in sections["methods"].items()
        }
        yield (
            f"{stem}-{tokens}",
            {**sections, "all": _read_oftener(sections["all"], share), "methods": methods},
        )
    if not budgets:
        yield stem, sections


def _read_oftener(config: dict[str, Any], share: float) -> dict[str, Any]:
    """A config of a share of the largest budget, which reads dev as many times."""
    return {k: max(1, round(share * v)) if k == "dev_every" else v for k, v in config.items()}


def _sections(path: Path) -> dict[str, Any]:
    try:
        sections = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise GfoError(f"{path.name}: it cannot be read ({error}); write TOML") from None
    for name in ("splits", "all", "methods"):
        if not isinstance(sections.get(name), dict):
            raise GfoError(f"{path.name}: section [{name}] is missing; see the other files beside it")
    return sections


def _config(sections: Mapping[str, Any], method: str, split: str) -> dict[str, Any]:
    """The config of a run: what all share, with the method's sections laid over it."""
    config = _over(sections["all"], sections["methods"][method])
    if "baseline" in config:
        config.pop("optimizer", None)
    config["seed"] = sections["splits"][split]
    filled: dict[str, Any] = json.loads(json.dumps(config).replace("{split}", split))
    return filled


def _over(below: Any, above: Any) -> Any:
    """Nested values with others laid over them; a section of another kind stands alone."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    if above.get("kind", below.get("kind")) != below.get("kind"):
        return above
    return {**below, **{key: _over(below.get(key), value) for key, value in above.items()}}


def depends(config: Any, data: Path) -> dict[str, Any]:
    """What a run depends on but for the code: the config with its defaults, and digests of its data files.

    Args:
        config: of `gfo.config.load_config`.
        data: folder of the data sets.

    Raises:
        GfoError: for a file that cannot be read.
    """
    names = [getattr(config.task, split) for split in ("train", "dev", "test")]
    return {"config": config.record(), "data": {name: _file(data / name) for name in names if name}}


@cache
def _file(path: Path) -> str:
    try:
        return digest(path.read_bytes())
    except OSError as error:
        raise GfoError(
            f"--data: cannot read {path.name} ({error.strerror}); name the data's folder"
        ) from None


def loaded_code() -> dict[str, str]:
    """Module -> digest of its code, of all of gfo that this process has loaded and that makes numbers."""
    return code(name for name in sys.modules if name.partition(".")[0] == "gfo")


def code(modules: Iterable[str]) -> dict[str, str]:
    """Module -> digest of its code; a module that is no more has an empty one."""
    return {name: _code(name) for name in sorted(modules) if _counts(name)}


def _counts(module: str) -> bool:
    parts = module.split(".")
    above = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
    return module not in NAMES and not above & set(WITHOUT_NUMBERS)


@cache
def _code(module: str) -> str:
    place = PACKAGE.parent.joinpath(*module.split("."))
    files = [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.exists()]
    if not files:
        return ""
    tree = ast.parse(files[0].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:]
    return digest(ast.dump(tree))


def why_to_run(outcome: Outcome | None, now: Mapping[str, Any]) -> str | None:
    """Why a run has to be done, in words; None if its outcome holds.

    Args:
        outcome: of the run, if there is one.
        now: what it depends on but for the code.
    """
    if outcome is None:
        return "missing"
    then = outcome["depends"]
    if then["config"] != json.loads(json.dumps(now["config"])):
        return "its config has changed"
    changed = sorted(
        name for name in {*then["data"], *now["data"]} if then["data"].get(name) != now["data"].get(name)
    )
    if changed:
        return f"its data have changed: {', '.join(changed)}"
    today = code(then["code"])
    changed = sorted(name for name, was in then["code"].items() if today.get(name, was) != was)
    return f"{CODE}: {', '.join(changed)}" if changed else None


def steps_to_repeat(history: Sequence[Mapping[str, Any]]) -> int:
    """How many steps of a run make the share of it that is repeated, at least two."""
    within = [s for s in history if s["forward_tokens"] <= CONFIRMED * history[-1]["forward_tokens"]]
    return min(len(history), max(2, len(within)))


def same_steps(then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the first steps of a run are, bit by bit, those of another."""
    shorter = then[: len(now)]
    return [[s[key] for key in SAME] for s in shorter] == [[s[key] for key in SAME] for s in now]


def all_code() -> dict[str, str]:
    """The same of all of gfo, loaded or not."""
    return code(
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in PACKAGE.rglob("*.py")
    )


def digest(text: str | bytes) -> str:
    """The first digits of its SHA-256."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:16]
