"""`auto`: which space and optimizer to take for a model, a task and a budget.

RECIPES is the whole of it: the first whose conditions hold is taken. They follow what candidates cost: a
change of the token that is read, in the upper half of the layers, one token a row; one in the last layer, for
many candidates where most of the budget goes to the rows themselves, next to nothing. Both are low-rank
changes, which leave as adapters of PEFT. Which of them is best at which budget is for the leaderboard to say.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gfo.core.domain import Domain
from gfo.core.errors import GfoError, GfoWarning, check_name, printable, shown
from gfo.core.protocols import Batch, Batches, Optimizer, SearchSpace, Task
from gfo.core.recording import remember
from gfo.core.registry import find
from gfo.core.seeding import stream_seed
from gfo.core.text_domain import TextDomain, TextSpace
from gfo.models.endpoint import Endpoint
from gfo.optimizers import ONE, SEVERAL, for_objectives
from gfo.run.budget import Budget
from gfo.run.folder import RunFolder
from gfo.run.schema import RUN, read_run
from gfo.spaces.parts.targets import find_targets

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel

AUTO = "auto"
LOGITS, ENDINGS, TEXT = "logits", "endings", "text"  # what a task wants of the model
DIM = 200
HIGH = 1000  # dimensions from which a covariance matrix learns nothing within a usual budget
ROLE = "up"  # of the modules changed: the feed-forward network's first matrix


@dataclass(frozen=True)
class Recipe:
    """A space with its optimizer, and when to take them.

    Attributes:
        name: as a run records it.
        space: its name and options, of which "targets" is a role of modules.
        optimizer: its name and options.
        what, why: what it is, and why it is taken, in words; with the attributes of `Situation`.
        decoder: whether the model must be a decoder that shares tokens between candidates.
        answers: what the task may want.
        most_share: how much of a budget of tokens one pass over the training rows may take.
        prompt: whether the template must have a place for a soft prompt.
    """

    name: str
    space: tuple[str, Mapping[str, Any]]
    optimizer: tuple[str, Mapping[str, Any]]
    what: str
    why: str
    decoder: bool = False
    answers: frozenset[str] = frozenset({LOGITS, ENDINGS, TEXT})
    most_share: float = float("inf")
    prompt: bool = False


RECIPES = (
    Recipe(
        "read-token",
        ("lora", {"rank": 1, "targets": ROLE, "layers": "upper", "begins": "read"}),
        ("openai-es", {}),
        "a low-rank change of the token that is read, in the upper half of the layers",
        "it costs one token a row, behind {tokens:,} tokens for the {rows:,} training rows once",
        decoder=True,
        answers=frozenset({LOGITS}),
        most_share=0.5,
    ),
    Recipe(
        "last-layer",
        ("lora", {"rank": 1, "targets": ROLE, "layers": "last", "alpha": 0.5}),
        ("cma", {}),
        "a low-rank change of the last layer",
        "it costs next to nothing beside the {tokens:,} tokens of the {rows:,} training rows",
        decoder=True,
        answers=frozenset({LOGITS, ENDINGS}),
    ),
    Recipe(
        "soft-prompt",
        ("soft-prompt", {}),
        ("cma", {}),
        "a soft prompt",
        "the model or its answers leave no cheaper place, and the template has one for it",
        prompt=True,
    ),
    Recipe(
        "low-rank",
        ("lora", {}),
        ("cma", {}),
        "a low-rank change of all layers",
        "the model or its answers leave no cheaper place, and the template has none for a soft prompt",
    ),
)


@dataclass(frozen=True)
class Situation:
    """What recipes ask for.

    Attributes:
        decoder: whether the model is a decoder that shares tokens between candidates.
        answers: what the task wants.
        rows, tokens: of training, and how many tokens these are.
        share: what they take of a budget of tokens, for one pass; 0 where the budget is of something else.
        prompt: whether the template has a place for a soft prompt.
    """

    decoder: bool
    answers: frozenset[str]
    rows: int
    tokens: int
    share: float
    prompt: bool

    @classmethod
    def of(cls, model: FrozenModel, task: Task, budget: Budget) -> Situation:
        """That of a model, a task and a budget."""
        from gfo.models.decoder import Decoder

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GfoWarning)  # the evaluator's will be shown
            parts = list(_parts(task.bind(model).all_rows("train")))
        texts = [row for part in parts for row in (*part.before, *part.after)]
        tokens = sum(map(len, texts)) + sum(len(e) for part in parts for row in part.endings for e in row)
        return cls(
            decoder=isinstance(model, Decoder),
            answers=frozenset(map(_wanted, parts)),
            rows=sum(map(len, parts)),
            tokens=tokens,
            share=tokens / budget.forward_tokens if budget.forward_tokens else 0.0,
            prompt=all(part.prompt for part in parts),
        )

    def fits(self, recipe: Recipe) -> bool:
        """Whether the conditions of a recipe hold."""
        return (
            self.decoder >= recipe.decoder
            and self.answers <= recipe.answers
            and self.share <= recipe.most_share
            and self.prompt >= recipe.prompt
        )


def choose(model: FrozenModel, task: Task, budget: Budget, name: str | None = None) -> Choice:
    """The recipe for a model, a task and a budget.

    Args:
        model, task, budget: of the run.
        name: of the recipe that a run which goes on has; None to choose.

    Raises:
        GfoError: for an unknown name.
    """
    situation = Situation.of(model, task, budget)
    named = {recipe.name: recipe for recipe in RECIPES}
    if name is not None:
        check_name("recipe", name, named)
        recipe = named[name]
    else:
        fitting = (each for each in RECIPES if situation.fits(each))
        recipe = next(each for each in fitting if "targets" not in each.space[1] or _targets(model))
    return Choice(recipe, situation, _options(recipe, model))


@dataclass(frozen=True)
class Choice:
    """A recipe with the options that its space gets for a model.

    Attributes:
        recipe: what was taken.
        situation: for which.
        options: of the space.
    """

    recipe: Recipe
    situation: Situation
    options: Mapping[str, Any]

    def build(self, model: FrozenModel, seed: int) -> SearchSpace:
        """The space."""
        options = {**self.options, "seed": seed}
        space: SearchSpace = find("space", self.recipe.space[0]).load()(model, **options)
        remember(space, options)
        return space

    def method(self, objectives: Sequence[str] = ()) -> tuple[str, dict[str, Any]]:
        """The optimizer's name and options."""
        name, options = self.recipe.optimizer
        return (SEVERAL, {}) if objectives else (name, dict(options))

    def describe(self, optimizer: str) -> str:
        """What was taken and why, in a line."""
        why = self.recipe.why.format(**vars(self.situation))
        return f"auto: {self.recipe.what} ({self.recipe.space[0]}, {optimizer}): {why}"


@dataclass(frozen=True)
class Taken:
    """What a run searches, and how.

    Attributes:
        space, optimizer, options: of the run.
        facts: what to record of the choice.
    """

    space: SearchSpace | TextSpace
    optimizer: str | Optimizer
    options: Mapping[str, Any] | None
    facts: Mapping[str, Any]


def taken(
    given: SearchSpace | TextSpace | str,
    optimizer: str | Optimizer | None,
    options: Mapping[str, Any] | None,
    *,
    model: FrozenModel | Endpoint,
    task: Task,
    budget: Budget,
    seed: int,
    objectives: Sequence[str] = (),
    out: RunFolder | None = None,
    tell: bool = True,
) -> Taken:
    """Space and optimizer of a run, those that are given or else a recipe's; a line says what was taken.

    Raises:
        GfoError: for a text that is no "auto", options for an optimizer that is not given, objectives that an
            optimizer does not take, or a budget that is of a server.
    """
    budget.check_server(model)
    auto = optimizer in (None, AUTO) if isinstance(given, str) else optimizer == AUTO
    if auto and options:
        raise GfoError(f"options = {shown(dict(options))} are of an optimizer; name it, or leave them out")
    if not isinstance(given, str):
        method = method_for(given.domain, objectives) if auto else optimizer
        return Taken(given, *for_objectives(method, options, objectives, model), {})
    if given != AUTO:
        raise GfoError(f"space = {shown(given)}; give a space such as gfo.SoftPrompt(model), or 'auto'")
    if isinstance(model, Endpoint):
        raise GfoError("space = 'auto' is of a model that is here; take gfo.Words or gfo.Texts")
    choice = choose(model, task, budget, None if out is None else recorded_recipe(out))
    if auto:
        optimizer, options = choice.method(objectives)
    method, options = for_objectives(optimizer, options, objectives)
    if tell:
        say(choice.describe(method if isinstance(method, str) else type(method).__name__))
    space = choice.build(model, stream_seed(seed, "space"))
    return Taken(space, method, options, {"recipe": choice.recipe.name})


def recorded_recipe(out: RunFolder) -> str | None:
    """The recipe of the run that a folder holds, which goes on with it; None if there is none."""
    if not out.resume or not (out.path / RUN).exists():
        return None
    name: str | None = read_run(out.path)["terms"].get("recipe")
    return name


def say(line: str) -> None:
    """Tell what was taken, on standard error."""
    print(printable(line), file=sys.stderr, flush=True)


def method_for(domain: Domain, objectives: Sequence[str] = ()) -> str:
    """The optimizer for a space that is given."""
    if objectives:
        return SEVERAL
    if isinstance(domain, TextDomain):
        return "evoprompt"
    if domain.integer.any():
        return "ga"
    return "openai-es" if domain.d > HIGH else ONE


def _parts(batch: Batch | Batches) -> Iterator[Batch]:
    if isinstance(batch, Batch):
        yield batch
    else:
        for part in batch.parts:
            yield from _parts(part)


def _wanted(batch: Batch) -> str:
    if batch.decoding is not None:
        return TEXT
    return ENDINGS if batch.endings else LOGITS


def _options(recipe: Recipe, model: FrozenModel) -> dict[str, Any]:
    """Those of a recipe's space for a model: names of its own modules, no more dimensions than there are."""
    options = dict(recipe.space[1])
    if "targets" in options:
        options["targets"] = _targets(model)
        found = find_targets(model, options["targets"], options["layers"])
        numbers = options["rank"] * sum(model.linears[name].out_features for name in found)
        options["dim"] = min(DIM, numbers)
    return options


def _targets(model: FrozenModel) -> list[str]:
    """The names that the model's first feed-forward matrices have; none if they are unusual."""
    usual = (list(group) for group in model.usual_targets(ROLE))
    return next((group for group in usual if _has(model, group[0])), [])


def _has(model: FrozenModel, pattern: str) -> bool:
    return any(name == pattern or name.endswith(f".{pattern}") for name in model.linears)
