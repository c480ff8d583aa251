"""What is measured: workloads, and the setting that all rivals share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from benchmarks.speed.data import DataSet, RandomTokens, read_task
from gfo.core.protocols import Batch, BoundTask, SearchSpace, Task
from gfo.core.seeding import stream
from gfo.spaces.deep_prompt import DeepPrompt
from gfo.spaces.lora_subspace import LoRASubspace
from gfo.spaces.soft_prompt import SoftPrompt

if TYPE_CHECKING:
    from gfo.core.delta import Delta
    from gfo.models.decoder import Decoder

DIM = 200  # search dimensions, or as many as a small model has
LORA_RANK = 4
PAIRS, SIGMA = 16, 0.01  # of the strategy on all matrices
TEXT_FIRST = "{head}{text}\n{soft}{tail}"
PROMPT_FIRST = "{soft}{head}{text}\n{tail}"
NO_PROMPT = "{head}{text}\n{tail}"
HERE = "{head}{text}\n{here}{tail}"


@dataclass(frozen=True)
class Workload:
    """A kind of change and where it meets the text.

    Attributes:
        name: what `--workload` calls it.
        order: of the template's parts.
        prompt_tokens: P; 0 without a soft prompt.
        space: the search space for a model, P and a seed.
        numbered: whether points are the candidates' numbers, whose changes the space has drawn.
    """

    name: str
    order: str
    prompt_tokens: int
    space: Callable[[Decoder, int, int], SearchSpace]
    numbered: bool = False

    def template(self, data: DataSet) -> str:
        """The template in a data set's words."""
        return self.order.format(head=data.head, text="{text}", soft="{soft}", here="{here}", tail=data.tail)


def _prompt(model: Decoder, P: int, seed: int) -> SearchSpace:
    return SoftPrompt(model, P, min(DIM, P * model.hidden_size), seed=seed)


def _lora(layers: str | None = None, begins: str | None = None) -> Callable[[Decoder, int, int], SearchSpace]:
    def space(model: Decoder, P: int, seed: int) -> SearchSpace:
        return LoRASubspace(model, DIM, rank=LORA_RANK, layers=layers, begins=begins, seed=seed)

    return space


def _deep_prompt(model: Decoder, P: int, seed: int) -> SearchSpace:
    return DeepPrompt(model, P, min(DIM, P * model.hidden_size), layers="upper", seed=seed)


def _rank_one(model: Decoder, P: int, seed: int) -> SearchSpace:
    from gfo.baselines.eggroll import Places, Population

    places = Places(model, None, vectors=False)
    return Population(places, model.device, pairs=PAIRS, rank=1, sigma=SIGMA, seed=seed)


WORKLOADS = {
    "text-first": (Workload("text-first", TEXT_FIRST, 8, _prompt),),
    "prompt-first": tuple(Workload("prompt-first", PROMPT_FIRST, P, _prompt) for P in (8, 50)),
    "lora": (Workload("lora", NO_PROMPT, 0, _lora()),),
    "lora-here": (Workload("lora-here", HERE, 0, _lora(begins="{here}")),),
    "lora-read": (Workload("lora-read", NO_PROMPT, 0, _lora(begins="read")),),
    "lora-upper": (Workload("lora-upper", NO_PROMPT, 0, _lora("upper")),),
    "rank-1": (Workload("rank-1", NO_PROMPT, 0, _rank_one, numbered=True),),
    "deep-prompt-upper": (Workload("deep-prompt-upper", TEXT_FIRST, 8, _deep_prompt),),
}


@dataclass(frozen=True)
class Setting:
    """What all rivals of a workload get: the same model, rows and candidates.

    Attributes:
        workload: the kind of change.
        data: the data set that the rows or their lengths are from.
        rows: what the rows are, in words.
        model: the frozen decoder.
        task: gives the rows.
        bound: the task for this model.
        space: decodes search points into changes of the model.
        z: the candidates [K, d].
        chunk_tokens: the most tokens of a forward pass of every rival that stacks.
    """

    workload: Workload
    data: DataSet
    rows: str
    model: Decoder
    task: Task
    bound: BoundTask
    space: SearchSpace
    z: np.ndarray
    chunk_tokens: int

    @property
    def title(self) -> str:
        """The workload in a few words."""
        P = self.workload.prompt_tokens
        return f"{self.workload.name}{f' P={P}' if P else ''} {self.data.name}"

    @property
    def batch(self) -> Batch:
        """All rows."""
        return cast(Batch, self.bound.batch("train", 0))

    def delta(self) -> Delta:
        """The candidates as changes of the model, in its dtype."""
        import torch

        with torch.no_grad():
            delta = self.space.decode(torch.from_numpy(self.z).to(self.model.device))
            return delta.to(self.model.device, self.model.dtype)


def setting(
    workload: Workload,
    data: DataSet,
    model: Decoder,
    *,
    candidates: int,
    chunk_tokens: int,
    folder: Path | None = None,
    text_length: int | None = None,
    rows: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> Setting:
    """The rows and candidates of a workload.

    Args:
        workload: the kind of change.
        data: the data set.
        model: a frozen decoder.
        candidates: K.
        chunk_tokens: the most tokens of a forward pass.
        folder: where the data are; None for random tokens.
        text_length: tokens of each random text; None for the data set's lengths.
        rows: B of random tokens; None for the data set's.
        batch_size: rows of a step, drawn anew each step; None for all. Of random tokens.
        seed: of the candidates and random tokens.

    Raises:
        GfoError: for data that cannot be used.
    """
    template = workload.template(data)
    task: Any
    if folder is not None:
        task, name = read_task(data, folder, template), f"{data.name}: {data.file}"
    else:
        lengths = [text_length] * (rows or data.rows) if text_length else data.lengths(rows)
        name = f"random tokens, {f'{text_length} a text' if text_length else f'lengths of {data.name}'}"
        task = RandomTokens(
            template,
            model.vocabulary_size,
            lengths,
            labels=len(data.labels),
            seed=seed,
            batch_size=batch_size,
        )
    space = workload.space(model, workload.prompt_tokens, seed)
    z = stream(seed, "speed candidates").standard_normal((candidates, space.domain.d))
    if workload.numbered:
        z = np.arange(float(candidates))[:, None]
    return Setting(workload, data, name, model, task, task.bind(model), space, z, chunk_tokens)
