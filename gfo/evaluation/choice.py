"""Which evaluator a model and a space want."""

from __future__ import annotations

from collections.abc import Sequence

from gfo.core.errors import GfoError
from gfo.core.protocols import SearchSpace, Task
from gfo.core.text_domain import TextSpace
from gfo.evaluation.endpoint import EndpointEvaluator
from gfo.evaluation.local import LocalEvaluator
from gfo.evaluation.racing import Racing
from gfo.evaluation.texts import TextEvaluator
from gfo.models.endpoint import Endpoint
from gfo.models.frozen import FrozenModel

ModelEvaluator = LocalEvaluator | TextEvaluator | EndpointEvaluator


def evaluator_for(
    model: FrozenModel | Endpoint,
    task: Task,
    space: SearchSpace | TextSpace,
    *,
    memory: int | None = None,
    racing: Racing | None = None,
    values: Sequence[str] = (),
) -> ModelEvaluator:
    """The evaluator of a model behind a server, of texts for a model that is here, or of changes of one.

    Raises:
        GfoError: as theirs; for racing where candidates are texts.
    """
    if isinstance(space, SearchSpace) and isinstance(model, FrozenModel):
        return LocalEvaluator(model, task, space, memory=memory, racing=racing, values=values)
    if not isinstance(space, TextSpace):
        raise GfoError(
            f"space: {type(space).__name__} changes a model's numbers, and an Endpoint is asked with texts; "
            "take gfo.Words or gfo.Texts"
        )
    if racing is not None:
        raise GfoError("racing: it is of changes of a model that is here; leave it out for texts")
    if isinstance(model, FrozenModel):
        return TextEvaluator(model, task, space, memory=memory, values=values)
    return EndpointEvaluator(model, task, space, values=values)
