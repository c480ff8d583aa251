"""`gfo list`: every name, and what is known of each."""

import re
import subprocess
import sys

import pytest
from commands import bad, caller

from gfo.config import listing
from gfo.core import registry
from gfo.core.docstrings import arguments, source, summary
from gfo.core.metric import Metric
from gfo.core.registry import KINDS, entries

ALL = [(kind, name) for kind in KINDS for name in entries(kind)]
OF_PAPERS = {  # a word of the source that must be shown
    "cma": "Hansen", "snes": "Wierstra", "spsa": "Spall", "pso": "Kennedy", "bo": "TuRBO", "bipop": "Auger",
    "openai-es": "Salimans", "soft-prompt": "arXiv:2201.03514", "deep-prompt": "arXiv:2205.11200",
    "prefix": "arXiv:2101.00190", "adapter": "arXiv:1902.00751", "distillation": "arXiv:1503.02531",
    "bias": "arXiv:2106.10199", "mezo": "arXiv:2305.17333", "hinge": "Weston",
}  # fmt: skip


@pytest.fixture
def gfo(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "150")
    return caller(monkeypatch, capsys)


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_every_name_is_explained(kind, name):
    (found,) = (each for each in listing.named(name) if each.entry.kind == kind)
    assert found.text
    for option in found.options:
        assert "object at" not in option.type + option.default
        assert "Unseen" not in option.type
    if kind in ("optimizer", "space", "task") and "<" not in name:
        assert found.options or name in ("random", "sobol")
    for option in found.options:
        assert option.line.endswith("."), option  # what it is, to its end
        if option.default == "None":
            assert re.search(r"default|none|instead|in place|without", option.line, re.I), option


@pytest.mark.parametrize("name", OF_PAPERS)
def test_sources_are_named(name):
    assert any(OF_PAPERS[name] in each.source for each in listing.named(name))


def test_a_name_shows_types_defaults_and_what_options_are(gfo):
    code, out, _ = gfo("list", "lora")
    assert code == 0
    for words in ("space lora", "baseline lora", "arXiv:2106.09685", "'lora-fa'", "int | None", "warmup"):
        assert words in out
    code, out, _ = gfo("list", "classification")
    assert "(required)" in out
    assert "training rows of a step" in out  # the keys of rows, too
    assert "the higher the better" in gfo("list", "accuracy")[1]
    assert "the lower the better" in gfo("list", "perplexity")[1]
    assert "population" in gfo("list", "nevergrad:DE")[1]


def test_an_unknown_name_is_answered_with_the_nearest(gfo):
    bad(gfo("list", "cmaa"), "unknown name 'cmaa'", "did you mean 'cma'")
    bad(gfo("list", "nevergard:DE"), "unknown optimizer 'nevergard:DE'")


def test_a_metric_of_the_users(gfo, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", {})
    registry.register("metric", "speed", Metric("speed", lower_is_better=True), "how slow it is")
    assert "how slow it is" in gfo("list")[1]
    assert "the lower the better" in gfo("list", "speed")[1]


WITHOUT = """
import sys
sys.argv = ["gfo", "list"]
import gfo.cli
try:
    gfo.cli.main()
except SystemExit:
    pass
print([m for m in ("torch", "transformers", "cma", "scipy") if m in sys.modules])
"""


def test_the_list_loads_no_torch():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "soft-prompt" in done.stdout


def documented(one, two=2):
    """What it is.

    After Rechenberg (1973).

    Args:
        one: the first, over
            two lines.
        two, three: others: both,
            which: a line that goes on.

    Raises:
        ValueError: never.
    """


def test_docstrings_are_read():
    assert summary(documented) == "What it is.\n\nAfter Rechenberg (1973)."
    assert arguments(documented) == {
        "one": "the first, over two lines.",
        "two": "others: both, which: a line that goes on.",
        "three": "others: both, which: a line that goes on.",
    }
    assert source(documented) == "After Rechenberg (1973)."
    assert arguments(len) == {}
