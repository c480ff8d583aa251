"""300 kills at random moments: searches, trainings, exports and downloads end as if there had been none.

    python -m pytest -m stress tests/stress/test_kills.py

It takes about ten minutes and writes what it counted into benchmarks/results/stress/kills.json.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from killed import BASELINES, outcome, serving
from tiny_wheel import make_index

import gfo
from gfo.run.environment import hardware, versions

pytestmark = pytest.mark.stress

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "stress" / "kills.json"
SEARCHES = [*gfo.optimizers.names(), "nevergrad:DE"]
EXPORTS = ["peft", "merged", "prompt-text"]
KILLS = {"search": 9, "training": 14, "export": 10, "download": 10}  # of each
ALL = 300


@pytest.fixture(scope="module")
def server():
    with serving() as make:
        yield make


@pytest.fixture(scope="module")
def counted():
    """What was killed, how often, and whether it was equal; written at the end."""
    found = {}
    yield found
    kills = sum(each["kills"] for each in found.values())
    equal = all(each["equal"] for each in found.values())
    facts = {"kills": kills, "equal": equal, "of": found, "versions": versions(), "hardware": hardware()}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def note(counted, name, kills, whole, killed):
    times = sum(was_killed for was_killed, _ in kills)
    counted[name] = {"kills": times, "equal": killed == whole}
    assert times
    assert killed == whole


@pytest.mark.parametrize("name", SEARCHES)
def test_searches(server, counted, tmp_path, name):
    server(tmp_path / "whole", name)
    kills = server(tmp_path / "killed", name, kills=KILLS["search"], moments=3)
    note(counted, name, kills, outcome(tmp_path / "whole"), outcome(tmp_path / "killed"))


@pytest.mark.parametrize("name", BASELINES)
def test_trainings(server, counted, tmp_path, name):
    server(tmp_path / "whole", name)
    kills = server(tmp_path / "killed", name, kills=KILLS["training"], moments=3)
    note(counted, name, kills, outcome(tmp_path / "whole"), outcome(tmp_path / "killed"))


def killed_and_whole(server, tmp_path, request):
    """The kills of something without steps, and the digests of what it wrote, without kills and with them."""
    request = {"kills": 0, "moments": 3, "model": "tiny", **request}
    whole, killed = tmp_path / "whole" / "it", tmp_path / "killed" / "it"
    seconds = server.ask({**request, "folder": str(whole)}, "seconds")
    times = {"kills": KILLS[request["kind"]], "within": 0.7 * seconds}
    return server.ask({**request, "folder": str(killed), **times}), written(whole), written(killed)


def written(folder):
    """Digests of its files; times aside."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "gfo-model.json" and path.suffix != ".lock":
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.mark.parametrize("form", EXPORTS)
def test_exports(server, counted, tmp_path, form):
    kills, whole, killed = killed_and_whole(server, tmp_path, {"kind": "export", "name": form})
    assert whole
    note(counted, f"export {form}", kills, whole, killed)


def test_downloads(server, counted, tmp_path):
    make_index(tmp_path)
    kills, whole, killed = killed_and_whole(server, tmp_path, {"kind": "download", "name": str(tmp_path)})
    assert len(whole) > 3
    note(counted, "download", kills, whole, killed)


def test_there_were_enough(counted):
    if len(counted) == len(SEARCHES) + len(BASELINES) + len(EXPORTS) + 1:
        assert sum(each["kills"] for each in counted.values()) >= ALL
