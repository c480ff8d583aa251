"""A task with a text in the `{soft}` place of its template, as plain text: no markup."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, cast

from gfo.core.errors import GfoError
from gfo.core.protocols import Task

FIELD = "_prompt"  # of rows, which holds the text


def with_prompt(task: Task, text: str, splits: Collection[str]) -> Task:
    """The task with a text in the place of its soft prompt, with the rows of some splits alone.

    Raises:
        GfoError: for a task without a template, or a template without `{soft}`.
    """
    made: Any = copy.copy(task)
    if hasattr(made, "parts"):  # a task made of tasks
        _put_parts(made, {id(part): with_prompt(part, text, splits) for part in made.parts})
        return cast(Task, made)
    template = getattr(made, "template", None)
    if template is None or not template.soft:
        raise GfoError("template: it has no {soft}; write {soft} where the text that is searched goes")
    made.template = template.with_field(FIELD)
    rows = {
        split: [{**row, FIELD: text} for row in some]
        for split, some in made.data.rows.items()
        if split in splits
    }
    made.data = replace(made.data, rows=rows)
    return cast(Task, made)


def _put_parts(made: Any, parts: Mapping[int, Task]) -> None:
    """Give a task made of tasks others in the places of its own, by their ids."""
    made.parts = [parts[id(part)] for part in made.parts]
    made.constraints = tuple(replace(each, task=parts[id(each.task)]) for each in made.constraints)
