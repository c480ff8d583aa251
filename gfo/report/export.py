"""Results that leave gfo: PEFT adapters, whole model folders, prompts as text.

What is written is the one candidate's Delta, so any space can be exported whose changes have a place there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gfo.core.delta import Delta
from gfo.core.domain import Array
from gfo.core.errors import GfoError, unknown_name
from gfo.evaluation.local import LocalEvaluator
from gfo.report.words import words_near

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel

FORMATS = ("peft", "merged", "prompt-text")
PROMPT, PROMPT_TEXT = "gfo_prompt.json", "prompt.txt"
MERGES = frozenset({"prompt", "lora", "scale", "bias"})  # slots that become weights of a model folder


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
    """

    model: FrozenModel
    task: Any
    delta: Delta

    @property
    def base(self) -> str:
        """Where transformers loads the model from; "" if it was made in memory."""
        return str(self.model.module.config.name_or_path or "")

    @property
    def auto_class(self) -> str:
        """The class of transformers that loads the model."""
        if self.model.causal:
            return "AutoModelForCausalLM"
        heads = {"mask": "AutoModelForMaskedLM", "sentence": "AutoModel"}
        return heads.get(self.model.reads, "AutoModelForSeq2SeqLM")

    @property
    def slots(self) -> list[str]:
        """The Delta's slots that hold changes."""
        return filled(self.delta)

    @property
    def in_front(self) -> bool:
        """Whether nothing, not even a start token, stands in front of the soft prompt in any row."""
        return not any(any(self.task.all_rows(split).before) for split in self.task.splits)


def export(evaluator: Any, z: Array, form: str, folder: str | Path) -> Exported:
    """Write what z stands for into a new or empty folder, for programs other than gfo.

    Args:
        evaluator: the `LocalEvaluator` of the run: model, task and space.
        z: the point [d].
        form: "peft", an adapter for `PeftModel.from_pretrained`; "merged", a folder of the whole model
            for `from_pretrained` of transformers; "prompt-text", the prompt's words in prompt.txt.
        folder: where to write.

    Raises:
        GfoError: for a change that the format has no place for (says what can be exported and how), an
            unknown format, or a folder that is not empty or cannot be written.
    """
    from gfo.report.export_merged import write_merged
    from gfo.report.export_peft import write_adapter

    writers: dict[str, Callable[[Candidate, Path], Exported]] = {
        "peft": write_adapter,
        "merged": write_merged,
    }
    if form not in FORMATS:
        raise unknown_name("format", form, FORMATS)
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise GfoError(f"out = {folder}: it is not empty; name another folder, or delete it")
    try:
        if form == "prompt-text":
            text = prompt_text(evaluator, z)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / PROMPT_TEXT).write_text(text + "\n", encoding="utf-8")
            return Exported(folder, ())
        return writers[form](_candidate(evaluator, z), folder)
    except OSError as error:
        raise GfoError(
            f"out = {folder}: cannot write there ({error.strerror}); name another folder"
        ) from None


def prompt_text(evaluator: Any, z: Array) -> str:
    """The prompt that z [d] stands for: a discrete prompt's text, or a soft prompt's nearest words.

    Raises:
        GfoError: if the space has no prompt.
    """
    evaluator = _local(evaluator)
    for space, part in _parts(evaluator.space, z):
        if hasattr(space, "text"):
            return str(space.text(part))
    prompt = _candidate(evaluator, z).delta.prompt
    if prompt is None:
        raise GfoError("export: the space has no prompt, and so no text; export peft or merged")
    return str(words_near(evaluator.model, prompt[0], 1))


def filled(delta: Delta) -> list[str]:
    """Names of a Delta's slots that hold changes."""
    names = [field.name for field in fields(delta) if field.name != "first_layer"]
    values = {name: getattr(delta, name) for name in names}
    return [name for name, value in values.items() if value is not None and len(value)]


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
        values = {"template": template.text(soft="".join(soft), **mask)}
        if hasattr(candidate.task, "words"):
            values["words"] = candidate.task.words
    values |= {"soft_tokens": list(soft)} if soft else {}
    values |= {"note": note} if note else {}
    (folder / PROMPT).write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _local(evaluator: Any) -> LocalEvaluator:
    if not isinstance(evaluator, LocalEvaluator):
        raise GfoError(
            f"export: the run's evaluator is a {type(evaluator).__name__} without a model; export runs of "
            "gfo.tune, or of a LocalEvaluator"
        )
    return evaluator


def _candidate(evaluator: Any, z: Array) -> Candidate:
    """The candidate z [d], a deep prompt at the first layer's entrance folded into the soft prompt."""
    import torch

    evaluator = _local(evaluator)
    model = evaluator.model
    with torch.no_grad():
        delta = evaluator.space.decode(
            torch.from_numpy(np.asarray(z, dtype=np.float64)[None]).to(model.device)
        )
    delta = delta.map(lambda tensor: tensor.detach().float().cpu().contiguous())
    return Candidate(model, evaluator.task, _folded(delta, model))


def _folded(delta: Delta, model: FrozenModel) -> Delta:
    """The Delta with what a deep prompt adds at layer 0 in its prompt, and layers that add 0 left out."""
    added = {layer: prompt for layer, prompt in delta.layer_prompt.items() if bool(prompt.any())}
    if delta.prompt is None or set(added) - {0} or (added and not _enters_as_embedded(model)):
        return delta
    return replace(delta, prompt=delta.prompt + added.get(0, 0), layer_prompt={}, first_layer=0)


def _enters_as_embedded(model: FrozenModel) -> bool:
    """Whether what is added to the input embeddings is added to what enters layer 0, no more and no less."""
    import torch

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
    try:
        change = model.hidden_states(ids)[0] - plain
    finally:
        for hook in hooks:
            hook.remove()
    return bool(torch.allclose(change, added.expand_as(change), rtol=1e-3, atol=1e-3))


def _parts(space: Any, z: Array) -> list[tuple[Any, Array]]:
    """The spaces of a product with their parts of z, or the space itself."""
    spaces = getattr(space, "spaces", None)
    if spaces is None:
        return [(space, z)]
    cuts = np.cumsum([part.domain.d for part in spaces])[:-1]
    return list(zip(spaces, np.split(z, cuts), strict=True))
