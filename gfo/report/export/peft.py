"""Adapters that `PeftModel.from_pretrained` loads: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gfo.core.files import write_whole
from gfo.core.slots import LayerPrompts, LowRank, Prefixes, Prompts, Scales, Slot
from gfo.models.weights import is_transposed
from gfo.report.export.candidate import BEGIN_LORA, Candidate, Exported, cannot, deep_prompt, write_prompt
from gfo.report.export.merged import can_merge
from gfo.report.export.soft_tokens import SoftTokens

if TYPE_CHECKING:
    from types import ModuleType

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "base_model.model."
SEQ_TO_SEQ = "AutoModelForSeq2SeqLM"

Writer = Callable[[Candidate, Path], Exported]
_WRITERS: dict[type[Slot], Writer] = {}


def writes(slot: type[Slot]) -> Callable[[Writer], Writer]:
    """Decorator: the function writes a candidate whose only change is such a slot as an adapter."""

    def register(function: Writer) -> Writer:
        _WRITERS[slot] = function
        return function

    return register


def write_adapter(candidate: Candidate, folder: Path) -> Exported:
    """Write a candidate as one PEFT adapter.

    A soft prompt in front of everything becomes prompt tuning, elsewhere trainable tokens; a prefix prefix
    tuning; low-rank changes LoRA; factors on linear modules IA3.

    Raises:
        GfoError: for a candidate that is not one of these.
    """
    kinds = [type(slot) for slot in candidate.delta.slots]
    if len(kinds) != 1 or kinds[0] not in _WRITERS:
        raise _no_adapter(candidate)
    return _WRITERS[kinds[0]](candidate, folder)


@writes(Prompts)
def _prompt(candidate: Candidate, folder: Path) -> Exported:
    """Prompt tuning (Lester et al. 2021) puts the prompt in front of everything, the start token too.

    PEFT's class for the prompts of encoder-decoders fails with transformers 5 (peft 0.21): tokens do.
    """
    if not candidate.in_front or candidate.auto_class == SEQ_TO_SEQ:
        return _tokens(candidate, folder)
    prompt = candidate.delta.prompt
    assert prompt is not None
    config = _peft().PromptTuningConfig(
        num_virtual_tokens=prompt.shape[1],
        token_dim=prompt.shape[2],
        num_transformer_submodules=1,
        **_common(candidate, prompt=True),
    )
    return _write(candidate, folder, config, {"prompt_embeddings": prompt[0]})


def _tokens(candidate: Candidate, folder: Path) -> Exported:
    """New tokens, of which the adapter has the embeddings, and their tokenizer."""
    soft, model = SoftTokens.of(candidate), candidate.model
    names = model.embedding_names
    for name in names:
        if getattr(model.module.get_submodule(name), "bias", None) is not None:
            raise cannot(
                f"PEFT's added tokens drop the bias of '{name}', which is tied to the embeddings (peft 0.21)",
                "export merged",
            )
    # PEFT finds the modules tied to the input embedding, and wants a copy of the rows for each
    config = _peft().TrainableTokensConfig(token_indices=list(soft.ids), **_common(candidate))
    tensors = {f"{BASE}{name}.trainable_tokens_delta": soft.rows for name in names}
    resize = []
    if soft.vocabulary_size > model.vocabulary_size:
        resize = [f"model.resize_token_embeddings({soft.vocabulary_size}, mean_resizing=False)"]
    written = _write(candidate, folder, config, tensors, soft, resize)
    soft.tokenizer.save_pretrained(folder)
    return written


@writes(Prefixes)
def _prefix(candidate: Candidate, folder: Path) -> Exported:
    """Prefix tuning (Li and Liang 2021): of each token k0, v0, k1, v1, ... of all layers."""
    prefix, L = candidate.delta.prefix, candidate.model.layers
    heads, P, size = _prefix_shape(prefix, L)
    flat = [tensor[0].transpose(0, 1).reshape(P, -1) for layer in range(L) for tensor in prefix[layer]]
    config = _peft().PrefixTuningConfig(
        num_virtual_tokens=P,
        num_layers=L,
        token_dim=heads * size,
        num_attention_heads=heads,
        num_transformer_submodules=1,
        **_common(candidate, prompt=True),
    )
    return _write(candidate, folder, config, {"prompt_embeddings": torch.cat(flat, dim=1)})


def _prefix_shape(prefix: Mapping[int, tuple[Tensor, Tensor]], L: int) -> tuple[int, int, int]:
    """Heads, tokens and a head's size, which must be the same in all L layers."""
    missing = [layer for layer in range(L) if layer not in prefix]
    if missing:
        raise cannot(
            f"PEFT's prefix has keys and values in all {L} layers, this one none in layer {missing[0]}",
            "search Prefix with layers=None; LoRASubspace of chosen layers can be exported",
        )
    shapes = {tuple(tensor.shape) for pair in prefix.values() for tensor in pair}
    if len(shapes) > 1:
        raise cannot("PEFT's prefix wants heads of one size in all layers", "take SoftPrompt or LoRASubspace")
    _, heads, P, size = shapes.pop()
    return heads, P, size


@writes(LowRank)
def _lora(candidate: Candidate, folder: Path) -> Exported:
    """Plain LoRA with alpha = r; smaller ranks are filled up with zeros, which every loader understands.

    Where the change begins at a place it is activated LoRA (Greenewald et al. 2025, arXiv:2504.12397), which
    begins at the last time that a text has the tokens that stand behind the place.
    """
    lora = candidate.delta.lora
    activated = {"alora_invocation_tokens": candidate.invocation} if candidate.begins else {}
    rank = max(int(A.shape[1]) for A, _ in lora.values())
    tensors = {}
    for name, (A, B) in lora.items():
        more = rank - A.shape[1]
        tensors[f"{BASE}{name}.lora_A.weight"] = torch.nn.functional.pad(A[0], (0, 0, 0, more))
        tensors[f"{BASE}{name}.lora_B.weight"] = torch.nn.functional.pad(B[0], (0, more))
    config = _peft().LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted(lora),
        fan_in_fan_out=_conv(candidate, lora),
        **activated,
        **_common(candidate),
    )
    return _write(candidate, folder, config, tensors)


@writes(Scales)
def _ia3(candidate: Candidate, folder: Path) -> Exported:
    """IA3 (Liu et al. 2022) with factors on outputs alone: PEFT's feed-forward modules scale their inputs."""
    scale = candidate.delta.scale
    if candidate.begins:
        raise cannot("PEFT's IA3 changes all tokens, this those from a place on", BEGIN_LORA)
    other = [name for name in scale if name not in candidate.model.linears]
    if other:
        raise cannot(f"PEFT has no factors on norms, as on '{other[0]}'", "export merged")
    config = _peft().IA3Config(
        target_modules=sorted(scale),
        feedforward_modules=[],
        fan_in_fan_out=_conv(candidate, scale),
        **_common(candidate),
    )
    tensors = {f"{BASE}{name}.ia3_l": factor[0][:, None] for name, factor in scale.items()}
    return _write(candidate, folder, config, tensors)


def _no_adapter(candidate: Candidate) -> Exception:
    """Why these changes are no PEFT adapter, and what can be done."""
    slots = candidate.slots
    if LayerPrompts in candidate.delta.by_class:
        return deep_prompt("an adapter of PEFT")
    usual = "search a SoftPrompt, Prefix (of all layers), LoRASubspace or Scaling to export peft"
    remedy = f"export merged, or {usual}" if can_merge(candidate.delta) else usual
    if len(slots) > 1:
        return cannot(f"an adapter of PEFT holds one kind of change, this has {' and '.join(slots)}", remedy)
    return cannot(f"PEFT has no adapter for {slots[0]}", remedy)


def _conv(candidate: Candidate, names: Mapping[str, Any]) -> bool:
    """Whether the modules' weights are [in, out]."""
    return all(is_transposed(candidate.model.module.get_submodule(name)) for name in names)


def _common(candidate: Candidate, *, prompt: bool = False) -> dict[str, Any]:
    """What all configs have. Without a task type PEFT has no place for the prompts of an encoder."""
    other = "FEATURE_EXTRACTION" if prompt else None
    return {
        "task_type": "CAUSAL_LM" if candidate.model.causal else other,
        "inference_mode": True,
        "base_model_name_or_path": candidate.base or None,
    }


def _write(
    candidate: Candidate,
    folder: Path,
    config: Any,
    tensors: Mapping[str, Tensor],
    soft: SoftTokens | None = None,
    resize: list[str] | None = None,
) -> Exported:
    """Write config and weights as PEFT's `save_pretrained` does, sets of names sorted."""
    from safetensors.torch import save_file

    values = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
    write_whole(folder / CONFIG, json.dumps(values, indent=2, sort_keys=True) + "\n")
    copies = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(copies, folder / WEIGHTS, metadata={"format": "pt"})
    note = None if soft is None else soft.note
    write_prompt(candidate, folder, () if soft is None else soft.texts, note)
    load = _load_lines(candidate, folder, resize or [])
    if soft is not None:
        load.append(f"tokenizer = transformers.AutoTokenizer.from_pretrained({str(folder)!r})")
    return Exported(folder, tuple(load), () if note is None else (note,))


def _load_lines(candidate: Candidate, folder: Path, resize: list[str]) -> list[str]:
    """The lines of Python that load the model with the adapter."""
    auto, base = candidate.auto_class, candidate.base or "the model's folder"
    return [
        f"import peft, transformers; model = transformers.{auto}.from_pretrained({base!r})",
        *resize,
        f"model = peft.PeftModel.from_pretrained(model, {str(folder)!r})",
    ]


def _peft() -> ModuleType:
    """PEFT, which takes seconds to import, and warns of transformers' flags as it does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        import peft
    return peft  # type: ignore[no-any-return]
