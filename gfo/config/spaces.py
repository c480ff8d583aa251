"""The sections of a config that name a space: its constructor's arguments are the keys."""

from __future__ import annotations

import inspect
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import BeforeValidator, SerializeAsAny, create_model, model_validator

from gfo.config.sections import Section, anchored_name, of_kind
from gfo.config.signatures import field_of, keys_of
from gfo.core.domain import Domain
from gfo.core.errors import GfoError
from gfo.core.protocols import SearchSpace
from gfo.core.recording import remember
from gfo.core.registry import Entry
from gfo.core.seeding import stream_seed
from gfo.run.auto import AUTO, DIM

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel

DEFAULT = "soft-prompt"
FOLDERS = ("from_peft", "checkpoints")  # keys that name folders


class SpaceSection(Section):
    """A space. The keys are its arguments; `seed` replaces the root seed for all that it draws."""

    made: ClassVar[Any]  # the class of the space
    known_early: ClassVar[bool] = False  # whether its dimensions are those of `dim`, without bounds
    kind: str

    def build(self, model: FrozenModel, seed: int) -> SearchSpace:
        """The space."""
        options = self.model_dump(exclude={"kind", "seed"}, exclude_none=True)
        if "seed" in type(self).model_fields:
            own: int | None = getattr(self, "seed")  # noqa: B009
            options["seed"] = seed if own is None else own
        adapter = options.pop("from_peft", None)
        if adapter is not None:
            beside = inspect.signature(self.made.from_peft).parameters
            options = {name: value for name, value in options.items() if name in beside}
            return cast(SearchSpace, self.made.from_peft(adapter, model, **options))
        first = (model,) if takes_model(self.made) else ()
        space = cast(SearchSpace, self.made(*first, **options))
        remember(space, options)
        return space

    def domain(self) -> Domain | None:
        """A domain like the space's, for checks before a model is loaded; None where it is not known yet."""
        if self.kind in EARLY:
            return EARLY[self.kind](self)
        dim = getattr(self, "dim", None)
        return Domain.unbounded(dim) if self.known_early and dim is not None else None

    def anchored(self) -> Self:
        """The section with folders as paths that mean the same everywhere."""
        given = {name: getattr(self, name, None) for name in FOLDERS}
        return self.model_copy(update={name: _anchored(value) for name, value in given.items() if value})

    @model_validator(mode="after")
    def _one_start(self) -> SpaceSection:
        """With `from_peft` defaults are those of that constructor, and the adapter says the rest."""
        if getattr(self, "from_peft", None) is None:
            return self
        beside = inspect.signature(self.made.from_peft).parameters
        for name in type(self).model_fields:
            if name in beside:
                self._take_default(name, beside[name].default)
            elif name not in ("kind", "seed", "from_peft"):
                self._leave_out(name)
        return self

    def _take_default(self, name: str, default: Any) -> None:
        """Give a key that was not given, and has a default, that of another constructor."""
        if name not in self.model_fields_set and type(self).model_fields[name].default is not None:
            setattr(self, name, default)

    def _leave_out(self, name: str) -> None:
        """Refuse a key that says what the adapter says."""
        if getattr(self, name) != type(self).model_fields[name].default:
            raise ValueError(f"the adapter of from_peft says what {name} is; leave {name} out")


class ProductConfig(SpaceSection):
    """`gfo.ProductSpace` of the sections [[space.spaces]]."""

    kind: Literal["product"]
    seed: int | None = None
    spaces: list[SpaceConfig]

    def build(self, model: FrozenModel, seed: int) -> SearchSpace:
        """The spaces, each with a seed of its own."""
        from gfo.spaces.product import ProductSpace

        seed = seed if self.seed is None else self.seed
        return ProductSpace(
            *(part.build(model, stream_seed(seed, f"space {i}")) for i, part in enumerate(self.spaces))
        )

    def anchored(self) -> Self:
        """The section with its parts' folders as paths that mean the same everywhere."""
        return self.model_copy(update={"spaces": [part.anchored() for part in self.spaces]})

    def domain(self) -> Domain | None:
        """Those of the parts, one behind the other."""
        from gfo.spaces.product import joined

        parts = [part.domain() for part in self.spaces]
        known = [part for part in parts if part is not None]
        return joined(known) if len(known) == len(parts) else None


class AutoSpace(SpaceSection):
    """The space of a recipe, which a run takes when model and data are there: see `gfo.run.auto`."""

    kind: Literal["auto"]

    def build(self, model: FrozenModel, seed: int) -> SearchSpace:
        """None: it stands for a whole search."""
        raise GfoError(
            "space = auto stands for a search of its own, which `gfo tune` chooses; name a kind here, as in "
            "kind = 'soft-prompt'"
        )

    def domain(self) -> Domain | None:
        """One like those of all recipes."""
        return Domain.unbounded(DIM)


def space_section(entry: Entry) -> type[SpaceSection]:
    """The section of a space of the registry.

    Raises:
        GfoError: for a constructor whose arguments a config cannot give.
    """
    return ProductConfig if entry.name == "product" else _section(entry.name, entry.load())


@cache
def _section(name: str, cls: Any) -> type[SpaceSection]:
    model = next(iter(inspect.signature(cls).parameters), "model")
    keys = keys_of(cls, leave_out=(model, "seed") if takes_model(cls) else ("seed",))
    draws = "seed" in inspect.signature(cls).parameters
    more: dict[str, Any] = {"seed": (int | None, None)} if draws else {}
    if hasattr(cls, "from_peft"):
        more["from_peft"] = (str | None, None)
    named: Any = Literal[name]
    section = create_model(
        f"{cls.__name__}Config",
        __base__=SpaceSection,
        __module__=__name__,
        kind=(named, name if name == DEFAULT else ...),
        **{key: field_of(value) for key, value in keys.items()},
        **more,
    )
    section.made = cls
    section.known_early = cls.__module__.startswith("gfo.")
    return section


def _anchored(value: Any) -> Any:
    """A folder, or a list of them, as paths that mean the same everywhere; what is no folder as it is."""
    return [anchored_name(each) for each in value] if isinstance(value, list) else anchored_name(value)


def takes_model(cls: Any) -> bool:
    """Whether a space's constructor takes the model first, as all do but those of texts."""
    return bool(getattr(cls, "takes_model", True))


def _of_lora(section: Any) -> Domain | None:
    from gfo.spaces.lora_subspace import METHODS

    usual = METHODS.get(section.method, (0, 1, 0.0))[1]  # a wrong method is the space's to refuse
    dim = usual if section.dim is None else section.dim
    return None if dim is None else Domain.unbounded(dim)


def _of_discrete_prompt(section: Any) -> Domain:
    number = len(section.candidates) if isinstance(section.candidates, list) else section.number
    return Domain.box(0, max(1, number), section.tokens, integer=True)


def _of_words(section: Any) -> Domain:
    return Domain.box(0, max(1, len(section.words)), max(1, section.places), categorical=True)


EARLY = {
    "lora": _of_lora,
    "discrete-prompt": _of_discrete_prompt,
    "words": _of_words,
}  # whose key `dim` does not say it all

SpaceConfig = Annotated[
    SerializeAsAny[SpaceSection],
    BeforeValidator(of_kind("space", DEFAULT, space_section, {AUTO: AutoSpace})),
]
ProductConfig.model_rebuild()
