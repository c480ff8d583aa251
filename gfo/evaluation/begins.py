"""Changes of modules that begin at a place in each row: which models, and which rows, they fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gfo.core.delta import Begin, Delta
from gfo.core.errors import GfoError
from gfo.core.protocols import Batch
from gfo.models.encoder_decoder import EncoderDecoder

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel

SHOWN = 8  # tokens in an error


def check_begin(delta: Delta, model: FrozenModel) -> None:
    """Raise GfoError for changes that cannot begin at a place, or a model that has none.

    An encoder-decoder answers in its decoder, behind all places: what is changed there alone fits.
    """
    if delta.begins is None:
        return
    given = f"begins = '{delta.begins.place}'"
    _check_slots(delta, delta.begins, given)
    if not model.causal:
        _check_not_causal(delta, model, given)


def _check_slots(delta: Delta, begin: Begin, given: str) -> None:
    """Raise GfoError for changes beside those of modules that reach tokens in front of the place."""
    if delta.prefix_tokens:
        raise GfoError(
            f"space: {given}, but all tokens see the prefix; leave begins out, or take the prefix away"
        )
    if delta.gate:
        raise GfoError(
            f"space: {given}, but all tokens pass the sub-blocks that are closed; leave begins out, or take "
            "the gates away"
        )
    if delta.prompt_tokens and begin.place != "{soft}":
        raise GfoError(f"space: {given} beside a soft prompt; give begins = '{{soft}}', where that is")


def _check_not_causal(delta: Delta, model: FrozenModel, given: str) -> None:
    """Raise GfoError for a model whose tokens see those behind them, unless its decoder alone changes."""
    if not isinstance(model, EncoderDecoder):
        raise GfoError(
            f"space: {given}, but each token of '{model.name}' sees all others; leave begins out, or take a "
            "decoder"
        )
    if any(model.lowest_layer(name) < model.encoder_layers for name in delta.modules):
        raise GfoError(
            f"space: {given}, but the texts are in the encoder of '{model.name}', whose tokens see all "
            f"others; leave begins out, or give layers from {model.encoder_layers} on, the decoder's"
        )


def check_places(begin: Begin, batch: Batch, P: int, where: str) -> None:
    """Raise GfoError for rows without the place, or without a token behind it.

    Args:
        begin: where changes begin.
        batch: the rows.
        P: tokens of the soft prompt.
        where: whose rows they are, for messages.
    """
    there = {"{here}": batch.here, "{soft}": batch.prompt, "read": True}[begin.place]
    if not there:
        raise GfoError(
            f"template: it has no {begin.place}, where the changes of the space begin; write {begin.place} "
            "there, or give the space another begins"
        )
    if begin.place == "read":
        return
    wanted = begin.tokens
    for i, after in enumerate(batch.after, 1):
        if not (after or P):
            raise GfoError(
                f"{where} row {i}: no token stands behind {begin.place}, where changes begin; end the "
                "template with some text"
            )
        if after[: len(wanted)] != wanted:
            raise GfoError(
                f"{where} row {i}: behind {begin.place} stand the tokens {list(after[:SHOWN])}, but the "
                f"adapter acts from {list(wanted[:SHOWN])} on; write its invocation there"
            )
