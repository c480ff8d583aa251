"""The sections of a config that name a space: one class a kind, with the space's arguments as keys."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Discriminator, Tag, model_validator

from gfo.config.sections import Section, kind_of
from gfo.core.domain import Domain
from gfo.core.protocols import SearchSpace
from gfo.core.seeding import stream_seed

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel

# kind -> what it is, for `gfo list`
SPACES = {
    "soft-prompt": "P embeddings in the template's {soft} place, in a random subspace of d dimensions",
    "deep-prompt": "a soft prompt moved at the entrance of all or chosen layers (BBTv2)",
    "prefix": "keys and values in front of all tokens, started from real words",
    "lora": "low-rank changes of weights; method lora-fa, lora-xs, vera or tiny",
    "scaling": "factors on keys, values and feed-forwards (method ia3), or on norms (norm)",
    "bias": "additions to the outputs of linear modules (BitFit)",
    "adapter": "bottlenecks behind the feed-forward networks (Houlsby)",
    "discrete-prompt": "tokens in the {soft} place, picked from a list by integer genes",
    "product": "several spaces at once, a list of sections in the key spaces",
}


OF_ADAPTERS = frozenset({"from_peft", "dim", "alpha", "projection", "seed", "kind"})  # keys beside an adapter


class SpaceSection(Section, ABC):
    """A space. The keys are its arguments; `seed` replaces the root seed for all that it draws."""

    public: ClassVar[str]  # its name in gfo
    seed: int | None = None

    def build(self, model: FrozenModel, seed: int) -> SearchSpace:
        """The space."""
        import gfo

        options = self.model_dump(exclude={"kind", "seed", "method"}, exclude_none=True)
        options["seed"] = seed if self.seed is None else self.seed
        make: Any = getattr(gfo, self.public)
        adapter = options.pop("from_peft", None)
        if adapter is not None:
            options = {name: value for name, value in options.items() if name in OF_ADAPTERS}
            return make.from_peft(adapter, model, **options)  # type: ignore[no-any-return]
        if (method := getattr(self, "method", None)) is not None:
            options["kind"] = method
        return make(model, **options)  # type: ignore[no-any-return]

    @abstractmethod
    def domain(self) -> Domain:
        """A domain like the space's, for checks before a model is loaded."""


class ContinuousSection(SpaceSection):
    """A space of d dimensions without bounds."""

    dim: int = 200

    def domain(self) -> Domain:
        return Domain.unbounded(self.dim)


S = TypeVar("S", bound=SpaceSection)


def _said_once(section: S) -> S:
    """The section, unless it says what the adapter of `from_peft` says already."""
    fields = type(section).model_fields
    twice = [n for n in fields if n not in OF_ADAPTERS and getattr(section, n) != fields[n].default]
    if getattr(section, "from_peft", None) is not None and twice:
        raise ValueError(f"the adapter of from_peft says what {twice[0]} is; leave {twice[0]} out")
    return section


class SoftPromptConfig(ContinuousSection):
    """`gfo.SoftPrompt`, or `gfo.SoftPrompt.from_peft`, which has another default of `alpha`."""

    public = "SoftPrompt"
    kind: Literal["soft-prompt"] = "soft-prompt"
    tokens: int = 8
    init: str | None = None
    from_peft: str | None = None
    alpha: float = 2.0
    projection: str = "gaussian"

    @model_validator(mode="after")
    def _one_start(self) -> SoftPromptConfig:
        from gfo.spaces.soft_prompt import TUNED_ALPHA

        if self.from_peft is not None and "alpha" not in self.model_fields_set:
            self.alpha = TUNED_ALPHA
        return _said_once(self)


class DeepPromptConfig(ContinuousSection):
    """`gfo.DeepPrompt`."""

    public = "DeepPrompt"
    kind: Literal["deep-prompt"]
    tokens: int = 8
    layers: str | list[int] | None = None
    init: str | None = None
    alpha: float = 0.2
    projection: str = "gaussian"
    scale_text: str | None = None


class PrefixConfig(ContinuousSection):
    """`gfo.Prefix`."""

    public = "Prefix"
    kind: Literal["prefix"]
    tokens: int = 8
    layers: str | list[int] | None = None
    init: str | None = None
    alpha: float = 0.3
    projection: str = "auto"


class LoRAConfig(SpaceSection):
    """`gfo.LoRASubspace`, where `method` is its `kind`, or `gfo.LoRASubspace.from_peft`."""

    public = "LoRASubspace"
    kind: Literal["lora"]
    method: str = "lora-fa"
    dim: int | None = None
    targets: str | list[str] | None = None
    layers: str | list[int] | None = None
    rank: int | None = None
    from_peft: str | None = None
    alpha: float | None = None
    projection: str = "auto"

    @model_validator(mode="after")
    def _one_start(self) -> LoRAConfig:
        return _said_once(self)

    def domain(self) -> Domain:
        from gfo.spaces.lora_subspace import KINDS

        usual = KINDS.get(self.method, (0, 1, 0.0))[1]  # a wrong method is the space's to refuse
        return Domain.unbounded(usual if self.dim is None else self.dim)


class ScalingConfig(ContinuousSection):
    """`gfo.Scaling`; `method` is its `kind`."""

    public = "Scaling"
    kind: Literal["scaling"]
    method: str = "ia3"
    targets: str | list[str] | None = None
    layers: str | list[int] | None = None
    alpha: float = 0.1
    projection: str = "auto"


class BiasConfig(ContinuousSection):
    """`gfo.BiasSpace`."""

    public = "BiasSpace"
    kind: Literal["bias"]
    targets: str | list[str] | None = None
    layers: str | list[int] | None = None
    alpha: float = 0.15
    projection: str = "auto"


class AdapterConfig(ContinuousSection):
    """`gfo.Adapter`."""

    public = "Adapter"
    kind: Literal["adapter"]
    rank: int = 8
    targets: str | list[str] | None = None
    layers: str | list[int] | None = None
    alpha: float = 0.15
    projection: str = "auto"


class DiscretePromptConfig(SpaceSection):
    """`gfo.DiscretePrompt`."""

    public = "DiscretePrompt"
    kind: Literal["discrete-prompt"]
    tokens: int = 8
    candidates: list[str | int] | str | None = None
    number: int = 500
    similar_to: str | None = None
    init: str | None = None

    def domain(self) -> Domain:
        number = len(self.candidates) if isinstance(self.candidates, list) else self.number
        return Domain.box(0, max(1, number), self.tokens, integer=True)


class ProductConfig(SpaceSection):
    """`gfo.ProductSpace` of the sections [[space.spaces]]."""

    kind: Literal["product"]
    spaces: list[SpaceConfig]

    def build(self, model: FrozenModel, seed: int) -> SearchSpace:
        from gfo.spaces.product import ProductSpace

        seed = seed if self.seed is None else self.seed
        return ProductSpace(
            *(part.build(model, stream_seed(seed, f"space {i}")) for i, part in enumerate(self.spaces))
        )

    def domain(self) -> Domain:
        from gfo.spaces.product import joined

        return joined([part.domain() for part in self.spaces])


SECTIONS: dict[str, type[SpaceSection]] = {
    "soft-prompt": SoftPromptConfig,
    "deep-prompt": DeepPromptConfig,
    "prefix": PrefixConfig,
    "lora": LoRAConfig,
    "scaling": ScalingConfig,
    "bias": BiasConfig,
    "adapter": AdapterConfig,
    "discrete-prompt": DiscretePromptConfig,
    "product": ProductConfig,
}

SpaceConfig = Annotated[
    Annotated[SoftPromptConfig, Tag("soft-prompt")]
    | Annotated[DeepPromptConfig, Tag("deep-prompt")]
    | Annotated[PrefixConfig, Tag("prefix")]
    | Annotated[LoRAConfig, Tag("lora")]
    | Annotated[ScalingConfig, Tag("scaling")]
    | Annotated[BiasConfig, Tag("bias")]
    | Annotated[AdapterConfig, Tag("adapter")]
    | Annotated[DiscretePromptConfig, Tag("discrete-prompt")]
    | Annotated[ProductConfig, Tag("product")],
    Discriminator(kind_of("soft-prompt")),
]
ProductConfig.model_rebuild()
