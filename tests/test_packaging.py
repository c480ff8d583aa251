"""What packages carry, and that messages name the package that gfo is."""

from __future__ import annotations

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
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {gfo.__version__}\n" in cited
    assert f"## {gfo.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_licence_is_carried():
    assert PROJECT["license"] == "Apache-2.0"
    for name in PROJECT["license-files"]:
        assert "Apache License" in (ROOT / name).read_text(encoding="utf-8")
