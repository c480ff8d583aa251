"""A folder of the whole model with the changes in its weights, which any program loads as it loads the model.

The frozen model is not touched: a copy shares all tensors but those that change.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gfo.core.bank import Bank
from gfo.core.delta import Delta
from gfo.core.errors import GfoError
from gfo.core.slots import Banks, Biases, InputScales, LayerPrompts, LowRank, Prefixes, Prompts, Scales, Slot
from gfo.core.sub_blocks import Gates, SubBlock
from gfo.models.loading import no_progress_bars
from gfo.models.weights import linear_sizes, put_plain_linears, quantized_linears, weight_of
from gfo.report.export.candidate import BEGIN_LORA, Candidate, Exported, cannot, deep_prompt, write_prompt
from gfo.report.export.closed import (
    closed_in,
    is_same,
    notes_on,
    put_zeros,
    remove_layers,
    whole_layers,
    write_structure,
)
from gfo.report.export.cut import Smaller, cut_parts, notes_on_cuts, smaller
from gfo.report.export.recipe import write_recipe
from gfo.report.export.soft_tokens import SoftTokens
from gfo.spaces.merge import Merge

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel

GAIN_OFFSETS = (0.0, 1.0)  # a norm multiplies by its weight, or (Gemma) by 1 + its weight


@dataclass
class Linear:
    """A linear module that takes changes up, in float32.

    Attributes:
        weight: W [out, in].
        bias: b [out], or None.
    """

    weight: Tensor
    bias: Tensor | None


Step = Callable[..., None]
_MERGES: dict[type[Slot], Step] = {}


def merges(slot: type[Slot]) -> Callable[[Step], Step]:
    """Decorator: the function writes a slot into a linear module, from its tensors of one candidate.

    Slots are written in the order of the functions, which is that of `gfo.models.apply`.
    """

    def register(function: Step) -> Step:
        _MERGES[slot] = function
        return function

    return register


@merges(Banks)
def _choose(to: Linear, shares: Tensor, bank: Bank) -> None:
    to.weight = bank.mixed(shares).to(to.weight)


@merges(LowRank)
def _add_product(to: Linear, A: Tensor, B: Tensor) -> None:
    to.weight = to.weight + B @ A


@merges(Scales)
def _multiply(to: Linear, scale: Tensor) -> None:
    to.weight = to.weight * scale[:, None]
    to.bias = None if to.bias is None else to.bias * scale


@merges(Biases)
def _add(to: Linear, added: Tensor) -> None:
    assert to.bias is not None  # see `_check_biases`
    to.bias = to.bias + added


@merges(InputScales)
def _multiply_columns(to: Linear, scale: Tensor) -> None:  # of all that the input enters: last
    to.weight = to.weight * scale


def can_merge(delta: Delta) -> bool:
    """Whether weights of a model, and new tokens, can hold all of the changes."""
    return all(_is_merged(slot) for slot in delta.slots)


def _is_merged(slot: Slot) -> bool:
    return type(slot) in _MERGES or isinstance(slot, Prompts | Gates)


def write_merged(candidate: Candidate, folder: Path) -> Exported:
    """Write the changed model with its tokenizer; a soft prompt becomes new tokens.

    Low-rank changes, factors and additions go into weights and biases. Layers with both sub-blocks closed are
    left out, other closed ones are zeros. New tokens are suppressed in generation.

    Raises:
        GfoError: for a change that no weight of the model holds.
    """
    model, delta = candidate.model, candidate.delta
    _check(candidate)
    soft = None if delta.prompt is None else SoftTokens.of(candidate)
    if delta.gate or delta.input_scale:
        twin, closing = _write_closed(candidate, soft, folder)
    else:
        twin, closing = _merged(candidate, soft), []
        with no_progress_bars():
            _save(twin, folder)
        if isinstance(candidate.space, Merge):
            closing = _checked_recipe(candidate, candidate.space, type(twin), folder)
    _save(_reader(model, model.tokenizer if soft is None else soft.tokenizer), folder)
    notes = _notes(model, soft) + closing
    write_prompt(candidate, folder, () if soft is None else soft.texts, "; ".join(notes) or None)
    load = (
        f"import transformers; model = transformers.{type(twin).__name__}.from_pretrained({str(folder)!r})",
        f"tokenizer = transformers.AutoTokenizer.from_pretrained({str(folder)!r})",
    )
    return Exported(folder, load, tuple(notes))


def _write_closed(candidate: Candidate, soft: SoftTokens | None, folder: Path) -> tuple[Any, list[str]]:
    """Write a model with closed parts, without whole layers, heads and neurons if its config can say so.

    Returns:
        The copy that was written, and what to mind.
    """
    model, closed = candidate.model, closed_in(candidate.delta)
    parts = cut_parts(candidate.delta, model)
    for removed, left_out in _ways(model, parts, closed):
        twin = _closed(candidate, soft, closed, removed, left_out)
        if _is_saved(twin, folder) and _is_loaded_as(candidate, type(twin), folder):
            write_structure(folder, closed, removed, parts, left_out)
            there = {place: kept for place, kept in parts.items() if place.layer not in removed}
            return twin, notes_on(closed, removed, left_out) + notes_on_cuts(there, left_out)
        for file in folder.iterdir():
            file.unlink()
    raise cannot(
        f"what transformers loads is not '{model.name}' with these sub-blocks closed", "take another model"
    )


def _closed(
    candidate: Candidate,
    soft: SoftTokens | None,
    closed: Sequence[SubBlock],
    removed: list[int],
    left_out: Smaller,
) -> Any:
    """The changed model, with zeros in closed sub-blocks, and without some layers, heads and neurons."""
    model, twin = candidate.model, _merged(candidate, soft)
    put_zeros(twin, model, [place for place in closed if place.layer not in removed])
    left_out.put(twin, model)
    if removed:
        remove_layers(twin, model, removed)
    return twin


def _checked_recipe(candidate: Candidate, space: Merge, kind: Any, folder: Path) -> list[str]:
    """Compare what transformers loads with the merge, and write its recipe; what to mind of that."""
    if not _is_loaded_as(candidate, kind, folder):
        raise cannot(
            f"what transformers loads is not '{candidate.model.name}' with these weights merged",
            "load the model in float32",
        )
    return write_recipe(candidate, space, folder)


def _ways(
    model: FrozenModel, parts: Mapping[SubBlock, Tensor], closed: Sequence[SubBlock]
) -> Iterator[tuple[list[int], Smaller]]:
    """Layers that may be left out, and heads and neurons, from the smallest folder to the largest."""
    layers = whole_layers(closed, model.layers)
    for removed in (layers, []) if layers else ([],):
        for left_out in smaller(model, parts, closed, removed):
            yield removed, left_out


def _is_saved(twin: Any, folder: Path) -> bool:
    """Whether transformers writes a copy, whose config may be of numbers that its family does not have."""
    try:
        with no_progress_bars():
            _save(twin, folder)
    except GfoError:
        return False
    return True


def _is_loaded_as(candidate: Candidate, kind: Any, folder: Path) -> bool:
    """Whether transformers loads what was written, and it is the candidate."""
    try:
        with no_progress_bars():
            module = kind.from_pretrained(folder, dtype=candidate.model.dtype)
        return is_same(module, candidate.model, candidate.delta)
    except Exception:  # of any kind: a config that has no such number of layers
        return False


def _save(thing: Any, folder: Path) -> None:
    """Write a model or a tokenizer, where transformers can.

    Raises:
        GfoError: for whatever it raises but that a file cannot be written.
    """
    try:
        thing.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:  # of all classes
        reason = " ".join(str(error).split())
        raise GfoError(
            f"export: transformers cannot save this {type(thing).__name__} ({reason}); mend its config"
        ) from error


def _reader(model: FrozenModel, tokenizer: Any) -> Any:
    """What turns rows into tokens: the tokenizer, or, for rows with images, the processor with it."""
    if model.images is None:
        return tokenizer
    processor = copy.copy(model.images.processor)
    processor.tokenizer = tokenizer
    return processor


def _notes(model: FrozenModel, soft: SoftTokens | None) -> list[str]:
    """What to mind of the folder."""
    notes = [] if soft is None or soft.note is None else [soft.note]
    notes += _notes_on_quantized(model)
    if model.dtype != torch.float32:
        notes.append(f"changes are rounded with the weights to {model.dtype}; small ones may get lost")
    return notes


def _merged(candidate: Candidate, soft: SoftTokens | None) -> Any:
    """The changed model; it shares with the frozen one what is the same in both."""
    model, delta = candidate.model, candidate.delta
    own = _changed(model, delta, tokens=soft is not None)
    twin = copy.deepcopy(model.module, {id(t): t for t in _tensors(model.module) if id(t) not in own})
    with torch.no_grad():
        put_plain_linears(twin, model.dtype)
        for name in sorted(delta.modules):
            _merge(twin.get_submodule(name), name, delta)
        if soft is not None:
            _put_rows(twin, soft, model.vocabulary_size)
    return twin


def _changed(model: FrozenModel, delta: Delta, *, tokens: bool) -> set[int]:
    """Ids of the tensors that differ in the copy; with new tokens those of the vocabulary's size, too."""
    own = {id(p) for name in delta.modules for p in model.module.get_submodule(name).parameters()}
    if tokens:
        V = model.vocabulary_size
        own |= {id(t) for t in _tensors(model.module) if V in (t.shape[0], t.shape[-1])}
    return own


def _notes_on_quantized(model: FrozenModel) -> list[str]:
    """What becomes of quantized weights, which hold no change of this fineness."""
    parts = quantized_linears(model.module)
    if not parts:
        return []
    notes = [f"the weights of {len(parts)} quantized modules are written as {model.dtype}"]
    if model.rounds_inputs:
        notes.append("they round their inputs too, and the folder's do not: its logits differ a little")
    return notes


def _tensors(module: nn.Module) -> list[Tensor]:
    """All parameters, and buffers that are no single numbers."""
    return [t for t in (*module.parameters(), *module.buffers()) if t.ndim]


def _check(candidate: Candidate) -> None:
    """Raise GfoError for a change that has no place in the weights."""
    if candidate.begins:
        raise cannot(f"weights change all tokens, this those from {candidate.begins} on", BEGIN_LORA)
    other = [slot for slot in candidate.delta.slots if not _is_merged(slot)]
    if LayerPrompts in map(type, other):
        raise deep_prompt("the weights of a model")
    if other:
        alone = list(map(type, candidate.delta.slots)) == [Prefixes]
        remedy = "export peft" if alone else "search LoRASubspace or Scaling"
        raise cannot(f"no weight of a model holds the {other[0].name}", remedy)
    _check_biases(candidate)


def _check_biases(candidate: Candidate) -> None:
    """Raise GfoError for an addition to a module without a bias."""
    module = candidate.model.module

    def has_bias(name: str) -> bool:
        return getattr(module.get_submodule(name), "bias", None) is not None

    bare = [name for name in candidate.delta.bias if not has_bias(name)]
    if bare:
        ends = sorted({n.rsplit(".", 1)[-1] for n in candidate.model.linears if has_bias(n)})
        can = f"targets with a bias, such as {', '.join(ends)}," if ends else "LoRASubspace and Scaling"
        raise cannot(f"'{bare[0]}' has no bias to hold what is added to it", f"{can} can be exported")


def _merge(part: Any, name: str, delta: Delta) -> None:
    """Write a candidate's changes into a module of the copy, rounding once."""
    todo = list(_todo(name, delta))
    if linear_sizes(part) is not None:
        _merge_linear(part, name, todo)
    elif [type(slot) for _, slot in todo] == [Scales]:
        _scale_norm(part, name, delta.scale[name][0].to(part.weight.device))
    else:
        raise cannot(f"'{name}' is no linear module", "LoRASubspace and Scaling can be exported")


def _todo(name: str, delta: Delta) -> Iterator[tuple[Step, Slot]]:
    """The slots that change a module, in their order, with what writes them."""
    for kind, merge in _MERGES.items():
        slot = delta.by_class.get(kind)
        if slot is not None and name in slot.at:
            yield merge, slot


def _merge_linear(part: Any, name: str, todo: Sequence[tuple[Step, Slot]]) -> None:
    """Write slots into a linear module, one after the other."""
    weight = weight_of(part)
    linear = Linear(weight.float(), None if part.bias is None else part.bias.float())
    for merge, slot in todo:
        value = slot.at[name]
        tensors = value if isinstance(value, tuple) else (value,)
        merge(linear, *(t[0].to(weight.device) if isinstance(t, Tensor) else t for t in tensors))
    weight.copy_(linear.weight)  # a view, where it is transposed
    if linear.bias is not None:
        part.bias.copy_(linear.bias)


def _scale_norm(part: Any, name: str, scale: Tensor) -> None:
    """Multiply a norm's gain, whatever it means by its weight, and its bias."""
    dtype = part.weight.dtype
    x = torch.linspace(-1, 2, 4 * len(scale), device=scale.device, dtype=dtype).view(4, -1).sin()
    wanted, before = part(x).float() * scale, part.weight.float().clone()
    if getattr(part, "bias", None) is not None:
        part.bias.copy_(part.bias.float() * scale)
    for offset in GAIN_OFFSETS:
        part.weight.copy_(scale * (before + offset) - offset)
        error = (part(x).float() - wanted).abs().max() / wanted.abs().max()
        if float(error) <= 8 * torch.finfo(dtype).eps:
            return
    raise cannot(
        f"the gain of '{name}' is no plain weight",
        "LoRASubspace and Scaling with method = 'ia3' can be",
    )


def _put_rows(twin: Any, soft: SoftTokens, V: int) -> None:
    """Give the copy the tokens' embeddings, and keep it from saying them.

    Where the head is a matrix of its own, new tokens get the mean of its rows: their logits are the mean of
    all and never the highest. Where it is tied to the embeddings, `suppress_tokens` alone keeps them out.
    """
    own_head = _has_own_head(twin)
    if soft.vocabulary_size > V:
        twin.resize_token_embeddings(soft.vocabulary_size, mean_resizing=False)
    embedding, ids = twin.get_input_embeddings().weight, list(soft.ids)
    embedding[ids] = soft.rows.to(embedding)
    if own_head:
        _put_mean_logits(twin.get_output_embeddings(), ids, V)
    generation = getattr(twin, "generation_config", None)
    if generation is not None:
        generation.suppress_tokens = [*(generation.suppress_tokens or []), *ids]


def _has_own_head(twin: Any) -> bool:
    """Whether a model has a head, and another matrix in it than that of its embeddings."""
    head = twin.get_output_embeddings()
    return head is not None and head.weight is not twin.get_input_embeddings().weight


def _put_mean_logits(head: Any, ids: list[int], V: int) -> None:
    """Give tokens the mean of a head's first V rows."""
    head.weight[ids] = head.weight[:V].float().mean(0).to(head.weight)
    if getattr(head, "bias", None) is not None:
        head.bias[ids] = head.bias[:V].float().mean().to(head.bias)
