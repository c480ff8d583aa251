"""Which way of evaluating a model is right: each is compared with plain forward passes, the fastest first."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gfo.core.errors import GfoError, GfoWarning
from gfo.core.images import FIRST
from gfo.models.biased_decoder import BiasedDecoder
from gfo.models.branches import RowLayout
from gfo.models.continued_rows import ContinuedRows
from gfo.models.decoder import Decoder
from gfo.models.encoder import Encoder
from gfo.models.encoder_decoder import EncoderDecoder
from gfo.models.frozen import FrozenModel
from gfo.models.prefix_lm import PrefixLM
from gfo.models.probing import TOKENS
from gfo.models.structure import hooked
from gfo.models.whole_rows import WholeEncoder, WholeRows, cut_at_head

Rows = Sequence[Sequence[int]]


WHOLE = (WholeRows, WholeEncoder)
KEEPING = (
    Decoder,
    BiasedDecoder,
    ContinuedRows,
)  # what they keep of a text must not depend on what stands behind it


class Way(NamedTuple):
    """A way of evaluating a model.

    Attributes:
        model: the class.
        by_ids: whether token ids are given beside embeddings; see `gfo.models.whole_rows`.
        equal_lengths: whether only rows of one length go together.
    """

    model: Any
    by_ids: bool = False
    equal_lengths: bool = False

    def __call__(self, module: Any, tokenizer: Any, name: str) -> FrozenModel:
        """The frozen model."""
        made: FrozenModel = self.model(module, tokenizer, name)
        made.equal_lengths, made.by_ids = self.equal_lengths, self.by_ids
        return made

    @classmethod
    def of(cls, model: FrozenModel) -> Way:
        """That of a frozen model."""
        return cls(type(model), model.by_ids, model.equal_lengths)

    @property
    def cost(self) -> str:
        """What it is and costs, in words."""
        if self.equal_lengths:
            return "in passes of rows of one length, which is exact, but slower where lengths differ"
        if self.model is ContinuedRows:
            return (
                "in rows that continue copies of the text's states, which is exact; but candidates share no "
                "other tokens, so that where all tokens change each step runs all rows of all candidates"
            )
        if self.model is WholeRows:
            return (
                "in whole rows, which is exact; but candidates share no text, so that each step runs all "
                "rows of all candidates"
            )
        return "with its head over all tokens, which is exact, but slower"


def _ways(*models: Any) -> tuple[Way, ...]:
    """All ways of some classes, those for rows of any length first."""
    ways = [Way(model, by_ids) for model in models for by_ids in (False, True)[: 1 + (model in WHOLE)]]
    alike = [way._replace(equal_lengths=True) for way in ways if way.model not in KEEPING]
    return (*ways, *alike)


# kind -> the ways that may be right, the fastest first
WAYS: dict[str, tuple[Way, ...]] = {
    "decoder": _ways(Decoder, BiasedDecoder, ContinuedRows, WholeRows),
    "prefix-lm": _ways(PrefixLM, WholeRows),
    "encoder": _ways(Encoder, WholeEncoder),
    "encoder-decoder": _ways(EncoderDecoder),
}
# names in configs of numbers of tokens on both sides of which a model may differ
THRESHOLD = re.compile(r"window|original_max_position|chunk|block|local|topk_tokens|index_topk|kernel|conv")
WORK = 5e10  # parameters times tokens of the longest row compared when a model is frozen
SHORT, TEXT = 5, 12  # tokens


def chosen(kind: str, module: Any, tokenizer: Any, name: str) -> FrozenModel:
    """The fastest way that gives each row what a plain forward pass gives it.

    Raises:
        GfoError: if there is none.
        GfoWarning: (a warning) if it is none of branches, though the kind has those.
    """
    found: list[str] = []
    for way in WAYS[kind]:
        try:
            model = way(module, tokenizer, name)
            model.check_branches()
            compare(model, _probes(model))
        except Exception as error:  # of any kind: whatever a model raises is a reason
            found.append(_reason(error))
            if way == WAYS[kind][-1]:
                raise _none(name or type(module).__name__, found) from error
            continue
        if found and not model.contexts:
            _warn(model, way, found[0])
        _share_layers(model)
        break
    return model


def unchecked(kind: str, module: Any, tokenizer: Any, name: str) -> FrozenModel:
    """The fastest way that can be built; nothing is compared, then or later.

    Raises:
        GfoError: if there is none.
    """
    *ways, last = WAYS[kind]
    for way in ways:
        with suppress(GfoError):
            model = way(module, tokenizer, name)
            break
    else:
        model = last(module, tokenizer, name)
    model.checks = False
    return model


def exact(model: FrozenModel, rows: Rows) -> FrozenModel:
    """The model, or another way to evaluate it where rows of its own show that this one is not right.

    Args:
        model: a frozen model.
        rows: whole rows of token ids, such as the shortest and the longest.

    Raises:
        GfoError: if none is right.
    """
    if not model.checks:
        return model
    found: list[str] = []
    for way in _from(Way.of(model)):
        try:
            other = way(model.module, model.tokenizer, model.name) if found else model
            compare(other, rows)
        except Exception as error:
            found.append(_reason(error))
            continue
        if found:
            _warn(other, way, found[0])
            other.shares_layers, other.images = model.shares_layers, model.images
        return other
    raise GfoError(
        f"model '{model.name}' ({model.config.model_type}) gives a row other numbers in a pass with others "
        f"than alone: {found[0]}; take another model"
    )


def _from(own: Way) -> tuple[Way, ...]:
    """A way, and those that may be right where it is not, the fastest first."""
    ways = next((ways for ways in WAYS.values() if own in ways), (own,))
    return ways[ways.index(own) :]


@torch.no_grad()
def compare(model: FrozenModel, rows: Rows) -> None:
    """Compare rows in one pass with a plain forward pass each.

    Raises:
        GfoError: if they differ by more than rounding.
    """
    groups: list[Rows] = [[row, _turned(model, row)] for row in rows] if model.equal_lengths else [rows]
    for group in groups:
        model.compare(_together(model, group), torch.stack([_plain(model, row) for row in group]))
        if isinstance(model, ContinuedRows):
            _check_rows(model, group)


def _check_rows(model: ContinuedRows, rows: Rows) -> None:
    """Raise GfoError where a row alone is not what it is as a text with a branch."""
    for row in rows:
        model.check_row(model.embed(torch.tensor(list(row), device=model.device)) * _moved(model))


def _turned(model: FrozenModel, row: Sequence[int]) -> list[int]:
    """Another row of the same length, in which what is read stays in its place."""
    at = _place(model, row)
    rest = [token for i, token in enumerate(row) if i != at][::-1]
    return [*rest[:at], row[at], *rest[at:]]


def _reason(error: Exception) -> str:
    """An error in one line, without the model's name and what to take instead."""
    if isinstance(error, GfoError):
        return re.sub(r"^model('[^']*'| '.*?')?( \(.*?\))?:? |; take .*", "", str(error))
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line[:200]}" if line else type(error).__name__


def _none(name: str, found: list[str]) -> GfoError:
    """That no way is right: what the last one said."""
    return GfoError(f"model '{name}' cannot be evaluated: {found[-1]}; take another model")


def _warn(model: FrozenModel, way: Way, reason: str) -> None:
    """Say once which way is taken, what it costs, and why no faster one."""
    warnings.warn(f"model '{model.name}' runs {way.cost} (why: {reason})", GfoWarning, stacklevel=4)


def _probes(model: FrozenModel) -> list[list[int]]:
    """Two rows of token ids, on both sides of the thresholds that the model's config names."""
    size = sum(p.numel() for p in model.module.parameters())
    most = min(model.context_length - 1, max(2 * TEXT, int(WORK / max(1, size))))
    beyond = _beyond(model, most - SHORT)
    text = model.probe_text.tolist()
    longest = (text * (beyond // len(text) + 2))[: min(most, beyond + SHORT)]
    rows = [text[: min(SHORT, most)], longest]
    if model.read_token is not None:
        for row in rows:
            row[-2] = model.read_token
    return rows


def _beyond(model: FrozenModel, most: int) -> int:
    """The highest of a model's thresholds that is not above a number, or that of texts without any."""
    sides = 2 if model.states else 1  # texts that are kept are to be on both sides, too
    named = (sides * n for n in _thresholds(model.config.to_dict()))
    return max((n for n in named if n <= most), default=TEXT - SHORT)


def _thresholds(config: Any) -> Iterator[int]:
    """Numbers above 0 under names of `THRESHOLD`, however deep."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _thresholds(value)
        elif isinstance(value, int) and value > 0 and THRESHOLD.search(str(name)):
            yield value


@torch.no_grad()
def _share_layers(model: FrozenModel) -> None:
    """See whether a pass can begin at a layer in the middle."""
    middle = model.stacks[0].size // 2
    if len(model.stacks) > 1 or not middle:
        return
    try:
        entry, lie = _laid(model, [model.probe_text.tolist()[:TOKENS]])
        whole = model.branches(None, entry, lie)
        lower = model.branches(None, entry, lie, stop=middle)
        model.compare(model.branches(None, lower, lie, start=middle), whole)
        if isinstance(model, ContinuedRows):
            _compare_layers_behind(model, entry, middle)
        model.shares_layers = lower.shape[:-1] == entry.shape[:-1]  # not several streams
    except Exception:  # of any kind: then all layers run, which is right
        model.shares_layers = False


def _compare_layers_behind(model: ContinuedRows, entry: Tensor, middle: int) -> None:
    """Compare a row [1, 1, T, D] behind the same row as a text with one that goes on in the middle layer."""
    T = entry.shape[2]
    states, _ = model.context(entry[0], torch.tensor([T], device=entry.device))
    column = torch.arange(T, device=entry.device)[None]
    lie = RowLayout(torch.zeros_like(column), column, column[:, -1:])
    whole = model.branches(states, entry, lie)
    lower = model.branches(states, entry, lie, stop=middle)
    model.compare(model.branches(states, lower, lie, start=middle), whole)


def _laid(model: FrozenModel, rows: Rows) -> tuple[Tensor, RowLayout]:
    """Input embeddings and layout: of contexts' branches in one row, of others in padded rows."""
    device = model.device
    lengths = torch.tensor([len(row) for row in rows], device=device)
    if model.contexts:
        return _laid_in_one(model, rows, lengths)
    T = int(lengths.max())
    ids = torch.tensor([[*row, *[0] * (T - len(row))] for row in rows], device=device)
    column = torch.arange(T, device=device).expand(len(rows), -1)
    number = torch.arange(len(rows), device=device)
    branch = torch.where(column < lengths[:, None], number[:, None], -1)
    places = torch.tensor([_place(model, row) for row in rows], device=device)
    return model.embed(ids)[None], RowLayout(branch, column, (number * T + places)[None], ids=ids)


def _laid_in_one(model: FrozenModel, rows: Rows, lengths: Tensor) -> tuple[Tensor, RowLayout]:
    """The same of contexts' branches."""
    device = model.device
    ids = torch.tensor([[token for row in rows for token in row]], device=device)
    branch = torch.arange(len(rows), device=device).repeat_interleave(lengths)[None]
    position = torch.cat([torch.arange(n, device=device) for n in lengths.tolist()])[None]
    return model.embed(ids)[None], RowLayout(branch, position, lengths.cumsum(0)[None] - 1, ids=ids)


def _place(model: FrozenModel, row: Sequence[int]) -> int:
    """Where a row is read."""
    if model.read_token is None or model.read_token not in row:
        return len(row) - 1
    return len(row) - 1 - list(row)[::-1].index(model.read_token)


def _together(model: FrozenModel, rows: Rows) -> Tensor:
    """What is read of rows in one pass: logits of some tokens, or sentences, [rows, ...]."""
    entry, lie = _laid(model, rows)
    moved: Tensor | float = _moved(model)
    if model.images is not None and lie.ids is not None:  # what is moved are words
        moved = torch.where(lie.ids < FIRST, moved, 1.0)[None, ..., None].to(entry)
    hidden = model.branches(None, entry * moved, lie)[0]
    return hidden.float() if model.reads == "sentence" else model.logits(hidden, model.probe_vocabulary)


def _plain(model: FrozenModel, row: Sequence[int]) -> Tensor:
    """The same of one row in a plain forward pass."""
    words, images = (list(row), {}) if model.images is None else model.images.plain(row)
    ids = torch.tensor([words], device=model.device)
    move = model.module.get_input_embeddings().register_forward_hook(lambda _, a, y: y * _moved(model))
    with hooked(move):
        return _read(model, ids, row, images)


def _moved(model: FrozenModel) -> float:
    """What embeddings are multiplied by: no words', as a soft prompt's; 1 where a decoder shares them."""
    return 1.125 if len(model.stacks) == 1 else 1.0


def _read(model: FrozenModel, ids: Tensor, row: Sequence[int], images: Mapping[str, Tensor]) -> Tensor:
    """What is read of token ids [1, T] and images: logits of some tokens, or the sentence."""
    if model.reads == "sentence":
        return model.module(input_ids=ids).last_hidden_state[0].float().mean(dim=0)  # type: ignore[no-any-return]
    two, at = {}, _place(model, row)
    if isinstance(model, EncoderDecoder):
        two = {"decoder_input_ids": torch.tensor([list(model.answer_start)], device=model.device)}
        at = len(model.answer_start) - 1
    with cut_at_head(model.module.get_output_embeddings(), slice(at, at + 1)):
        logits = model.module(input_ids=ids, **two, **images).logits[0]
    return logits[0 if len(logits) == 1 else at, list(model.probe_vocabulary)].float()  # type: ignore[no-any-return]
