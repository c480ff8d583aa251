"""Checksums of run folders, folders of before there were any, and those of another gfo."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import gfo
from gfo.run.evaluate import FunctionEvaluator
from gfo.run.files import FORMAT, checksum_of, read_json, write_json
from gfo.run.history import History
from gfo.run.integrity import check_folder
from gfo.run.schema import read_result
from gfo.run.stored import load_point
from gfo.testing import Rosenbrock

FORMAT1 = Path(__file__).parent / "format1"
F = Rosenbrock(4, seed=1)


def go(out, evaluations=40, **options):
    optimizer = gfo.optimizers.make("snes", domain=F.domain, seed=1, population=8)
    return gfo.minimize(optimizer, F, budget=gfo.Budget(evaluations=evaluations), out=out, **options)


def lines(folder):
    return (folder / "history.jsonl").read_text().splitlines(keepends=True)


def refused(call, *words):
    with pytest.raises(gfo.GfoError) as error:
        call()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def other_loss(line):
    """The line with one digit of a loss changed, which stays a number."""
    i = line.index('"loss": [') + len('"loss": [')
    return line[:i] + str((int(line[i]) % 9) + 1) + line[i + 1 :]


def without(line):
    values = json.loads(line)
    del values["checksum"]
    return json.dumps(values) + "\n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: [*text[:2], other_loss(text[2]), *text[3:]], "line 3 is not step 2 (its checksum"),
        (lambda text: [*text[:2], without(text[2]), *text[3:]], "line 3 is not step 2 (only some lines"),
        (lambda text: [other_loss(without(text[0])), *text[1:]], "line 2 is not step 1"),
        (lambda text: [*map(without, text)], "have lost their checksums"),
        (lambda text: [text[0].replace('"spread"', '"spraed"'), *text[1:]], "line 1 is not step 0"),
    ],
)
def test_lines_that_are_not_those_written(tmp_path, change, words):
    go(tmp_path)
    (tmp_path / "history.jsonl").write_text("".join(change(lines(tmp_path))))
    refused(lambda: go(tmp_path, 80, resume=True), words)
    assert [each.name for each in check_folder(tmp_path) if each.damaged] == ["history.jsonl"]


def test_a_chain_of_another_run_is_no_continuation(tmp_path):
    """Each line is whole, but it was not written behind those before."""
    go(tmp_path / "a")
    optimizer = gfo.optimizers.make("snes", domain=F.domain, seed=2, population=8)
    gfo.minimize(optimizer, F, budget=gfo.Budget(evaluations=40), out=tmp_path / "b")
    mixed = lines(tmp_path / "a")[:2] + lines(tmp_path / "b")[2:]
    (tmp_path / "a" / "history.jsonl").write_text("".join(mixed))
    refused(lambda: History.read(tmp_path / "a" / "history.jsonl"), "line 3", "its checksum is another")


@pytest.mark.parametrize("name", ["run.json", "result.json"])
def test_values_that_are_not_those_written(tmp_path, name):
    go(tmp_path)
    values = json.loads((tmp_path / name).read_text())
    assert values["format"] == FORMAT
    assert values["checksum"] == checksum_of(values)
    (tmp_path / name).write_text(json.dumps(values))  # laid out otherwise, which is no change
    read_json(tmp_path / name)
    for change in ({"d": 5}, {"checksum": "0" * 16}, {"format": 1}):
        (tmp_path / name).write_text(json.dumps(values | change))
        refused(lambda: read_json(tmp_path / name), f"{name} was changed since gfo wrote it", "put back")
    del values["checksum"]
    (tmp_path / name).write_text(json.dumps(values))
    refused(lambda: read_json(tmp_path / name), "was changed")
    del values["format"]
    (tmp_path / name).write_text(json.dumps(values))
    read_json(tmp_path / name)  # as gfo 0.1.0 wrote it


def test_points_that_are_none(tmp_path):
    z = go(tmp_path).z
    point = tmp_path / "best.safetensors"
    for other, words in (
        ({"z": z + 1e-12}, "is not the point of result.json"),
        ({"z": np.full_like(z, np.nan)}, "holds no point of finite numbers"),
        ({"z": z.astype(np.float32)}, "holds no point"),
        ({"z": z[None]}, "holds no point"),
        ({"x": z}, "no readable best.safetensors"),
    ):
        save_file(other, point)
        refused(lambda: load_point(tmp_path), words)
        assert [each.name for each in check_folder(tmp_path) if each.damaged] == ["best.safetensors"]
    (tmp_path / "result.json").unlink()  # as the line says
    assert np.array_equal(go(tmp_path, resume=True).z, z)
    assert np.array_equal(load_point(tmp_path), z)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"steps": "5"}, "steps"),
        ({"scores": {"after": 3}}, "scores.after"),
        ({"scoring_cost": {"candidates": 1, "money": 3}}, "scoring_cost.money"),
        ({"metrics": [{"name": "loss"}]}, "metrics.0.lower_is_better"),
        ({"stopped": None}, "stopped"),
        ({"cost": []}, "cost"),
    ],
)
def test_results_that_hold_something_else(tmp_path, change, where):
    go(tmp_path)
    write_json(tmp_path / "result.json", read_json(tmp_path / "result.json") | change)
    refused(lambda: read_result(tmp_path), f"result.json: {where}: ")
    refused(lambda: gfo.compare([tmp_path]), f"result.json: {where}: ")


def test_settings_of_another_evaluator(tmp_path):
    class Settled(FunctionEvaluator):
        def settings(self):
            return {"size": 1}

        def use(self, settings):
            settings["size"]

    def run(**options):
        optimizer = gfo.optimizers.make("snes", domain=F.domain, seed=1, population=8)
        return gfo.minimize(optimizer, Settled(F), out=tmp_path, budget=gfo.Budget(evaluations=40), **options)

    run()
    write_json(tmp_path / "run.json", read_json(tmp_path / "run.json") | {"evaluator": {"width": 2}})
    refused(lambda: run(resume=True), "evaluator = {'width': 2} is of another evaluator (KeyError('size'))")


def test_check_says_what_is_whole(tmp_path):
    go(tmp_path)
    found = check_folder(tmp_path)
    assert [str(each).split() for each in found] == [
        ["run.json", "whole"],
        ["history.jsonl", "whole,", "5", "steps"],
        ["result.json", "whole"],
        ["best.safetensors", "whole,", "4", "numbers"],
    ]
    text = (tmp_path / "history.jsonl").read_text()
    (tmp_path / "history.jsonl").write_text(text[:-30])
    (tmp_path / "state.safetensors").write_text("no state")
    said = {each.name: str(each) for each in check_folder(tmp_path)}
    assert "4 steps; a last line was not written to its end" in said["history.jsonl"]
    assert "does no harm" in said["state.safetensors"]
    assert "of 5 steps" in said["result.json"]
    assert not any(each.damaged for each in check_folder(tmp_path))
    (tmp_path / "empty").mkdir()
    refused(lambda: check_folder(tmp_path / "empty"), "holds no run")


@pytest.mark.parametrize("name", ["config", "python"])
def test_folders_of_0_1_0_are_whole_as_far_as_can_be_told(name):
    found = check_folder(FORMAT1 / name)
    assert not any(each.damaged for each in found)
    assert sum("wrote no checksums" in each.text for each in found) == 3


def test_a_history_of_0_1_0_gets_checksums_when_it_goes_on(tmp_path):
    """The run of a function, with what format 1 had: no checksums and no format numbers."""
    whole = go(tmp_path / "whole", 80)
    go(tmp_path / "run")
    folder = tmp_path / "run"
    (folder / "history.jsonl").write_text("".join(map(without, lines(folder))))
    for name in ("run.json", "result.json"):
        values = read_json(folder / name)
        del values["format"]
        (folder / name).write_text(json.dumps(values))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(History.read(folder / "history.jsonl")) == 5
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before  # reading upgrades nothing
    again = go(folder, 80, resume=True)
    assert again.history.trajectory() == whole.history.trajectory()
    assert all('"checksum"' in line for line in lines(folder))
    assert [each.text for each in check_folder(folder) if each.name == "history.jsonl"] == ["whole, 10 steps"]


def test_terms_that_only_one_gfo_knows(tmp_path):
    """Of two versions of one format: what one of them does not know has no say."""
    go(tmp_path / "run", record={"options": {"rank": 3}})
    other = read_json(tmp_path / "run" / "run.json")
    other["terms"] |= {"colour": "red"}
    for versions, words in ((other["versions"], "has colour = red, not None"), ({"gfo": "9.0"}, None)):
        shutil.copytree(tmp_path / "run", tmp_path / "copy", dirs_exist_ok=True)
        write_json(tmp_path / "copy" / "run.json", other | {"versions": versions})

        def again(rank):
            return go(
                tmp_path / "copy", 80, resume=True, record={"options": {"rank": rank}, "shape": "round"}
            )

        refused(lambda: again(4), "options.rank = 3, not 4")
        if words:
            refused(lambda: again(3), words)
        else:
            assert len(again(3).history) == 10
