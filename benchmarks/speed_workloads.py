"""What `speed.py` measures: templates, data, and the setting that all rivals share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gfo.core.errors import GfoError
from gfo.core.protocols import Batch, BoundTask, Task, Tokenizer
from gfo.core.seeding import stream
from gfo.spaces.soft_prompt import SoftPrompt
from gfo.tasks.classification import Classification
from gfo.tasks.templates import Template

if TYPE_CHECKING:
    from torch import Tensor

    from gfo.models.decoder import Decoder

ROWS = 32
LABELS = {"negative": " negative", "positive": " positive"}
SST2_FILE = Path("kshot16/sst2/seed13/train.jsonl")
# Tokens of an SST-2 sentence in SmolLM2's vocabulary: the quantiles 1/64, 3/64, ..., 63/64 of the 6,920
# training sentences.
SST2_LENGTHS = (
    5,
    7,
    8,
    10,
    11,
    12,
    13,
    14,
    15,
    16,
    17,
    18,
    19,
    20,
    21,
    22,
    23,
    24,
    25,
    26,
    27,
    28,
    29,
    30,
    31,
    33,
    35,
    36,
    39,
    41,
    44,
    52,
)


@dataclass(frozen=True)
class Workload:
    """A template and a prompt length P.

    Attributes:
        name: what `--workload` calls it.
        template: with `{text}` and `{soft}`.
        prompt_tokens: P.
    """

    name: str
    template: str
    prompt_tokens: int


WORKLOADS = {
    "text-first": (Workload("text-first", "Review: {text}\n{soft}Sentiment:", 8),),
    "prompt-first": (
        Workload("prompt-first", "{soft}Review: {text}\nSentiment:", 8),
        Workload("prompt-first", "{soft}Review: {text}\nSentiment:", 50),
    ),
}


@dataclass(frozen=True)
class Setting:
    """What all rivals of a workload get: the same model, rows and candidates.

    Attributes:
        workload: template and prompt length.
        data: what the rows are, in words.
        model: the frozen decoder.
        task: gives the rows.
        bound: the task for this model.
        space: decodes search points into soft prompts.
        z: the candidates [K, d].
        chunk_tokens: the most tokens of a forward pass of every rival that stacks.
    """

    workload: Workload
    data: str
    model: Decoder
    task: Task
    bound: BoundTask
    space: SoftPrompt
    z: np.ndarray
    chunk_tokens: int

    @property
    def title(self) -> str:
        """The workload in a few words."""
        return f"{self.workload.name} P={self.workload.prompt_tokens}"

    @property
    def batch(self) -> Batch:
        """All rows."""
        return self.bound.batch("train", 0)

    def prompts(self) -> Tensor:
        """The candidates' soft prompts, [K, P, D]."""
        import torch

        return self.space.decode(torch.from_numpy(self.z).to(self.model.device)).prompt


def setting(
    workload: Workload, model: Decoder, *, data: Path | None, candidates: int, seed: int, chunk_tokens: int
) -> Setting:
    """The rows and candidates of a workload.

    Raises:
        GfoError: for data that cannot be used.
    """
    task: Task
    if data is None:
        task, name = (
            RandomTokens(workload.template, model.vocabulary_size, seed),
            "random-tokens-sst2-lengths",
        )
    else:
        task = Classification(
            data / SST2_FILE, template=workload.template, labels=LABELS, label_field="label_text"
        )
        name = "sst2-16shot-seed13"
    size = workload.prompt_tokens * model.hidden_size
    space = SoftPrompt(model, workload.prompt_tokens, min(200, size), seed=seed)
    z = stream(seed, "speed candidates").standard_normal((candidates, space.dim))
    return Setting(workload, name, model, task, task.bind(model), space, z, chunk_tokens)


class RandomTokens:
    """Rows of random tokens with the lengths of SST-2's sentences, and two random label tokens."""

    splits: tuple[str, ...] = ("train",)

    def __init__(self, template: str, vocabulary_size: int, seed: int) -> None:
        rng = stream(seed, "speed rows")
        self._template = Template.parse(template)
        self._texts = [tuple(rng.integers(vocabulary_size, size=n).tolist()) for n in row_lengths(ROWS)]
        self._vocabulary = tuple(rng.choice(vocabulary_size, 2, replace=False).tolist())
        self._target = rng.integers(2, size=ROWS)

    def bind(self, tokenizer: Tokenizer) -> RandomTokens:
        """Put the texts into the template."""
        mark = "\0"
        before, after = self._template.render(dict.fromkeys(self._template.fields, mark))
        self._rows = Batch(
            key=("random tokens",),
            before=tuple(_fill(before, mark, text, tokenizer, start=True) for text in self._texts),
            after=tuple(_fill(after, mark, text, tokenizer, start=False) for text in self._texts),
            vocabulary=self._vocabulary,
            target=self._target,
        )
        return self

    def batch(self, split: str, step: int) -> Batch:
        """All rows."""
        return self._rows

    def all_rows(self, split: str) -> Batch:
        """All rows."""
        return self._rows

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy over the two tokens, [K, B]."""
        import torch

        target = torch.as_tensor(batch.target, device=logits.device).expand(len(logits), -1)
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), target, reduction="none")

    def score(self, logits: Tensor, batch: Batch) -> dict[str, Any]:
        """The mean loss, [K]."""
        return {"loss": self.loss(logits, batch).mean(dim=1).double().cpu().numpy()}


def row_lengths(rows: int) -> list[int]:
    """Tokens of each row: evenly spread over SST-2's distribution."""
    at = (np.arange(rows) + 0.5) / rows
    grid = (np.arange(len(SST2_LENGTHS)) + 0.5) / len(SST2_LENGTHS)
    return [int(n) for n in np.rint(np.interp(at, grid, SST2_LENGTHS))]


def check_data(folder: Path | None) -> Path | None:
    """The data folder if it holds SST-2.

    Raises:
        GfoError: if it does not.
    """
    if folder is not None and not (folder / SST2_FILE).is_file():
        raise GfoError(f"--data {folder}: it has no file {SST2_FILE}; leave --data out for random tokens")
    return folder


def _fill(
    text: str, mark: str, ids: tuple[int, ...], tokenizer: Tokenizer, *, start: bool
) -> tuple[int, ...]:
    """Tokens of the text with the ids in the mark's place."""
    left, found, right = text.partition(mark)
    tokens = tokenizer.encode(left, start=start)
    return tokens + ids + tokenizer.encode(right, start=False) if found else tokens
