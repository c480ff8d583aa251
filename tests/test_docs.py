"""README and docs do what they say: blocks run, links lead somewhere, tables are the registry's."""

import importlib.util
import re

import pages
import pytest
from pages import PAGES, ROOT, RUN, blocks, folder  # noqa: F401 (a fixture)

from gfo import GfoError

IDS = [page.stem for page in PAGES]


@pytest.mark.parametrize("page", RUN[1:], ids=[page.stem for page in RUN[1:]])  # README: test_readme.py
def test_the_blocks_of_a_page_run_one_after_the_other(page, folder, monkeypatch):  # noqa: F811
    done, _ = pages.run(page, folder, monkeypatch)
    assert done == [block.where for block in blocks(page) if block not in pages.install_commands()]


@pytest.mark.parametrize(
    ("block", "error"),
    [
        ("```python\nassert 1 == 2\n```\n", AssertionError),
        ("```bash\ngfo tune nowhere.toml\n```\n", AssertionError),
        ('```toml\n[space]\nkind = "soft-promt"\n```\n', GfoError),
        ("```toml\n# mine.toml\nseed = 0\n```\n", GfoError),
    ],
)
def test_a_block_that_fails_is_seen(block, error, folder, monkeypatch):  # noqa: F811
    page = folder / "page.md"
    page.write_text(f"# A page\n\n{block}")
    with pytest.raises(error):
        pages.run(page, folder, monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_block_is_of_a_language_that_runs(page):
    for block in blocks(page):
        assert block.language in pages.LANGUAGES, block.where
        if block.language == "bash" and block not in pages.install_commands():
            lines = [line for line in block.text.splitlines() if line.strip()]
            assert len(block.commands) == len(lines), f"{block.where}: a line that no test runs"
    assert page.read_text().count("```") == 2 * len(blocks(page))


@pytest.mark.weights
def test_the_download_command_runs(monkeypatch, capsys):
    found = [words for page in PAGES for block in blocks(page) for words in block.commands]
    downloads = [words for words in found if words[1] == "download"]
    assert downloads
    pages.call(monkeypatch, downloads[0])
    assert capsys.readouterr().out


def slugs(page):
    """The anchors of a page's headings, as forges make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_anchors_are_those_of_forges(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# What `gfo` is\n\n```bash\n# no heading\n```\n\n## Costs, and times\n")
    assert slugs(page) == {"what-gfo-is", "costs-and-times"}


def links(page):
    """The targets of links and pictures inside the project."""
    return re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=[*IDS, "changelog"])
def test_links_lead_somewhere(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in slugs(target), link


def test_every_page_can_be_reached():
    assert {page.name for page in PAGES[1:]} == {
        "index.md",
        *(link.partition("#")[0] for link in links(ROOT / "docs" / "index.md") if "/" not in link),
    }


def tables():
    """docs/tables.py, as a module."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_those_of_the_registry():
    """`python docs/tables.py --write` writes them."""
    module = tables()
    assert [page for page in module.pages() if module.with_tables(page.read_text()) != page.read_text()] == []


def test_a_table_that_differs_is_seen(monkeypatch, tmp_path, capsys):
    module, page = tables(), tmp_path / "page.md"
    page.write_text("a\n<!-- table: tasks -->\nold\n<!-- end of table -->\nb\n")
    monkeypatch.setattr(module, "pages", lambda: [page])
    monkeypatch.setattr(module, "ROOT", tmp_path)
    assert module.main([]) == 1
    assert "page.md: differs" in capsys.readouterr().out
    assert module.main(["--write"]) == 0
    assert "| `classification` | `gfo.Classification` |" in page.read_text()
    assert module.main([]) == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Spall (1992), doi:10.1109/9.119632; gains", ["[Spall 1992](https://doi.org/10.1109/9.119632)"]),
        ("Sobol' (1967), doi:10.1016/0041-5553(67)90144-9.", ["[Sobol' 1967](https://doi.org/10.1016/0041-5553(67)90144-9)"]),
        ("Hu et al. 2021, arXiv:2106.09685.", ["[Hu et al. 2021](https://arxiv.org/abs/2106.09685)"]),
        ("Sun, Qian and Qiu: Black-Box, ICML 2022\n(arXiv:2201.03514)", ["[Sun et al. 2022](https://arxiv.org/abs/2201.03514)"]),
        ("Holland (1975), Adaptation; Goldberg (1989)", ["Holland 1975", "Goldberg 1989"]),
        ("The year 2021 and Python (3.11)", []),
    ],
)  # fmt: skip
def test_sources_are_read_from_docstrings(text, found):
    thing = type("Thing", (), {"__doc__": text, "__module__": "json.tool"})  # whose docstring cites nobody
    assert tables().sources(thing) == found


def test_every_kind_of_name_has_a_table():
    found = {kind for page in PAGES for kind in re.findall(r"<!-- table: ([\w-]+) -->", page.read_text())}
    assert found >= {"optimizers", "spaces", "tasks", "metrics", "baselines", "models"}


def test_the_readme_is_short():
    assert len(pages.README.read_text().splitlines()) <= 160


def test_benchmarks_that_pages_name_are_there():
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    named = {name for text in texts for name in re.findall(r"python -m (benchmarks[\w.]*\w)", text)}
    assert named
    for name in named:
        path = ROOT.joinpath(*name.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name
