"""Going on: with a larger budget, after Ctrl-C, on torn and damaged files, and when something has changed."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import gfo
from gfo.core.protocols import Cost, Evaluation, Scores
from gfo.optimizers.snes import SNES
from gfo.run import checkpoint
from gfo.run.files import write_json
from gfo.run.history import History
from gfo.run.state import load_state, save_state
from gfo.run.stored import load_point
from gfo.testing import Rosenbrock

F = Rosenbrock(4, seed=1)


class Judge:
    """An evaluator of two functions, which counts what it is asked."""

    def __init__(self, change=0.0):
        self.change, self.steps, self.scored = change, [], 0

    def __call__(self, z, step):
        self.steps.append(step)
        return Evaluation(F(z) + self.change, Cost(len(z), 7 * len(z), 5 * len(z), 0.001))

    def score(self, z, split):
        self.scored += len(z)
        return Scores({"loss": F(z + 0.1), "accuracy": np.cos(z[:, 0])}, Cost(len(z), 3, 2, 0.001))


class Settled(Judge):
    """One that says it settled on something."""

    def __init__(self, size=1, change=0.0):
        super().__init__(change)
        self.size = size

    def settings(self):
        return {"size": self.size}

    def use(self, settings):
        self.size = settings["size"]


def go(out, evaluations, judge=None, *, name="cma", seed=1, **options):
    optimizer = gfo.optimizers.make(name, domain=F.domain, seed=seed)
    settings = {"resume": True, "dev_every": 3, **options}
    budget = gfo.Budget(evaluations=evaluations)
    return gfo.minimize(optimizer, judge or Judge(), budget=budget, out=out, **settings)


def same(a, b):
    """Whether two results are equal but for times."""
    costs = [[(c.candidates, c.forward_tokens, c.tokens_needed) for c in (r.cost, r.scoring)] for r in (a, b)]
    return (
        a.history.trajectory() == b.history.trajectory()
        and a.z.tobytes() == b.z.tobytes()
        and (a.stopped, a.selection) == (b.stopped, b.selection)
        and costs[0] == costs[1]
    )


@pytest.mark.parametrize("selection", [None, gfo.Selection("accuracy", "incumbent")])
def test_a_larger_budget_goes_on_where_the_run_ended(tmp_path, selection):
    whole = go(tmp_path / "whole", 200, selection=selection)
    first = go(tmp_path / "run", 80, selection=selection)
    judge = Judge()
    second = go(tmp_path / "run", 200, judge, selection=selection)
    assert judge.steps == list(range(10, 25))  # nothing twice
    assert same(second, whole)
    assert not same(first, whole)
    assert History.read(tmp_path / "run" / "history.jsonl").trajectory() == whole.history.trajectory()
    assert load_point(tmp_path / "run").tobytes() == whole.z.tobytes()


def test_a_run_that_ended_ends_again_and_keeps_its_scores(tmp_path):
    first = go(tmp_path, 80)
    first.score("test")
    judge = Judge()
    again = go(tmp_path, 80, judge)
    assert judge.steps == []
    assert again.scores == first.scores
    assert same(again, first)
    assert go(tmp_path, 120).scores == {}  # those were another point's


def test_no_run_yet_is_begun(tmp_path):
    assert same(go(tmp_path / "new", 80), go(tmp_path / "other", 80, resume=False))


def test_after_ctrl_c(tmp_path):
    class Interrupted(Judge):
        def __call__(self, z, step):
            if step == 6:
                raise KeyboardInterrupt
            return super().__call__(z, step)

    assert go(tmp_path / "run", 160, Interrupted()).stopped == "interrupted"
    assert same(go(tmp_path / "run", 160), go(tmp_path / "whole", 160))


def test_ctrl_c_while_going_through_what_was_done_changes_nothing(tmp_path):
    class Impatient(gfo.Callback):
        def step(self, run):
            if run.history[-1].step == 4:
                raise KeyboardInterrupt

    go(tmp_path, 80)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name != "run.json"}
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, 80, callbacks=[Impatient()])
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name != "run.json"} == before


def test_seconds_count_on_from_those_recorded(tmp_path):
    def slow(z):
        time.sleep(0.05)
        return F(z)

    def run(seconds):
        optimizer = gfo.optimizers.make("random", domain=F.domain, seed=1)
        return gfo.minimize(optimizer, slow, budget=gfo.Budget(seconds=seconds), out=tmp_path, resume=True)

    first = run(0.5)
    time.sleep(1.0)  # between stop and resumption, which is no time of the run
    second = run(1.0)
    seconds = [step.seconds for step in second.history]
    assert seconds[: len(first.history)] == [step.seconds for step in first.history]
    assert seconds == sorted(seconds)
    assert len(first.history) < len(second.history) <= 21
    assert second.history[-1].seconds >= 1.0


@pytest.mark.parametrize("keep", [0.0, 0.3, 1.0])
def test_a_line_torn_in_the_middle_is_done_again(tmp_path, keep):
    whole = go(tmp_path / "whole", 80)
    go(tmp_path / "run", 80)
    history = tmp_path / "run" / "history.jsonl"
    lines = history.read_bytes().splitlines(keepends=True)
    torn = lines[6][: int(keep * (len(lines[6]) - 1))]  # at most the newline is missing
    history.write_bytes(b"".join(lines[:6]) + torn)
    assert len(History.read(history)) == 6
    assert same(go(tmp_path / "run", 80), whole)
    assert History.read(history).trajectory() == whole.history.trajectory()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: [*lines[:3], b"\0\0\0\n", *lines[4:]], "line 4 is not step 3"),
        (lambda lines: [*lines[:3], *lines[4:]], "line 4 is not step 3"),
        (lambda lines: [*lines[:3], b"{}\n", *lines[4:]], "line 4 is not step 3"),
        (lambda lines: [*lines[:-1], lines[-1][:20] + b"\n"], "line 10 is not step 9"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, change, words):
    go(tmp_path, 80)
    history = tmp_path / "history.jsonl"
    history.write_bytes(b"".join(change(history.read_bytes().splitlines(keepends=True))))
    before = history.read_bytes()
    with pytest.raises(gfo.GfoError, match=words):
        go(tmp_path, 80)
    assert history.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 2}, "at step 0 the optimizer asks for other points .* its seed, its options"),
        ({"name": "snes"}, "the run there has optimizer = cma, not snes"),
        ({"dev_every": 4}, "dev_every = 3, not 4"),
        ({"selection": gfo.Selection("accuracy")}, "selection.metric = loss, not accuracy"),
        ({"record": {"options": {"rank": 3}}}, "options.rank = None, not 3"),
        ({"out": None}, "give out"),
    ],
)
def test_another_run_is_refused(tmp_path, changes, words):
    go(tmp_path, 40)
    before = (tmp_path / "history.jsonl").read_bytes()
    with pytest.raises(gfo.GfoError, match=words) as error:
        go(**{"out": tmp_path, "evaluations": 80, **changes})
    assert "\n" not in str(error.value)
    assert (tmp_path / "history.jsonl").read_bytes() == before


def test_other_versions_are_named(tmp_path):
    go(tmp_path, 40)
    facts = json.loads((tmp_path / "run.json").read_text())
    facts["versions"]["cma"] = "1.0"
    write_json(tmp_path / "run.json", facts)
    with pytest.raises(gfo.GfoError, match=r"other points .* versions.cma was 1.0, is \d"):
        go(tmp_path, 80, seed=2)


def test_no_run_json(tmp_path):
    go(tmp_path, 40)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(gfo.GfoError, match=r"cannot go on without run\.json"):
        go(tmp_path, 80)


def test_what_the_evaluator_settled_on_is_taken_over_and_its_losses_checked(tmp_path):
    whole = go(tmp_path / "whole", 120, Settled())
    go(tmp_path / "run", 80, Settled(size=5))
    judge = Settled(size=9)
    assert same(go(tmp_path / "run", 120, judge), whole)
    assert judge.size == 5
    assert judge.steps == [9, *range(10, 15)]  # the last one once more
    with pytest.raises(
        gfo.GfoError, match=r"step 14 has other losses than it had .* the data, the model or the space"
    ):
        go(tmp_path / "run", 160, Settled(change=3e4))
    with pytest.warns(gfo.GfoWarning, match="not to the last bit"):
        go(tmp_path / "run", 160, Settled(change=1e-6))


def test_what_an_evaluator_settles_on_later_is_noted(tmp_path):
    class Halved(Settled):
        def __call__(self, z, step):
            self.size = 100 if step < 4 else 50
            return super().__call__(z, step)

    go(tmp_path, 80, Halved(100))
    assert json.loads((tmp_path / "run.json").read_text())["evaluator"] == {"size": 50}


class Slow(SNES):
    """A method whose asking takes long, so to say."""

    saves_state = True
    asked = 0

    def _ask(self):
        self.asked += 1
        return super()._ask()


def test_a_saved_state_spares_asking_and_a_damaged_one_does_no_harm(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "SAVING", math.inf)

    def run(folder, steps):
        optimizer = Slow(F.domain, 1)
        budget = gfo.Budget(evaluations=8 * steps)
        result = gfo.minimize(optimizer, Judge(), budget=budget, out=folder, resume=True, dev_every=3)
        return result, optimizer.asked

    whole, _ = run(tmp_path / "whole", 20)
    run(tmp_path / "run", 10)
    resumed, asked = run(tmp_path / "run", 20)
    assert same(resumed, whole)
    assert asked == 11  # the new ones, and the one for which there was no room
    state = tmp_path / "run" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-5] + b"12345")
    resumed, asked = run(tmp_path / "run", 30)
    assert asked == 31
    assert same(resumed, run(tmp_path / "other", 30)[0])


def test_states_come_back_as_they_were(tmp_path):
    state = gfo.optimizers.make("pso", domain=F.domain, seed=3).state_dict()
    state |= {
        "empty": np.empty((0, 4)),
        "scalar": np.array(2.5),
        "big": 2**127,
        "inf": math.inf,
        "none": None,
    }
    save_state(tmp_path / "state", state)
    back = load_state(tmp_path / "state")
    assert back.keys() == state.keys()
    for key, value in state.items():
        np.testing.assert_equal(back[key], value)
    assert back["empty"].shape == (0, 4)
    assert back["scalar"].shape == ()
    content = bytearray((tmp_path / "state").read_bytes())
    for place in (12, len(content) // 2, len(content) - 3):
        damaged = content.copy()
        damaged[place] ^= 4
        (tmp_path / "state").write_bytes(damaged)
        assert load_state(tmp_path / "state") is None
    assert load_state(tmp_path / "none") is None


HOLDER = """
import sys, time
import gfo
from gfo.testing import Rosenbrock

def slow(z):
    time.sleep(0.05)
    return Rosenbrock(4, seed=1)(z)

optimizer = gfo.optimizers.make("random", domain=gfo.Domain.unbounded(4), seed=1)
gfo.minimize(optimizer, slow, budget=gfo.Budget(evaluations=10**6), out=sys.argv[1])
"""


def test_two_processes_in_one_folder_and_a_lock_left_behind(tmp_path):
    def run(evaluations, **options):
        optimizer = gfo.optimizers.make("random", domain=F.domain, seed=1)
        return gfo.minimize(optimizer, F, budget=gfo.Budget(evaluations=evaluations), out=tmp_path, **options)

    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], env=os.environ)
    try:
        history = tmp_path / "history.jsonl"
        deadline = time.monotonic() + 60
        while not (history.exists() and history.read_bytes().count(b"\n") >= 3):
            assert holder.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for resume in (True, False):
            with pytest.raises(gfo.GfoError, match="another process runs in it"):
                run(80, resume=resume)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert (tmp_path / ".lock").exists()
    done = len(History.read(history))
    assert len(run(16 * done + 160, resume=True).history) == done + 10
    with pytest.raises(gfo.GfoError, match="holds a run already"):
        run(80)
