"""One candidate on its way out of gfo: its changes, the words for what a format cannot hold, its template."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gfo.core.delta import Delta
from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.files import write_whole
from gfo.core.protocols import Repairing
from gfo.core.slots import LayerPrompts, Prompts
from gfo.evaluation.local import LocalEvaluator
from gfo.models.structure import hooked

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel

PROMPT = "gfo_prompt.json"
BEGIN_LORA = "search LoRASubspace and export peft, or leave begins out"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: where.
        load: the lines of Python that load it.
        notes: what to mind.
    """

    folder: Path
    load: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """One candidate, ready to be written.

    Attributes:
        model: the frozen model.
        task: the bound task.
        delta: of one candidate, float32, on the CPU; a deep prompt of layer 0 alone is in `prompt`.
        space, z: what the Delta was decoded from.
    """

    model: FrozenModel
    task: Any
    delta: Delta
    space: Any
    z: Array

    @property
    def base(self) -> str:
        """Where transformers loads the model from; "" if it was made in memory."""
        return str(self.model.module.config.name_or_path or "")

    @property
    def auto_class(self) -> str:
        """The class of transformers that loads the model."""
        if self.model.causal:
            text_alone = self.model.config is self.model.module.config
            return "AutoModelForCausalLM" if text_alone else "AutoModelForImageTextToText"
        heads = {"mask": "AutoModelForMaskedLM", "sentence": "AutoModel"}
        return heads.get(self.model.reads, "AutoModelForSeq2SeqLM")

    @classmethod
    def of(cls, evaluator: Any, z: Array) -> Candidate:
        """What z [d] stands for, a deep prompt at the first layer's entrance folded into the soft prompt.

        Raises:
            GfoError: for an evaluator without a model, or a point that its space does not have.
        """
        evaluator = local(evaluator)
        model, d = evaluator.model, evaluator.space.domain.d
        if np.shape(z) != (d,):
            raise cannot(
                f"the point has the shape {list(np.shape(z))}, the space [{d}]", "take the run's own"
            )
        if isinstance(evaluator, Repairing):
            z = evaluator.repair(np.asarray(z, dtype=np.float64)[None])[0]
        with torch.no_grad():
            delta = evaluator.space.decode(
                torch.from_numpy(np.asarray(z, dtype=np.float64)[None]).to(model.device)
            )
        delta = delta.map(lambda tensor: tensor.detach().float().cpu().contiguous())
        return cls(model, evaluator.task, _folded(delta, model), evaluator.space, np.asarray(z))

    @property
    def slots(self) -> list[str]:
        """Names of the kinds of changes that the Delta has."""
        return [slot.name for slot in self.delta.slots]

    @property
    def begins(self) -> str | None:
        """The place in each row where modules begin to change, unless that is everywhere its start."""
        begin = self.delta.begins
        if begin is None or not self.model.causal or (begin.place != "read" and self.in_front):
            return None
        return begin.place

    @property
    def invocation(self) -> list[int]:
        """The tokens behind the place where changes begin, the same in every row and nowhere behind it.

        Where that is the token that is read, it is that token, the last of each row.

        Raises:
            GfoError: if there are none.
        """
        rows = self._rows_around_begin()
        columns = itertools.takewhile(
            lambda some: len({*some}) == 1, zip(*(after for _, after in rows), strict=False)
        )
        same = tuple(some[0] for some in columns)
        if not same:
            where = (
                "the last one differs" if self.begins == "read" else f"behind {self.begins} there are none"
            )
            raise cannot(
                f"PEFT begins a change at tokens that all texts have, and {where}",
                "write some text behind {here}, and give begins = '{here}'",
            )
        if not all(_last_place(same, (*before, *after)) == len(before) for before, after in rows):
            raise cannot(
                f"PEFT begins a change at the last time that a text has the tokens {list(same)}, which "
                f"a row has again behind {self.begins}",
                "write other text there",
            )
        return list(same)

    def _rows_around_begin(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """The tokens of all rows in front of the place where changes begin, and behind it."""
        batches = [self.task.all_rows(split) for split in self.task.splits]
        rows = [pair for batch in batches for pair in zip(batch.before, batch.after, strict=True)]
        if self.begins == "read":
            return [((*before, *after)[:-1], (*before, *after)[-1:]) for before, after in rows]
        return rows

    @property
    def in_front(self) -> bool:
        """Whether nothing, not even a start token, stands in front of the soft prompt in any row."""
        return not any(any(self.task.all_rows(split).before) for split in self.task.splits)


def _last_place(tokens: tuple[int, ...], row: tuple[int, ...]) -> int:
    """Where tokens that a row has stand in it for the last time."""
    n = len(tokens)
    return next(i for i in range(len(row) - n, -1, -1) if row[i : i + n] == tokens)


def cannot(what: str, remedy: str) -> GfoError:
    """The error for a change that a format has no place for."""
    return GfoError(f"export: {what}; {remedy}")


def deep_prompt(where: str) -> GfoError:
    """The error for prompts inside the model."""
    return cannot(
        f"a deep prompt has no place in {where}",
        "search SoftPrompt, LoRASubspace or Scaling (a DeepPrompt of layer 0 alone can be exported, where "
        "embeddings enter it as they are)",
    )


def write_prompt(candidate: Candidate, folder: Path, soft: Sequence[str], note: str | None) -> None:
    """Write the template with the soft tokens' texts in its place, for any server that loads the folder."""
    template = getattr(candidate.task, "template", None)
    if template is None:
        values: dict[str, Any] = {"soft_prompt": "".join(soft)}
    else:
        mask = {} if candidate.model.mask is None else {"mask": candidate.model.mask}
        places = {"soft": "".join(soft), "here": "", **mask}
        values = {"template": template.text(**places)}
        if template.messages:
            values = {"messages": template.messages_with(**places), **values}
        if hasattr(candidate.task, "words"):
            values["words"] = candidate.task.words
    values |= {"soft_tokens": list(soft)} if soft else {}
    values |= {"note": note} if note else {}
    write_whole(folder / PROMPT, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def local(evaluator: Any) -> LocalEvaluator:
    """The evaluator, if it has a model here; else GfoError."""
    evaluator = getattr(evaluator, "local", evaluator)  # of one that is elsewhere
    if not isinstance(evaluator, LocalEvaluator):
        raise GfoError(
            f"export: the run's evaluator is a {type(evaluator).__name__} without a model; export runs of "
            "gfo.tune, or of a LocalEvaluator"
        )
    return evaluator


def _folded(delta: Delta, model: FrozenModel) -> Delta:
    """The Delta with what a deep prompt adds at layer 0 in its prompt, and layers that add 0 left out."""
    added = {layer: prompt for layer, prompt in delta.layer_prompt.items() if bool(prompt.any())}
    if delta.prompt is None or set(added) - {0} or (added and not _enters_as_embedded(model)):
        return delta
    other = (slot for slot in delta.slots if not isinstance(slot, Prompts | LayerPrompts))
    return Delta(*other, prompt=delta.prompt + added.get(0, 0), begins=delta.begins)


def _enters_as_embedded(model: FrozenModel) -> bool:
    """Whether what is added to the input embeddings is added to what enters layer 0, no more and no less."""
    ids = torch.tensor([model.encode("a b c")], device=model.device)
    plain = model.hidden_states(ids)[0]
    added = torch.linspace(-1, 1, model.hidden_size, device=model.device, dtype=model.dtype)
    if plain.shape[-1] != model.hidden_size:
        return False
    named = map(model.module.get_submodule, model.embedding_names)
    parts = {
        id(part): part for part in named if isinstance(part, torch.nn.Embedding)
    }  # one may have many names
    hooks = [part.register_forward_hook(lambda module, args, out: out + added) for part in parts.values()]
    with hooked(*hooks):
        change = model.hidden_states(ids)[0] - plain
    return bool(torch.allclose(change, added.expand_as(change), rtol=1e-3, atol=1e-3))
