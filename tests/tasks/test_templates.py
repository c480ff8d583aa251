"""Templates: parsing, rendering, and what cannot be one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfo import GfoError
from gfo.tasks.parts.templates import Template

ROW = {"text": "so {good}", "title": "Food", "stars": 4, "share": 0.5}


@pytest.mark.parametrize(
    ("template", "before", "after", "fields"),
    [
        ("Review: {text}\n{soft}Sentiment:", "Review: so {good}\n", "Sentiment:", ["text"]),
        ("{soft}{text}", "", "so {good}", ["text"]),
        ("{text}{soft}", "so {good}", "", ["text"]),
        ("{soft}", "", "", []),
        ("{title}: {text}{soft} {stars} of 5", "Food: so {good}", " 4 of 5", ["title", "text", "stars"]),
        ("{{x}} {text} {{{soft}}}", "{x} so {good} {", "}", ["text"]),
        ("{share}{share}{soft}", "0.50.5", "", ["share", "share"]),
        ("a{soft}b{text}c", "a", "bso {good}c", ["text"]),
    ],
)
def test_render(template, before, after, fields):
    parsed = Template.parse(template)
    assert parsed.render(ROW) == (before, after)
    assert parsed.fields == fields
    parsed.check(ROW, "row 1")


plain = st.text(max_size=12).map(lambda text: text.replace("{", "{{").replace("}", "}}"))


@given(plain, plain, plain, st.text(max_size=12))
def test_render_is_what_str_format_gives(a, b, c, text):
    found = Template.parse(a + "{text}" + b + "{soft}" + c).render({"text": text})
    assert found == ((a + "{text}" + b).format(text=text), c.format())


@pytest.mark.parametrize("text", ["Review: {text} It was", "{{soft}} {text}", "a\n{text}"])
def test_without_a_soft_prompt(text):
    template = Template.parse(text)
    assert not template.soft
    assert template.render({"text": "good"}) == (text.format(text="good"), "")
    assert Template.parse(text + "{soft}").soft


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        ("{soft}{text}{soft}", ["2 times {soft}", "write {soft} once"]),
        ("{soft}{soft}{soft}", ["3 times {soft}"]),
        ("{text{soft}", ["template = '{text{soft}'", "{{ for a brace"]),
        ("{soft}{text", ["{{ for a brace"]),
        ("{soft}}", ["{{ for a brace"]),
        ("{}{soft}", ["a field's name alone"]),
        ("{text:>10}{soft}", ["a field's name alone"]),
        ("{text!r}{soft}", ["a field's name alone"]),
    ],
)
def test_bad_templates(template, parts):
    with pytest.raises(GfoError) as error:
        Template.parse(template)
    message = str(error.value)
    assert "\n" not in message
    for part in ["template = ", *parts]:
        assert part in message


def test_a_row_without_the_field():
    with pytest.raises(GfoError) as error:
        Template.parse("{text}{tilte}{soft}").check(ROW, "dev row 3")
    message = str(error.value)
    for part in ("template at dev row 3", "unknown field 'tilte'", "did you mean 'title'?", "stars, text"):
        assert part in message


@pytest.mark.parametrize("field", ["text.upper", "text[0]", "a b"])
def test_a_place_holds_a_name_not_an_expression(field):
    """Looked up as it stands, so nothing of the row is called or indexed."""
    template = Template.parse(f"{{{field}}}{{soft}}")
    with pytest.raises(GfoError, match="unknown field"):
        template.check(ROW, "row 1")
    assert template.render({field: "x"}) == ("x", "")
