"""Adapters in PEFT's files, read without PEFT: what they hold, checked against the model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from gfo.core.errors import GfoError
from gfo.core.reading import parse_json, read_text
from gfo.spaces.parts.targets import HasLinears, linears_of
from gfo.spaces.parts.words import Embeds

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "base_model.model."
OWN_MODEL = "give the model that the adapter was made for"
TOKENS = ".trainable_tokens_delta"
ALL_LINEAR = "all-linear"
# What a config may say without making the adapter anything else than is read here, whatever the value is.
_ALL = (
    "peft_type task_type auto_mapping peft_version base_model_name_or_path revision inference_mode "
    "target_modules "
)
_PROMPTS = (
    "num_virtual_tokens token_dim num_transformer_submodules num_attention_heads num_layers "
    "prompt_tuning_init prompt_tuning_init_text tokenizer_name_or_path tokenizer_kwargs token_indices "
    "init_weights"
)
_LORA = (
    "r lora_alpha exclude_modules layers_to_transform layers_pattern rank_pattern alpha_pattern use_rslora "
    "lora_dropout fan_in_fan_out bias init_lora_weights megatron_core qalora_group_size "
    "alora_invocation_tokens"
)
HARMLESS = {
    "LORA": frozenset((_ALL + _LORA).split()),
    "PROMPT_TUNING": frozenset((_ALL + _PROMPTS).split()),
    "TRAINABLE_TOKENS": frozenset((_ALL + _PROMPTS).split()),
}
# Its numbers, their patterns for modules of their own, and their types, of which a truth value is none.
NUMBERS = (("r", "rank_pattern", (int,)), ("lora_alpha", "alpha_pattern", (int, float)))
FLAGS = (None, True, False)
# Starts of LoRA that leave the weights below as they are; PEFT changes those of others as it loads them.
STARTS = (None, True, False, "gaussian", "eva", "orthogonal")


@runtime_checkable
class HasEmbeddings(Embeds, Protocol):
    """What a prompt's file needs of a model."""

    @property
    def embedding_scale(self) -> float: ...


def read_prompt(folder: str | Path, model: HasEmbeddings) -> Tensor:
    """The soft prompt [P, D] of a prompt-tuning adapter, or of one of trainable tokens in their order.

    It is float32 in the space of the model's input embeddings.

    Raises:
        GfoError: for a folder without an adapter, another kind of adapter, missing or extra keys, or
            prompts of another width.
    """
    config, tensors = _read(folder)
    kind = str(config.get("peft_type"))
    if kind not in PROMPTS:
        raise _other_kind(folder, kind, "prompt tuning or trainable tokens")
    _check_known(folder, config)
    P, prompt = PROMPTS[kind](folder, config, tensors, model)
    if tuple(prompt.shape) != (P, model.hidden_size) or not P:
        raise GfoError(
            f"from_peft = {folder}: its prompt is {tuple(prompt.shape)}, the model wants "
            f"{(P, model.hidden_size)}; {OWN_MODEL}"
        )
    return prompt.float().to(model.device)


def _tuned(
    folder: str | Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], model: HasEmbeddings
) -> tuple[int | None, Tensor]:
    """P, and the prompt of prompt tuning."""
    P = config.get("num_virtual_tokens")
    _check_keys(folder, tensors, ["prompt_embeddings"])
    return P, tensors["prompt_embeddings"][:P]  # behind them a decoder's, which PEFT does not use


def _trained(
    folder: str | Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], model: HasEmbeddings
) -> tuple[int | None, Tensor]:
    """P, and the prompt of trainable tokens."""
    rows = _token_rows(folder, tensors).float()
    return len(config.get("token_indices") or ()), rows * model.embedding_scale


PROMPTS = {"PROMPT_TUNING": _tuned, "TRAINABLE_TOKENS": _trained}
"""Kind of adapter -> how a prompt is read from it."""


def _token_rows(folder: str | Path, tensors: Mapping[str, Tensor]) -> Tensor:
    """The rows of trainable tokens [P, D], of which each module that is tied to the embeddings has a copy."""
    import torch

    keys = sorted(key for key in tensors if key.endswith(TOKENS))
    _check_keys(folder, tensors, keys or [f"{BASE}...{TOKENS}"])
    rows = [tensors[key] for key in keys]
    if not all(torch.equal(row, rows[0]) for row in rows):
        raise GfoError(f"from_peft = {folder}: the tokens' rows differ between {keys[0]} and others")
    return rows[0]


def read_lora(
    folder: str | Path, model: HasLinears
) -> tuple[dict[str, tuple[Tensor, Tensor]], tuple[int, ...]]:
    """A LoRA adapter: module -> A [r, in] and B [out, r], and the tokens from which on it acts, if it does.

    Its scaling is in B. Float32, in the model's order.

    Raises:
        GfoError: for a folder without an adapter, another kind of adapter or LoRA, missing or extra keys,
            modules that the model lacks, or other shapes.
    """
    config, tensors = _read(folder)
    _check_lora(folder, config)
    found = _changed_modules(folder, config, tensors, model)
    lora = {name: _of_one_module(folder, config, tensors, model, name) for name in found}
    return lora, _invocation(folder, config.get("alora_invocation_tokens"))


def _invocation(folder: str | Path, tokens: Any) -> tuple[int, ...]:
    """The tokens from which on an activated adapter acts; none for a plain one."""
    if tokens is None:
        return ()
    if not _are_tokens(tokens):
        raise _strange(folder, "alora_invocation_tokens", tokens)
    return tuple(tokens)


def _are_tokens(tokens: Any) -> bool:
    """Whether it is a list of tokens' numbers, of one at least."""
    return isinstance(tokens, list) and tokens != [] and all(type(t) is int and t >= 0 for t in tokens)


def _check_lora(folder: str | Path, config: Mapping[str, Any]) -> None:
    """Raise GfoError for a config of something else than plain LoRA."""
    if config.get("peft_type") != "LORA":
        raise _other_kind(folder, str(config.get("peft_type")), "LoRA")
    _check_known(folder, config)
    _check_scaling(folder, config)
    for name, known in (("bias", (None, "none")), ("init_lora_weights", STARTS), ("use_rslora", FLAGS)):
        if config.get(name) not in known:
            raise _strange(folder, name, config.get(name))


def _check_scaling(folder: str | Path, config: Mapping[str, Any]) -> None:
    """Raise GfoError for ranks and alphas, or patterns of them, that are no numbers above 0."""
    for name, pattern, kinds in NUMBERS:
        values = config.get(pattern) or {}
        if not isinstance(values, dict):
            raise _strange(folder, pattern, values)
        _check_numbers(folder, name, {name: config.get(name)}, kinds)
        _check_numbers(folder, name, values, kinds)


def _check_numbers(folder: str | Path, name: str, values: Mapping[str, Any], kinds: tuple[type, ...]) -> None:
    """Raise GfoError for a value that is no number of these types above 0."""
    for key, value in values.items():
        if type(value) not in kinds or not 0 < value < math.inf:
            raise _no_number(folder, name, f"{key} = {value!r}")


def _check_known(folder: str | Path, config: Mapping[str, Any]) -> None:
    """Raise GfoError for what is set and not known to be harmless."""
    known = HARMLESS[config["peft_type"]]
    strange = [name for name, value in config.items() if value and name not in known]
    if strange:
        raise _strange(folder, strange[0], config[strange[0]])


def _no_number(folder: str | Path, name: str, found: str) -> GfoError:
    return GfoError(
        f"from_peft = {folder}: {CONFIG} has no number {name} above 0 ({found}); save the adapter anew with "
        "PEFT"
    )


def _strange(folder: str | Path, name: str, value: Any) -> GfoError:
    return GfoError(
        f"from_peft = {folder}: it has {name} = {value!r}, which a plain adapter of its kind has not; merge "
        "it into the model (gfo.load_model does)"
    )


def _changed_modules(
    folder: str | Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], model: HasLinears
) -> list[str]:
    """The modules that the adapter changes, in the model's order; GfoError for missing or extra keys."""
    found = _modules_in(folder, tensors, model)
    wanted = sorted({*found, *_targets(folder, config, model)})
    _check_keys(folder, tensors, [f"{BASE}{name}.lora_{x}.weight" for name in wanted for x in "AB"])
    if not wanted:
        raise GfoError(f"from_peft = {folder}: it changes no module; give another")
    return [name for name in linears_of(model) if name in found]


def _modules_in(folder: str | Path, tensors: Mapping[str, Tensor], model: HasLinears) -> set[str]:
    """The modules that there are matrices of; GfoError for one that the model lacks."""
    found = {key.rsplit(".lora_", 1)[0].removeprefix(BASE) for key in tensors if ".lora_" in key}
    unknown = sorted(found.difference(linears_of(model)))
    if unknown:
        raise GfoError(
            f"from_peft = {folder}: '{unknown[0]}' is no linear module in the model's layers; {OWN_MODEL}"
        )
    return found


def _of_one_module(
    folder: str | Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    model: HasLinears,
    name: str,
) -> tuple[Tensor, Tensor]:
    """A [r, in] and B [out, r] of a module, its scaling in B; float32, where the model is."""
    A, B = (tensors[f"{BASE}{name}.lora_{x}.weight"].float() for x in "AB")
    info, r = linears_of(model)[name], _of_module(config, "rank_pattern", name, config["r"])
    expected = (r, info.in_features), (info.out_features, r)
    if (tuple(A.shape), tuple(B.shape)) != expected:
        raise GfoError(
            f"from_peft = {folder}: A and B of '{name}' are {tuple(A.shape)} and {tuple(B.shape)}, the "
            f"model wants {expected[0]} and {expected[1]}; {OWN_MODEL}"
        )
    alpha = _of_module(config, "alpha_pattern", name, config["lora_alpha"])
    scaling = alpha / math.sqrt(r) if config.get("use_rslora") else alpha / r
    return A.to(model.device), scaling * B.to(model.device)


def _targets(folder: str | Path, config: Mapping[str, Any], model: HasLinears) -> list[str]:
    """The modules in the layers that PEFT changes by this config, where the config names them alone."""
    targets = config.get("target_modules")
    narrowed = config.get("layers_to_transform") is not None or config.get("exclude_modules")
    return [] if not targets or narrowed else _targeted(folder, targets, model)


def _targeted(folder: str | Path, targets: Any, model: HasLinears) -> list[str]:
    """The modules in the layers that targets mean: all, those of a pattern, or those of some ends."""
    if targets == ALL_LINEAR:
        return list(model.linears)
    if isinstance(targets, str):
        return _matching(folder, targets, model)
    return [name for name in model.linears if f".{name}".endswith(tuple(f".{end}" for end in targets))]


def _matching(folder: str | Path, pattern: str, model: HasLinears) -> list[str]:
    """The modules whose whole name matches."""
    try:
        return [name for name in model.linears if re.fullmatch(pattern, name)]
    except re.error as error:
        raise GfoError(f"from_peft = {folder}: target_modules = {pattern!r} is no pattern: {error}") from None


def _of_module(config: Mapping[str, Any], key: str, name: str, usual: float) -> Any:
    """A module's own rank or alpha: the first pattern that its name ends with, or the usual one."""
    patterns = (config.get(key) or {}).items()
    return next((value for p, value in patterns if re.match(rf"(.*\.)?({p})$", name)), usual)


def _read(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the tensors of an adapter."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        config: dict[str, Any] = parse_json(read_text(folder / CONFIG, "config"), CONFIG, "mend it")
        config.get("peft_type")
        return config, load_file(folder / WEIGHTS)
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        raise GfoError(
            f"from_peft = {folder}: no adapter can be read ({error}); give a folder with {CONFIG} and "
            f"{WEIGHTS}"
        ) from None


def _check_keys(folder: str | Path, tensors: Mapping[str, Tensor], wanted: Sequence[str]) -> None:
    """Raise GfoError for missing or extra keys, which PEFT passes over."""
    missing = sorted(set(wanted) - set(tensors))
    extra = sorted(set(tensors) - set(wanted))
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"has {extra[0]}, which means nothing here"
        raise GfoError(f"from_peft = {folder}: {WEIGHTS} {what}; save the adapter anew with PEFT")


def _other_kind(folder: str | Path, kind: str, wanted: str) -> GfoError:
    return GfoError(
        f"from_peft = {folder}: it is of the kind {kind}, not {wanted}; give the space that it fits"
    )
