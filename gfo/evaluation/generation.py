"""Answers of K candidates to B examples, token by token, many at once.

Contexts are those of `gfo.evaluation.layouts`, and all layers run: what lower layers would share is a
small part of the work here. A chunk's sequences, one a candidate and example, begin side by side with
sequences of like length, and then take a token each a step until all are done.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from gfo.core.delta import Delta
from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.protocols import Decoding, Tokens
from gfo.core.seeding import stream
from gfo.evaluation.chunks import Chunk, Room, answers_to, each_sample, kept, of_modules
from gfo.evaluation.joining import parts
from gfo.evaluation.layouts import ByCandidate, ByExample
from gfo.evaluation.memory import kept_bytes
from gfo.evaluation.plan import picked, tiles
from gfo.evaluation.rows import TokenRows
from gfo.evaluation.shape import Meter, Shape
from gfo.models.apply import Change
from gfo.models.branches import Context
from gfo.models.continued_rows import ContinuedRows, States
from gfo.models.decoder import Decoder
from gfo.models.decoding import AnswerSequences, DecoderSequences
from gfo.models.encoder_decoder import EncoderDecoder
from gfo.models.frozen import FrozenModel
from gfo.models.whole_rows import WholeRows, WholeSequences

LOOK_EVERY = 8  # tokens between two looks at what a device has written: each makes the host wait for it
SHRINK = 7 / 8  # sequences are dropped when so many or fewer are left: it copies the others' keys and values
LOGITS_AT_ONCE = 2**24  # numbers

Sequences = DecoderSequences | AnswerSequences | WholeSequences


def shape_of(model: FrozenModel, shape: Shape) -> Shape:
    """The shape with which a layout serves generation: of an encoder's output it may keep what is shared."""
    if isinstance(model, EncoderDecoder) and shape.first_layer >= model.encoder_layers:
        return replace(shape, first_layer=model.encoder_layers)
    return shape.whole()


def begins_with_states(model: FrozenModel) -> bool:
    """Whether answers can be written behind copies of the states of texts."""
    return isinstance(model, ContinuedRows) and model.grows


def check_length(model: FrozenModel, decoding: Decoding, length: int, name: str) -> None:
    """Raise GfoError for a model that generates nothing, or a row that leaves too little room for an answer.

    Args:
        model: a frozen model.
        decoding: how long answers may be.
        length: the row's tokens.
        name: the row, in words.
    """
    most, new = model.context_length, decoding.max_tokens
    if not model.generates:
        raise GfoError(
            f"task: it wants generated text, but '{model.name}' is an encoder; take a decoder or an "
            "encoder-decoder"
        )
    if isinstance(model, EncoderDecoder):
        if len(model.answer_start) + new > most:
            raise GfoError(
                f"max_tokens = {new} must be at most {most - len(model.answer_start)} for this model"
            )
    elif length <= most < length + new:
        raise GfoError(
            f"{name} has {length} tokens with template and soft prompt and takes {new} new ones, the model's "
            f"context has {most}; shorten or drop the row, or lower max_tokens"
        )


class AnswerWriter:
    """Writes the answers to one batch.

    Args:
        layout: the batch, laid out for a decoder or encoder-decoder with the shape that `shape_of` gives.
        decoding: how tokens are chosen.
        room: how much at once.
        meter: counts tokens.
    """

    def __init__(self, layout: ByExample | ByCandidate, decoding: Decoding, room: Room, meter: Meter) -> None:
        self._model: FrozenModel = layout.model
        self._layout, self._branches, self._shape = layout, layout.branches, layout.shape
        self._decoding, self._room, self._meter = decoding, room, meter
        self._stop = torch.tensor(sorted(decoding.stop), dtype=torch.long, device=layout.model.device)

    @torch.no_grad()
    def __call__(self, delta: Delta) -> list[list[Tokens] | None]:
        """Per candidate the answers to the B examples, all samples of one and then of the next, or None where
        logits were not finite."""
        B = len(self._branches) * self._decoding.samples
        found: list[list[list[int]]] = [[[] for _ in range(B)] for _ in range(delta.candidates)]
        failed: set[int] = set()
        for chunk, sequences, hidden in self._starts(delta):
            begun = self._sampled(chunk, sequences, hidden)
            failed |= self._decode(*begun, delta.select(chunk.k), found)
        return [None if k in failed else [tuple(a) for a in answers] for k, answers in enumerate(found)]

    def _starts(self, delta: Delta) -> Iterator[tuple[Chunk, Sequences, Tensor]]:
        """Sequences begun, and the hidden states [N, D] of their last tokens."""
        if isinstance(self._model, EncoderDecoder):
            return self._answers(delta)
        return self._whole(delta) if isinstance(self._model, WholeRows) else self._continuations(delta)

    def _whole(self, delta: Delta) -> Iterator[tuple[Chunk, WholeSequences, Tensor]]:
        """The chunks of a model that runs whole rows: rows of one length each, behind texts of one length."""
        model, new = cast(WholeRows, self._model), self._decoding.max_tokens
        n = self._decoding.samples  # which begin anew, as caches of all kinds are kept as they are
        for b, states in self._of_one_length():
            tokens = TokenRows.padded(picked(self._branches, np.repeat(b, n)), model.device)
            held = 0 if states is None else states.bytes // (len(b) * kept_bytes(model))
            B, T = tokens.ids.shape
            for k in parts(delta.candidates, self._room.sequences(T + new + held) // B):
                some, C = delta.select(k), k.stop - k.start
                place = tokens.places(C, self._shape.P).flatten(0, 1)
                change = Change(some, place, changed=tokens.changes(C))
                each = torch.arange(len(b), device=model.device).repeat_interleave(n).repeat(C)
                cache = None if states is None else states.take(each).cache
                sequences = WholeSequences(model, change, tokens.ids.repeat(C, 1), cache)
                hidden = sequences.begin(change.put_prompts(tokens.embed(model).repeat(C, 1, 1)))
                self._meter.count(C * tokens.ids.numel(), C * tokens.real, model.layers)
                yield Chunk.of(k, answers_to(b, n)), sequences, hidden

    def _of_one_length(self) -> Iterator[tuple[list[int], States | None]]:
        """Examples whose branches have one length each, and the states that they continue."""
        most, layout = self._room.most, self._layout
        lengths = list(map(len, self._branches))
        if isinstance(layout, ByCandidate):
            for b in tiles(lengths, most_tokens=most, waste=0.0):
                yield b, None
            return
        for group, states in cast(Iterator[tuple[list[int], States]], layout.texts(self._meter)):
            for tile in tiles(picked(lengths, group), most_tokens=most, waste=0.0):
                yield picked(group, tile), states.take(torch.tensor(tile, device=self._model.device))

    def _continuations(self, delta: Delta) -> Iterator[tuple[Chunk, DecoderSequences, Tensor]]:
        """A decoder's chunks: sequences begun, and the hidden states [N, D] of their last tokens."""
        model = cast(Decoder, self._model)
        by_example = isinstance(self._layout, ByExample)
        spread = self._by_example if by_example else self._by_candidate
        for k, b, context in spread(delta):
            chunk = Chunk.of(k, b, by_example=by_example)
            capacity = self._longest(b) - 1  # the last token is not computed any more
            sequences = DecoderSequences(model, context, chunk.owner, capacity)
            yield chunk, sequences, self._begin(chunk, sequences, delta.select(k))

    def _by_example(self, delta: Delta) -> Iterator[tuple[slice, list[int], Context]]:
        """Candidates, examples and the examples' contexts of each chunk."""
        layout = cast(ByExample, self._layout)
        for group, context in layout.texts(self._meter):
            at_once = self._at_once(group)
            for part in parts(len(group), at_once):
                some = torch.arange(part.start, part.stop, device=self._model.device)
                own = context if len(some) == len(group) else context.take(some)
                for k in parts(delta.candidates, at_once // len(some)):
                    yield k, group[part], own

    def _by_candidate(self, delta: Delta) -> Iterator[tuple[slice, list[int], Context | None]]:
        """Candidates, examples and the candidates' contexts of each chunk."""
        layout = cast(ByCandidate, self._layout)
        lengths = list(map(len, self._branches))
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        at_once = self._at_once(order)
        groups = [order[part] for part in parts(len(order), at_once)]
        widest, own = max(map(len, groups)), layout.own_tokens
        each = own + widest * self._decoding.samples * self._longest(order)
        most = min(at_once // widest, self._room.kept // each, self._room.most // max(1, own))
        for k in parts(delta.candidates, most):
            context = layout.context_of(delta.select(k), self._meter)
            for b in groups:
                yield k, b, context

    def _at_once(self, examples: Sequence[int]) -> int:
        """The most sequences of a chunk that begin, each of which goes on as so many as there are samples."""
        return max(1, self._room.sequences(self._longest(examples)) // self._decoding.samples)

    def _longest(self, examples: Sequence[int]) -> int:
        """Tokens of the longest sequence of some examples: what it begins with, and its answer."""
        return max(map(len, picked(self._branches, examples))) + self._decoding.max_tokens

    def _begin(self, chunk: Chunk, sequences: DecoderSequences, delta: Delta) -> Tensor:
        """What the examples' rows begin with, in passes of like length: last hidden states [N, D]."""
        model, P, most = self._model, self._shape.P, self._room.most
        rows_of = picked(self._branches, chunk.b)
        out = torch.empty(len(chunk.example), model.hidden_size, dtype=model.dtype, device=model.device)
        for tile in tiles(list(map(len, rows_of)), most_tokens=most):
            tokens = TokenRows.padded(picked(rows_of, tile), model.device)
            place_in_tile = np.full(len(rows_of), -1)
            place_in_tile[tile] = np.arange(len(tile))
            for k in parts(delta.candidates, most // tokens.ids.numel()):
                own = (chunk.candidate >= k.start) & (chunk.candidate < k.stop)
                rows = np.flatnonzero(own & (place_in_tile[chunk.example] >= 0))
                lengths = np.array(list(map(len, picked(rows_of, chunk.example[rows]))))
                at = torch.from_numpy(place_in_tile[chunk.example[rows]]).to(model.device)
                candidate = torch.from_numpy(chunk.candidate[rows] - k.start).to(model.device)
                cycles = len(tile) if chunk.by_example else None
                change = _change_of(tokens, delta.select(k), P, candidate, at, cycles)
                entry = change.put_prompts(tokens.embed(model)[at])
                begun = sequences.begin(entry, lengths, rows, change, tokens.ids[at])
                out[torch.from_numpy(rows).to(model.device)] = begun
                self._meter.count(entry[..., 0].numel(), tokens.real * (k.stop - k.start), self._meter.layers)
        return out

    def _answers(self, delta: Delta) -> Iterator[tuple[Chunk, AnswerSequences, Tensor]]:
        """An encoder-decoder's chunks, as `_continuations`."""
        model, layout = cast(EncoderDecoder, self._model), cast(ByCandidate, self._layout)
        once = self._shape.first_layer > 0
        for groups in self._groups_together(layout):
            b = _examples(layout, groups)
            for k in parts(delta.candidates, self._at_once(b) // len(b)):
                some, C = delta.select(k), k.stop - k.start
                encoded, real = self._encode(layout, groups, some.select(slice(1)) if once else some)
                shared = encoded[0], real
                encoded = encoded.expand(C, -1, -1, -1).flatten(0, 1)
                sequences = AnswerSequences(model, encoded, real.repeat(C, 1))
                begun = len(encoded)
                if once and model.reads_as_before(some):
                    sequences.share(*shared, C)
                    begun += len(real)
                chunk = Chunk.of(k, b)
                hidden = sequences.begin(of_modules(some, chunk, model.device))
                tokens = begun * len(model.answer_start)
                self._meter.count(tokens, tokens, model.layers - model.encoder_layers)
                yield chunk, sequences, hidden

    def _groups_together(self, layout: ByCandidate) -> Iterator[list[int]]:
        """The layout's groups, as many together as there is room for one candidate's."""
        together: list[int] = []
        for i in range(len(layout.groups)):
            b = _examples(layout, [*together, i])
            if together and len(b) > self._at_once(b):
                yield together
                together = []
            together.append(i)
        yield together

    def _encode(self, layout: ByCandidate, groups: list[int], delta: Delta) -> tuple[Tensor, Tensor]:
        """The encoder's output of some groups, [K, R, T, D], and what of it is real, bool [R, T]."""
        model = cast(EncoderDecoder, self._model)
        found, real = [], []
        for i in groups:
            real.append(layout.real(i))
            passes = [
                layout.leaving(i, delta.select(k), model.encoder_layers, self._meter)
                for k in parts(delta.candidates, self._room.most // real[-1].numel())
            ]
            found.append(torch.cat(passes))
        return _side_by_side(found, real)

    def _sampled(self, chunk: Chunk, sequences: Sequences, hidden: Tensor) -> tuple[Chunk, Sequences, Tensor]:
        """What begins, once for each sample; sequences that do not shrink have begun so."""
        if self._decoding.samples == 1 or not sequences.shrinks:
            return chunk, sequences, hidden
        chunk, rows = each_sample(chunk, self._decoding.samples)
        sequences.keep(rows)
        return chunk, sequences, hidden[torch.from_numpy(rows).to(hidden.device)]

    def _decode(
        self,
        chunk: Chunk,
        sequences: Sequences,
        hidden: Tensor,
        delta: Delta,
        found: list[list[list[int]]],
    ) -> set[int]:
        """Append to `found` [K][B] the chunk's tokens; the candidates that failed."""
        device, layers = hidden.device, self._meter.layers - getattr(self._model, "encoder_layers", 0)
        every = 1 if device.type == "cpu" else LOOK_EVERY
        candidate = torch.from_numpy(chunk.candidate).to(device)
        alive = torch.ones(len(hidden), dtype=torch.bool, device=device)
        broken = torch.zeros(delta.candidates, dtype=torch.int32, device=device)
        needed = torch.zeros((), dtype=torch.long, device=device)
        change = of_modules(delta, chunk, device)
        unseen: list[Tensor] = []  # tokens since the last look, each int [N], -1 where a sequence is done
        for t in range(self._decoding.max_tokens):
            token, fine = self._choose(hidden, chunk, t)
            broken = broken.index_add(0, candidate, (alive & ~fine).int())
            alive = alive & (broken[candidate] == 0) & ~torch.isin(token, self._stop)
            unseen.append(torch.where(alive, token, -1))
            last = t == self._decoding.max_tokens - 1
            if last or len(unseen) == every:
                there = self._look(chunk, unseen, found)
                unseen = []
                if last or not there.any():
                    break
                alive = alive & torch.from_numpy(there).to(device)
                rows = kept(there, chunk, equally_many=change is not None)
                if sequences.shrinks and len(rows) <= SHRINK * len(there):
                    sequences.keep(rows)
                    at, chunk = torch.from_numpy(rows).to(device), chunk.take(rows)
                    alive, token, candidate = alive[at], token[at], candidate[at]
                    if change is not None:
                        change = _of_those_left(delta, chunk, device)
            hidden = sequences.step(token, change)
            needed = needed + alive.sum()
            self._meter.count(len(token) * sequences.tokens_a_step, 0, layers)
        *failures, tokens = torch.cat([broken.long(), needed[None]]).tolist()
        self._meter.count(0, tokens, layers)
        return {chunk.k.start + int(k) for k in np.flatnonzero(failures)}

    def _look(self, chunk: Chunk, unseen: Sequence[Tensor], found: list[list[list[int]]]) -> Array:
        """Append tokens, each int [N], to `found` [K][B], up to a stop text; which go on, bool [N]."""
        columns: Array = torch.stack(list(unseen)).cpu().numpy()
        answers = [
            found[chunk.k.start + k][chunk.b[b]] for k, b in zip(chunk.candidate, chunk.example, strict=True)
        ]
        alive = np.ones(len(answers), dtype=bool)
        for column in columns:
            alive &= column >= 0
            closing: dict[int, list[int]] = {}  # number of a sequence -> its answer
            for i in np.flatnonzero(alive).tolist():
                new = int(column[i])
                answers[i].append(new)
                if new in self._decoding.closing:
                    closing[i] = answers[i]
            if closing:
                alive[list(closing)] = self._open(list(closing.values()))
        return alive

    def _open(self, answers: Sequence[list[int]]) -> list[bool]:
        """Which answers hold no stop text."""
        texts = self._model.decode(answers)
        return [not any(stop in text for stop in self._decoding.stop_texts) for text in texts]

    def _choose(self, hidden: Tensor, chunk: Chunk, t: int) -> tuple[Tensor, Tensor]:
        """Token t of each sequence from hidden states [N, D], int [N], and whether its logits are numbers."""
        V, temperature = self._model.vocabulary_size, self._decoding.temperature
        tokens, fine = [], []
        for rows in parts(len(hidden), LOGITS_AT_ONCE // V):
            logits = self._model.logits(hidden[rows], None)
            highest, token = logits.max(dim=-1)
            if temperature > 0:
                noise = self._noise([chunk.b[i] for i in chunk.example[rows]], t, V)
                token = (logits.double() / temperature + noise.to(logits.device)).argmax(dim=-1)
            tokens.append(token)
            fine.append(highest.isfinite())
        return torch.cat(tokens), torch.cat(fine)

    def _noise(self, examples: Sequence[int], t: int, V: int) -> Tensor:
        """Gumbel noise of the examples' token t, float64 [N, V], the same for all candidates.

        The highest of logits / temperature + noise is a draw from their softmax (Maddison et al. 2014,
        arXiv:1411.0030).
        """
        drawn = {
            b: torch.from_numpy(stream(self._decoding.seed, f"token {t} of answer {b}").gumbel(size=V))
            for b in set(examples)
        }
        return torch.stack([drawn[b] for b in examples])


def _examples(layout: ByCandidate, groups: Sequence[int]) -> list[int]:
    """The examples of some groups of a layout."""
    return [*itertools.chain(*picked(layout.groups, groups))]


def _side_by_side(outputs: Sequence[Tensor], real: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """An encoder's outputs [K, R, T, D] of groups and what of each is real, bool [R, T], padded, as one."""
    T, pad = max(r.shape[1] for r in real), torch.nn.functional.pad
    return (
        torch.cat([pad(output, (0, 0, 0, T - output.shape[2])) for output in outputs], dim=1),
        torch.cat([pad(r, (0, T - r.shape[1])) for r in real]),
    )


def _of_those_left(delta: Delta, chunk: Chunk, device: torch.device) -> Change | None:
    """What reaches generated tokens of the changes of candidates that a chunk still has."""
    return of_modules(delta.take(torch.from_numpy(np.unique(chunk.candidate)).to(device)), chunk, device)


def _change_of(
    tokens: TokenRows, delta: Delta, P: int, candidate: Tensor, at: Tensor, cycles: int | None
) -> Change:
    """The change of N sequences' first tokens.

    Args:
        tokens: the examples' rows.
        delta: of the candidates.
        P: tokens of the soft prompt.
        candidate, at: which of those each sequence is of, int [N].
        cycles: as `Change` has it.
    """
    place = tokens.places(delta.candidates, P)[candidate, at]
    return Change(delta, place, cycles, None if tokens.changed is None else tokens.changed[at])
