"""The notebooks run on a tiny model without network and weights; what they store is a run in full mode."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SWITCH = "GFO_NOTEBOOK_FAST"
MOST_BYTES = 200_000
MACHINE_PATH = re.compile(r"(?<![\w.])/(work|root|tmp|home|Users|var|opt)/")
SHOWS = re.compile(r"^(print\(|plt\.show\(|display\()", flags=re.M)
NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing answers
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "PIP_NO_INDEX": "1",
    **dict.fromkeys(["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"], NOWHERE),
}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def settings(notebook):
    """The only cell that knows of fast mode; it prints what the notebook runs with."""
    (cell,) = [cell for cell in code_cells(notebook) if SWITCH in cell.source]
    return cell


def shown(cell, kind=None):
    """What a cell's outputs say as text; of one stream, or all."""
    texts = []
    for output in cell.outputs:
        if kind is None or output.get("name") == kind:
            texts.append(output.get("text", ""))
            texts += [str(value) for mime, value in output.get("data", {}).items() if "image/png" not in mime]
    return "\n".join(texts)


def forms(cell):
    """In which forms a cell shows something: streams, figures, tables."""
    data = {mime for output in cell.outputs for mime in output.get("data", {})}
    return data | {output.name for output in cell.outputs if output.output_type == "stream"}


def execute(path, folder, monkeypatch, **environment):
    """A notebook after it was run in a new kernel, in a folder of its own, without network and weights."""
    for name, value in {**OFFLINE, "GFO_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    working = folder / "working"
    working.mkdir()
    notebook = read(path)
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(working)}},
        record_timing=False,
    ).execute()
    return notebook


def test_there_are_notebooks():
    assert len(NOTEBOOKS) > 0
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert numbers == sorted(set(numbers))


def test_it_runs_on_a_tiny_model(path, tmp_path, monkeypatch):
    """In fast mode, and shows in each cell what it shows in full mode."""
    stored = read(path)
    if any("import xllamacpp" in cell.source for cell in code_cells(stored)):
        pytest.importorskip("xllamacpp")
    found = execute(path, tmp_path, monkeypatch, **{SWITCH: "1"})
    assert shown(settings(found)) != shown(settings(stored))
    for now, then in zip(code_cells(found), code_cells(stored), strict=True):
        assert "Warning" not in shown(now, "stderr"), shown(now, "stderr")
        assert forms(now) - {"stderr"} == forms(then) - {"stderr"}, now.source


def test_an_error_in_a_notebook_is_found(tmp_path, monkeypatch):
    """A control of the test above, which also shows that the weights are out of reach."""
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell('import gfo\ngfo.load_model("smollm2-135m")')]
    nbformat.write(notebook, tmp_path / "broken.ipynb")
    with pytest.raises(Exception, match="GfoError"):
        execute(tmp_path / "broken.ipynb", tmp_path, monkeypatch)


def test_what_is_stored_is_one_run_in_full_mode(path):
    notebook = read(path)
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    printed = shown(settings(notebook))
    assert printed
    assert "tiny" not in printed
    if "load_model" in settings(notebook).source:
        assert "smollm2-135m" in printed
    for cell in code_cells(notebook):
        assert all(output.output_type != "error" for output in cell.outputs), cell.source
        assert "Warning" not in shown(cell), shown(cell)
        if SHOWS.search(cell.source):
            assert cell.outputs, cell.source


def test_what_is_stored_is_small_and_of_no_machine(path):
    assert path.stat().st_size < MOST_BYTES
    notebook = read(path)
    assert notebook.metadata.kernelspec.name == "python3"
    assert [cell.id for cell in notebook.cells] == [f"cell-{i}" for i in range(len(notebook.cells))]
    assert notebook.cells[0].source.startswith("# ")
    for cell in notebook.cells:
        assert not MACHINE_PATH.search(cell.source), cell.source
        if cell.cell_type == "code":
            assert not MACHINE_PATH.search(shown(cell)), shown(cell)
            assert "execution" not in cell.metadata


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("in {}home/x", True),
        ("'{}tmp/a'", True),
        ("runs{}tmp/a", False),
        ("https:{0}{0}a.org{0}home/b", False),
    ],
)
def test_machine_paths_are_told_from_others(text, found):
    assert bool(MACHINE_PATH.search(text.format("/"))) == found
