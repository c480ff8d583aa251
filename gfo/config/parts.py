"""The sections of a config that every run has, beside its task and its space."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from gfo.config.sections import Section, anchored_name
from gfo.core.files import absolute

if TYPE_CHECKING:
    from gfo.evaluation.racing import Racing
    from gfo.evaluation.workers import Workers
    from gfo.models.endpoint import Endpoint
    from gfo.models.frozen import FrozenModel
    from gfo.run.callbacks import Callback


class ModelConfig(Section):
    """`gfo.load_model`; `memory_gib` is what a forward pass may take (default: a quarter of what is free)."""

    name: str = "smollm2-135m"
    dtype: str = "float32"
    device: str = "auto"
    revision: str | None = None
    device_map: str | int | dict[str, str | int] | None = None
    quantization_config: dict[str, Any] | None = None
    gguf_file: str | None = None
    memory_gib: float | None = Field(default=None, gt=0, le=2**20)

    def load(self) -> FrozenModel:
        """The frozen model."""
        from gfo.models.loading import load_model

        return load_model(**self.model_dump(exclude={"memory_gib"}))

    @property
    def memory(self) -> int | None:
        """`memory_gib` in bytes."""
        return None if self.memory_gib is None else max(1, int(self.memory_gib * 2**30))

    def anchored(self) -> ModelConfig:
        """The same, wherever the process goes."""
        return self.model_copy(update={"name": anchored_name(self.name)})


class EndpointConfig(Section):
    """`gfo.Endpoint`; a [model] with the key url is one."""

    url: str
    name: str
    key: str = "OPENAI_API_KEY"
    concurrency: int = 16
    timeout: float = 60.0
    tries: int = 8
    requests_per_minute: float | None = None
    prices: list[float] | None = None
    cache: bool | str = True
    top: int = 20
    body: dict[str, Any] = Field(default_factory=dict)

    def load(self) -> Endpoint:
        """The endpoint."""
        from gfo.models.endpoint import Endpoint

        return Endpoint(self.url, self.name, **self.model_dump(exclude={"url", "name"}))

    @property
    def memory(self) -> int | None:
        """None: it is not here."""
        return None

    def anchored(self) -> EndpointConfig:
        """The same, wherever the process goes."""
        cache = self.cache if isinstance(self.cache, bool) else str(absolute(self.cache, "model.cache"))
        return self.model_copy(update={"cache": cache})


def any_model(values: Any) -> ModelConfig | EndpointConfig:
    """The section of a model that is here, or, with an address, of one behind a server."""
    if isinstance(values, ModelConfig | EndpointConfig):
        return values
    server = isinstance(values, dict) and "url" in values
    return EndpointConfig.model_validate(values) if server else ModelConfig.model_validate(values)


AnyModelConfig = Annotated[ModelConfig | EndpointConfig, BeforeValidator(any_model)]
OF_A_MACHINE = {"url", "key", "concurrency", "timeout", "tries", "requests_per_minute", "prices", "cache"}
"""Keys of a server that are a machine's own: a run goes on with others."""


class OptimizerConfig(Section):
    """`gfo.optimizers.make`."""

    name: str = "cma"
    options: dict[str, Any] = Field(default_factory=dict)

    def made(self) -> dict[str, Any]:
        """The options; a section `rewrite` is the model that it says."""
        given = self.options.get("rewrite")
        return (
            {**self.options, "rewrite": any_model(given).load()} if isinstance(given, dict) else self.options
        )


class BaselineConfig(Section):
    """`gfo.baselines.run`; in place of an optimizer."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class BudgetConfig(Section):
    """`gfo.Budget`."""

    evaluations: int | None = None
    forward_tokens: int | None = None
    seconds: float | None = None
    requests: int | None = None
    dollars: float | None = None


class SelectionConfig(Section):
    """`gfo.Selection`."""

    metric: str = "loss"
    point: str = "recommendation"


class RacingConfig(Section):
    """`gfo.Racing`; in a config with this section candidates race."""

    block: int = 8
    first: int = 16
    p: float = 0.003
    survivors: int = 4
    seed: int = 0

    def made(self) -> Racing:
        """The race."""
        from gfo.evaluation.racing import Racing

        return Racing(**self.model_dump())


class EvaluatorConfig(Section):
    """`gfo.Workers`; in a config with this section workers evaluate. `asynchronous` is of `gfo.tune`."""

    workers: int = 1
    engine: str = "processes"
    part: int | None = None
    threads: int | None = None
    gpus: float | None = None
    address: str | None = None
    asynchronous: bool = False

    def made(self, make: Callable[[], Any]) -> Workers:
        """The workers, each with an evaluator of its own."""
        from gfo.evaluation.workers import Workers

        given = self.model_dump(exclude={"workers", "asynchronous"}, exclude_none=True)
        return Workers(make, self.workers, **given)


class StopConfig(Section):
    """`gfo.StopOnTarget` and `gfo.EarlyStopping`; without a metric the target is a training loss."""

    target: float | None = None
    metric: str | None = None
    patience: int | None = None

    def callbacks(self) -> list[Callback]:
        """What ends a run before its budget."""
        from gfo.run.callbacks import EarlyStopping, StopOnTarget

        found: list[Callback] = []
        if self.target is not None:
            found.append(StopOnTarget(self.target, metric=self.metric))
        if self.patience is not None:
            found.append(EarlyStopping(self.patience, metric=self.metric or "loss"))
        return found
