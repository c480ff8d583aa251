"""Endings of a batch: what of them is computed, and their log-likelihoods from the tokens'.

An ending's tokens are a branch of the row's branch. Of each token the log-likelihood is read at the one in
front of it, so the last is not computed: endings of one token cost nothing but the trunk.

| model                  | computed for a row's endings           | read                                 |
|------------------------|----------------------------------------|--------------------------------------|
| decoder                | their tokens, in a tree behind the row | the trunk's last token and theirs    |
| masked language model  | nothing                                | the row's masks, each ending in them |
| encoder-decoder        | their tokens, in the decoder           | the answer's start and theirs        |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from gfo.core.errors import GfoError
from gfo.core.protocols import Batch, Tokens
from gfo.evaluation.plan import Plan, Row, Tree, picked

if TYPE_CHECKING:
    from gfo.models.encoder_decoder import EncoderDecoder
    from gfo.models.frozen import FrozenModel

Numbered = tuple[Tokens, int]
"""An ending and the number of its answer."""


def check_endings(batch: Batch, model: FrozenModel, P: int, where: str) -> None:
    """Raise GfoError for endings that the model cannot be asked for.

    Args:
        batch: with endings.
        model: to be asked.
        P: tokens of the soft prompt.
        where: whose rows they are, for messages.
    """
    if model.reads == "sentence":
        raise GfoError(
            f"model '{model.name}' is a sentence encoder, which gives texts no likelihood; take a decoder, "
            "an encoder-decoder or a masked language model"
        )
    if len(batch.endings) != len(batch):
        raise GfoError(
            f"{where}: endings of {len(batch.endings)} rows for {len(batch)}; give each row its own"
        )
    rows = zip(batch.before, batch.after, batch.endings, strict=True)
    for i, (before, after, endings) in enumerate(rows, 1):
        row, text = f"{where} row {i}", before + after
        if model.causal and not (text or P):
            raise GfoError(
                f"{row}: no token stands in front of its endings; begin the template with some text"
            )
        masks = _masks(text, model)
        for j, ending in enumerate(endings, 1):
            _check_ending(ending, masks, f"{row}: ending {j}")


def _masks(text: Tokens, model: FrozenModel) -> int | None:
    """How many masks an ending is to fill; None where the model fills none."""
    if model.reads != "mask":
        return None
    return text.count(-1 if model.read_token is None else model.read_token)


def _check_ending(ending: Tokens, masks: int | None, what: str) -> None:
    """Raise GfoError for an ending without tokens, or, where it fills masks, of another number of them."""
    if not ending:
        raise GfoError(f"{what} has no tokens; give it some text")
    if masks not in (None, len(ending)):
        raise GfoError(f"{what} has {len(ending)} tokens for {masks} masks; write one mask a token")


def with_longest_ending(model: FrozenModel, length: int, endings: Sequence[Tokens]) -> int:
    """Tokens of the longest sequence of a row of `length` tokens and one of its endings."""
    longest = max(map(len, endings), default=0)
    if model.causal:
        return length + longest
    return (
        length
        if model.read_token is not None
        else max(length, len(cast("EncoderDecoder", model).answer_start) + longest)
    )


def with_endings(todo: Plan, batch: Batch, model: FrozenModel, most: int) -> Plan:
    """The plan of a batch's rows with their endings.

    Args:
        todo: the plan of the rows alone.
        batch: with endings.
        model: decides what an ending is; see above.
        most: the most tokens of a tree, unless one ending has more; 0 to compute each ending with all that
            stands in front of it, the slow way.
    """
    m = max(map(len, batch.endings))
    trees: list[Tree] = []
    shared: list[Row] = []
    for b, (trunk, endings) in enumerate(zip(todo.branches, batch.endings, strict=True)):
        numbered = sorted((ending, b * m + j) for j, ending in enumerate(endings))
        for some in _portions(trunk, numbered, model, most):
            trees.append(_tree(trunk, some, model))
            shared += todo.shared[b : b + 1] if todo.by_example else ()
    if not todo.by_example:
        shared = list(todo.shared)
    branches = tuple(tree.row for tree in trees)
    return replace(todo, shared=tuple(shared), branches=branches, trees=tuple(trees))


def _tree(trunk: Row, endings: list[Numbered], model: FrozenModel) -> Tree:
    """The sorted endings behind a trunk, or in it, as the model computes them."""
    if model.causal:
        return _grown(trunk, endings)
    if model.read_token is not None:
        return _in_masks(trunk, endings, model.read_token)
    return _forced(trunk, endings)


def _portions(trunk: Row, endings: list[Numbered], model: FrozenModel, most: int) -> list[list[Numbered]]:
    """Sorted endings in portions of at most `most` tokens with the trunk."""
    portions: list[list[Numbered]] = []
    size = 0
    last: Tokens = ()
    for ending, number in endings:
        own: Tokens = () if model.read_token is not None else ending[:-1]
        added = len(own) - (_shared(own, last) if model.causal else 0)
        if portions and size + added <= most:
            portions[-1].append((ending, number))
            size += added
        else:
            portions.append([(ending, number)])
            size = (len(trunk) if model.causal else 1) + len(own)
        last = own
    return portions


def _shared(a: Tokens, b: Tokens) -> int:
    """The number of first tokens that both have."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _grown(trunk: Row, endings: list[Numbered]) -> Tree:
    """A decoder's tree: sorted endings as a trie behind the trunk."""
    row, depth = list(trunk), list(range(len(trunk)))
    end: dict[int, int] = {}
    wanted: list[tuple[int, int, int]] = []
    way: list[int] = []  # the places of the last ending's tokens
    last: Tokens = ()
    for ending, number in endings:
        fork = _shared(ending[:-1], last)
        end |= dict.fromkeys(way[fork:], len(row))
        del way[fork:]
        for token in ending[fork:-1]:
            way.append(len(row))
            depth.append(len(trunk) + len(way) - 1)
            row.append(token)
        places = [len(trunk) - 1, *way]
        wanted += [(place, token, number) for place, token in zip(places, ending, strict=True)]
        last = ending[:-1]
    ends = tuple(end.get(place, len(row)) for place in range(len(row)))
    return Tree(tuple(row), tuple(depth), ends, tuple(wanted), len(trunk))


def _in_masks(row: Row, endings: list[Numbered], mask: int) -> Tree:
    """A masked language model's: the words of each ending in the row's masks."""
    places = [place for place, token in enumerate(row) if token == mask]
    wanted = tuple(
        (place, token, number)
        for ending, number in endings
        for place, token in zip(places, ending, strict=True)
    )
    return Tree(row, tuple(range(len(row))), (len(row),) * len(row), wanted, len(row))


def _forced(row: Row, endings: list[Numbered]) -> Tree:
    """An encoder-decoder's: each ending in the decoder by itself, behind the answer's start."""
    wanted: list[tuple[int, int, int]] = []
    forced: list[Row] = []
    place = 1
    for ending, number in endings:
        behind = range(place, place + len(ending) - 1)
        wanted += [(at, token, number) for at, token in zip([0, *behind], ending, strict=True)]
        forced += [ending[:-1]] if len(ending) > 1 else []
        place = behind.stop
    ends = (len(row),) * len(row)
    return Tree(row, tuple(range(len(row))), ends, tuple(wanted), len(row), tuple(forced))


@dataclass(frozen=True)
class Wanted:
    """What is wanted at the M places that trees are read at, in order.

    Attributes:
        tokens: at each place up to W tokens, int [M, W].
        terms: which of the M * W log-likelihoods each ending is the sum of, int [E, L]; M * W at padding.
        answers: the endings' numbers, int [E].
    """

    tokens: Tensor
    terms: Tensor
    answers: Tensor

    @classmethod
    def of(cls, trees: Sequence[Tree], device: Any) -> Wanted:
        """Of the trees read one behind the other."""
        tokens, terms = _tokens_and_terms(trees)
        padded = _padded(tokens, 0)
        M, W = len(padded), len(padded[0])
        sums = _padded([[i * W + j for i, j in some] for some in terms.values()], M * W)
        return cls(*(torch.tensor(numbers, device=device) for numbers in (padded, sums, list(terms))))

    def sums(self, each: Tensor) -> Tensor:
        """Log-likelihoods [K, M, W] of the tokens -> those of the endings, [K, E]."""
        flat = torch.nn.functional.pad(each.flatten(1), (0, 1))
        return flat[:, self.terms].sum(dim=-1)


def _tokens_and_terms(trees: Sequence[Tree]) -> tuple[list[list[int]], dict[int, list[tuple[int, int]]]]:
    """The tokens wanted at each place, and of each answer the (place, number of the token there)."""
    tokens: list[list[int]] = []
    terms: dict[int, list[tuple[int, int]]] = {}
    for tree in trees:
        row_of = {place: len(tokens) + i for i, place in enumerate(tree.places)}
        tokens += [[] for _ in row_of]
        for place, token, answer in tree.wanted:
            here = tokens[row_of[place]]
            if token not in here:
                here.append(token)
            terms.setdefault(answer, []).append((row_of[place], here.index(token)))
    return tokens, terms


def _padded(rows: Sequence[list[int]], padding: int) -> list[list[int]]:
    """Rows of numbers, of the length of the longest."""
    longest = max(map(len, rows))
    return [row + [padding] * (longest - len(row)) for row in rows]


def wanted_of(todo: Plan, groups: Sequence[Sequence[int]], device: Any) -> list[Wanted]:
    """What is wanted of each group of a plan's trees; none where it has no trees."""
    return [Wanted.of(picked(todo.trees, group), device) for group in groups] if todo.trees else []
