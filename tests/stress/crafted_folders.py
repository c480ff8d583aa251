"""Run folders as somebody may craft them: right checksums, and contents that no run has."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from gfo.run.files import CHECKSUM, checksum_of, point_checksum, short_digest
from gfo.run.history import HISTORY
from gfo.run.schema import RESULT, RUN
from gfo.run.state import load_state, save_state
from gfo.run.stored import CONFIG, POINT

STATE = "state.safetensors"
FILES = (HISTORY, RUN, RESULT, POINT, STATE, CONFIG)
DEEP = 10**5
VALUES = (
    None, True, -1, 0, 7, 10**9, 10**30, 10**400, 0.5, math.nan, math.inf, -math.inf, "", "x", "\x1b[2J\n$",
    "../outside/mine", "\ud800", [], [None], [[]], [-1] * 3, {}, {"x": 1}, {"x": {"y": {"z": math.nan}}},
    "é" * 10**5,
)  # fmt: skip


def write(path, values):
    """JSON with its right checksum, whatever its values are, NaN and numbers without end among them."""
    with contextlib.suppress(ValueError, RecursionError):
        values = {**values, CHECKSUM: checksum_of(values)}
    path.unlink()
    path.write_text(json.dumps(values))


def at(values, path, value):
    """The place `path` in nested values becomes `value`; `...` takes it away."""
    for key in path[:-1]:
        values = values[key]
    if value is ...:
        del values[path[-1]]
    else:
        values[path[-1]] = value


def places(values, path=()):
    """All places in nested values, sections and lists included."""
    keys = values if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
    for key in keys:
        yield (*path, key)
        yield from places(values[key], (*path, key))


def of_json(name):
    """A place of a JSON file takes another value."""

    def change(folder, rng, i):
        values = json.loads((folder / name).read_text())
        values.pop(CHECKSUM, None)
        found = sorted(places(values), key=len)
        place = found[i % len(found)] if i < len(found) else rng.choice(found)
        at(values, place, rng.choice([*VALUES, ...]))
        write(folder / name, values)

    change.__name__ = name.replace(".", "_")
    return change


def texts(folder, rng, i):
    """A JSON file that holds something else altogether."""
    name = (RUN, RESULT, CONFIG)[i % 3]
    (folder / name).write_text(
        ("[" * DEEP, '{"a":' * DEEP, "9" * 5000, "[]", "null", '{"format": 99}', "\x00")[i // 3 % 7]
    )


def formats(folder, rng, i):
    name, number = (RUN, RESULT)[i % 2], (0, -1, 1, 3, 10**9, "2", None, [2], True, 2.0)[i // 2 % 10]
    values = json.loads((folder / name).read_text())
    values.pop(CHECKSUM)
    write(folder / name, values | {"format": number})


def steps_of(folder):
    steps = [json.loads(line) for line in (folder / HISTORY).read_text().splitlines()]
    for step in steps:
        step.pop(CHECKSUM)
    return steps


def put_steps(folder, steps):
    """The lines of a history, with the right checksums."""
    before, lines = "", []
    for step in steps:
        text = json.dumps(step)
        before = short_digest((before + text).encode())
        lines.append(f'{text[:-1]}, "{CHECKSUM}": "{before}"}}\n')
    (folder / HISTORY).unlink()
    (folder / HISTORY).write_text("".join(lines))


def history_values(folder, rng, i):
    steps = steps_of(folder)
    keys = list(steps[0])
    at(steps[rng.randrange(len(steps))], (keys[i % len(keys)],), rng.choice([*VALUES, ...]))
    put_steps(folder, steps)


def history_order(folder, rng, i):
    steps = steps_of(folder)
    first = json.loads(json.dumps(steps[0]))
    changed = (
        steps[::-1], steps[1:], [*steps, first], [], [*steps, *({**steps[-1],
        "step": len(steps) + n} for n in range(9))],
        steps[:1], [{**step, "loss": step["loss"] * 3} for step in steps], [{**step,
        "loss": step["loss"][:1]} for step in steps],
        [{**step, "loss": []} for step in steps], [{**step, "points": "0" * 16} for step in steps],
        [{**step, "points": ""} for step in steps], [{**step,
        "evaluations": -step["evaluations"]} for step in steps],
        [{**step, "best": None} for step in steps], [{**step, "dev": {"loss": None}} for step in steps],
        [{**step, "dev": {"\x1b[2J$": 1.0}} for step in steps], [{**step,
        "values": {"loss": step["loss"]}} for step in steps],
        [{**step, "seconds": 1e308} for step in steps], [{**step, "forward_tokens": 2**63} for step in steps],
        [{**step, "loss": [1e308] * len(step["loss"])} for step in steps], [{**step,
        "known": -5} for step in steps],
        [{**step, "scoring": {"seconds": -1.0}} for step in steps], [{**step,
        "spread": -1e308} for step in steps],
        [{**step, "loss": [None] * len(step["loss"]), "best": None} for step in steps],
        [{**step, "evaluations": 2**62} for step in steps], [{**step, "step": -1} for step in steps],
    )  # fmt: skip
    put_steps(folder, changed[i % len(changed)])


def points(folder, rng, i):
    z = load_file(folder / POINT)["z"]
    changed = (
        z[:-1], z[None], np.zeros(0), np.zeros(10**5), np.full_like(z, np.nan), np.full_like(z, 1e308),
        z.astype("f4"),
        z.astype(np.int64), np.full_like(z, np.inf), -0.0 * z, np.concatenate([z, z]),
        np.array(3.0),
    )[i % 12]  # fmt: skip
    save_file({("z", "y")[i // 12 % 2]: changed}, folder / POINT)
    values = json.loads((folder / RESULT).read_text())
    values.pop(CHECKSUM)
    write(folder / RESULT, values | {"point": point_checksum(changed)})


def states(folder, rng, i):
    """Another optimizer's state, or one of other shapes."""
    if not (folder / STATE).exists():
        save_state(
            folder / STATE,
            {"steps": 1, "optimizer": {}, "points": np.zeros((4, 5)), "incumbent": None, "best": None},
        )
        return
    state = load_state(folder / STATE)
    changes = (
        {"optimizer": {"theta": np.zeros(3), "t": 1}}, {"optimizer": {}}, {"optimizer": 3}, {"steps": 10**9},
        {"steps": -1},
        {"steps": "x"}, {"steps": None}, {"points": None}, {"points": np.zeros((1, 1))},
        {"incumbent": np.zeros(1)},
        {"best": {"x": 1}}, {"best": {"z": np.zeros(1), "step": "x", "scores": 3}}, {"optimizer": []},
        {"steps": 1.5},
        {"optimizer": {key: np.zeros(1) if isinstance(v, np.ndarray) else v for key,
        v in state["optimizer"].items()}},
        {"optimizer": {key: np.full_like(v, np.nan) if isinstance(v,
        np.ndarray) and v.dtype.kind == "f" else v
                       for key, v in state["optimizer"].items()}},
        {"optimizer": dict.fromkeys(state["optimizer"])},
    )  # fmt: skip
    if i % 19 == 17:
        (folder / STATE).write_bytes((folder / POINT).read_bytes())
    elif i % 19 == 18:
        save_state(folder / STATE, [1, 2])
    else:
        save_state(folder / STATE, {**state, **changes[i % 19]})


def missing(folder, rng, i):
    """Files missing, in all combinations."""
    some = list(itertools.chain.from_iterable(itertools.combinations(FILES, n) for n in range(1, 7)))
    for name in some[i % len(some)]:
        (folder / name).unlink(missing_ok=True)


def no_files(folder, rng, i):
    """Empty files, directories, pipes and links where files should be."""
    name, outside = FILES[i % 6], folder.parent / "outside"
    good = outside / name
    if (folder / name).exists():
        shutil.copy(folder / name, good)
        (folder / name).unlink()
    what = i // 6 % 9
    if what == 0:
        (folder / name).touch()
    elif what == 1:
        (folder / name).mkdir()
    elif what == 2:
        os.mkfifo(folder / name)
    else:
        to = (folder / name, outside / "none", outside / "mine", Path("/dev/zero"), good, outside)[what - 3]
        (folder / name).symlink_to(to)


def others(folder, rng, i):
    """Names that gfo writes, held by something else."""
    name, outside = (
        (".lock", "plot.png", "peft", "merged", "prompt-text", ".gfo-x.partial", "adapter")[i % 7],
        folder.parent / "outside",
    )
    (folder / name).unlink(missing_ok=True)
    what = i // 7 % 4
    if what == 0:
        (folder / name).mkdir()
    elif what == 1:
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to((outside / "mine", outside / "none")[what - 2])


def other_files(folder, rng, i):
    """A config that names other files, or what is none."""
    values = json.loads((folder / CONFIG).read_text())
    values.pop(CHECKSUM)
    name = ("../outside/mine", "/dev/zero", "/etc/passwd", "", ".", "\x1b[2J", "hub:x:y", "none.jsonl", 3)[
        i // 5 % 9
    ]
    place = (
        ("task", "train"),
        ("task", "dev"),
        ("task", "data_dir"),
        ("model", "name"),
        ("task", "template"),
    )[i % 5]
    at(values, place, name)
    write(folder / CONFIG, values)


of_result, of_run, of_config = of_json(RESULT), of_json(RUN), of_json(CONFIG)
# kind -> how many of a whole run, of a function's folder and of a config's
CASES = {
    of_result: (14, 6), of_run: (10, 6), of_config: (0, 12), texts: (0, 8), formats: (10, 0),
    history_values: (20, 4), history_order: (25, 3), points: (12, 2), states: (19, 1), missing: (10, 8),
    no_files: (27, 8), others: (8, 6), other_files: (0, 16),
}  # fmt: skip
