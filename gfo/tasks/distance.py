"""Distance to the original: how far a changed model's next tokens are from the unchanged one's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from gfo.core.compared import Compared
from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.metric import LOSS, Metric
from gfo.core.protocols import Batch, BoundTask, Tokenizer
from gfo.core.recording import recorded
from gfo.tasks.language_modeling import BoundLanguage, LanguageModeling
from gfo.tasks.parts.base import RowOptions
from gfo.tasks.parts.datasets import Source

if TYPE_CHECKING:
    from torch import Tensor


@recorded
class Distance(LanguageModeling):
    """Documents on which the changed model is to say what the unchanged one says.

    The loss is KL(p || q) in nats, the mean over the documents' tokens, with p the distribution of the next
    token that the unchanged model gives and q the candidate's: the fitness of EvoPress (Sieberling et al.
    2025, arXiv:2410.14649) for pruned and quantized models. It is 0 where nothing changes, and asks for no
    labels. Windows are those of `LanguageModeling`; there is no template.

    Args:
        train: documents the loss is computed on; see `gfo.datasets.load`.
        dev: documents the result is selected on, or None to take the last recommendation.
        test: documents kept for the end, or None.
        field: the rows' field that holds the text.
        window: tokens of a window.
        stride: tokens between the starts of windows; by default the window.
        rows: as those of `LanguageModeling`.

    Raises:
        GfoError: for unusable rows, or a number out of range.
    """

    def __init__(
        self,
        train: Source,
        dev: Source | None = None,
        test: Source | None = None,
        *,
        field: str = "text",
        window: int = 128,
        stride: int | None = None,
        **rows: Unpack[RowOptions],
    ) -> None:
        super().__init__(train, dev, test, template="{" + field + "}", window=window, stride=stride, **rows)

    def bind(self, tokenizer: Tokenizer) -> BoundTask:
        """Cut all documents into windows of one model's tokens.

        Raises:
            GfoError: for a model that does not continue texts, and as `LanguageModeling.bind`.
        """
        if tokenizer.reads != "next" or not tokenizer.continues:
            raise GfoError(
                "task: Distance compares the next tokens of running text, which this model does not say; "
                "take a decoder"
            )
        return BoundDistance(self, tokenizer)


class BoundDistance(BoundLanguage):
    """Windows of one model's tokens, at each of which distributions are compared."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The loss."""
        return (LOSS,)

    def loss(self, answers: Tensor, batch: Batch) -> Tensor:
        """Sums of divergences, [K, B, 1] -> their mean over tokens, [K]; differentiable."""
        return super().loss(-answers, batch)

    def score(self, answers: Tensor, batch: Batch) -> dict[str, Array]:
        """Sums of divergences -> the loss [K]; nan where a candidate failed."""
        return {"loss": self.row_losses(answers, batch).mean(axis=1)}

    def row_losses(self, answers: Tensor, batch: Batch) -> Array:
        """Sums of divergences -> the loss of each window, [K, B]; see `LanguageModeling`."""
        return super().row_losses(-answers, batch)

    def _rows(self, split: str, index: Array, **options: Any) -> Batch:
        return Compared.of(super()._rows(split, index, **options))
