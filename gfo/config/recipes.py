"""Names in the place of "auto" in a config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from gfo.run.auto import AUTO, choose, method_for, say
from gfo.run.budget import Budget

if TYPE_CHECKING:
    from gfo.core.protocols import Task

C = TypeVar("C", bound=Any)  # a config


def concrete(config: C, model: Any, task: Task, *, tell: bool = True) -> C:
    """The config with names in the place of "auto", by a recipe; a line says what was taken."""
    method: dict[str, Any] = {"name": config.optimizer.name, "options": config.optimizer.options}
    if config.baseline is not None or AUTO not in (config.space.kind, method["name"]):
        return config
    objectives = config.objectives or ()
    if config.space.kind != AUTO:
        method["name"] = method_for(config.build_space(model).domain, objectives)
        return _with(config, config.space.model_dump(exclude_none=True), method)
    choice = choose(model, task, Budget(**config.budget.model_dump()))
    if method["name"] == AUTO:
        method["name"], method["options"] = choice.method(objectives)
    if tell:
        say(choice.describe(method["name"]))
    return _with(config, {"kind": choice.recipe.space[0], **choice.options}, method)


def settled(config: C, then: C) -> C:
    """The config with what a run that goes on has taken for "auto"."""
    kept = {}
    if config.space.kind == AUTO:
        kept["space"] = then.space
    if config.optimizer.name == AUTO:
        kept["optimizer"] = then.optimizer
    return config.model_copy(update=kept)  # type: ignore[no-any-return]


def _with(config: C, space: dict[str, Any], optimizer: dict[str, Any]) -> C:
    values = {**dict(config), "space": space, "optimizer": optimizer}
    return type(config).model_validate(values)  # type: ignore[no-any-return]
