"""What packages carry, and that messages name the package that gfo is."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import gfo

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
INSTALLS = re.compile(r"pip install '?([\w-]+)\[([\w,]+)\]")


def sources():
    for folder, kinds in (("gfo", ("py",)), ("docs", ("md", "py")), ("notebooks", ("ipynb",))):
        for kind in kinds:
            yield from (ROOT / folder).rglob(f"*.{kind}")
    yield ROOT / "README.md"


def test_messages_install_this_package_and_extras_that_it_has():
    """The name gfo on the index is another project's."""
    found = [
        (path.name, *match)
        for path in sources()
        for match in INSTALLS.findall(path.read_text(encoding="utf-8"))
    ]
    assert {name for _, name, _ in found} == {PROJECT["name"]} == {"gfo-llm"}
    for path, _, extras in found:
        assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"]), path
    assert len(found) >= 6
    assert INSTALLS.findall("pip install 'gfo[data]'") == [("gfo", "data")]  # control


def test_the_version_is_one():
    assert PROJECT["version"] == gfo.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    last, date = re.findall(r"^## (\d\S*) \((.*)\)$", changes, re.M)[0]
    assert last == gfo.__version__
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {last}\ndate-released: {date}\n" in cited


def test_the_torch_that_a_page_installs_is_the_tested_one():
    pinned = re.findall(r"^torch==(\S+)$", (ROOT / ".ci" / "tested-versions.txt").read_text(), re.M)
    assert re.findall(r"torch==(\S+)", (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")) == pinned


def test_the_licence_is_carried():
    assert PROJECT["license"] == "Apache-2.0"
    for name in PROJECT["license-files"]:
        assert "Apache License" in (ROOT / name).read_text(encoding="utf-8")


def documentation():
    spec = importlib.util.spec_from_file_location("conf", ROOT / "docs" / "conf.py")
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    return conf


def test_the_reference_has_every_public_name():
    conf = documentation()
    for name in gfo.__all__:
        thing = getattr(gfo, name)
        if not isinstance(thing, str):
            entry = "\n".join(conf._entry(f"gfo.{name}", thing))
            assert f":: gfo.{name}\n" in entry, name
    assert ".. autofunction:: gfo.optimizers.make" in conf._entry("gfo.optimizers", gfo.optimizers)


def test_the_menu_has_every_page():
    pages = {page for pages in documentation().MENU.values() for page in pages.split()}
    assert pages == {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"} | {"reference"}


def test_numbers_of_tables_stay_with_their_units_on_the_site():
    unbroken = documentation().unbroken
    assert unbroken("| a b | 85.2 ± 0.2 % |\n") == "| a b | 85.2\xa0±\xa00.2\xa0% |\n"
    assert unbroken("x = 5 % 3\n") == "x = 5 % 3\n"  # control: no row of a table
