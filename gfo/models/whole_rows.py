"""Models whose rows run whole, by the plain forward pass: for what branches cannot express.

Rows are padded on the right, which in a causal model no token in front of the padding sees. Nothing of a row
is shared between candidates but the layers below the first changed one. So recurrent states, convolutions,
position biases and sparse attention are exact, whatever they are; and so is what a head does in front of its
last matrix.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gfo.core.domain import Array
from gfo.models.apply import Change, applied
from gfo.models.branches import Context, RowLayout
from gfo.models.decoding import Growing
from gfo.models.encoder import Encoder
from gfo.models.frozen import FrozenModel
from gfo.models.precision import nearness
from gfo.models.structure import find_layers, hooked

CACHES = ("past_key_values", "cache_params", "state")  # under which names models give and take their states
SAME = 1e-4  # of their spread: so near are logits with a cache to those without, in float32


@contextmanager
def cut_at_head(head: nn.Module, place: slice) -> Iterator[list[Tensor]]:
    """Within, logits are made of some places alone; what all of them are made of is appended to the list.

    Args:
        head: the output embedding.
        place: which tokens of each row.
    """
    seen: list[Tensor] = []

    def cut(module: nn.Module, args: Any) -> Any:
        seen.append(args[0])
        return args[0][:, place], *args[1:]

    with hooked(head.register_forward_pre_hook(cut)):
        yield seen


class _Whole(FrozenModel):
    """What models that run whole have in common: hidden states are those that enter the output embedding."""

    def _through(self, part: nn.Module, **inputs: Any) -> Tensor:
        """What enters the output embedding, [rows, T, D]."""
        with ExitStack() as hooks:
            seen = hooks.enter_context(cut_at_head(self._head, slice(0, 1)))
            if self.by_ids:
                hooks.enter_context(self._entering_as(inputs.pop("inputs_embeds")))
            part(**inputs)
        return seen[-1]

    def _entering_as(self, entry: Tensor) -> Any:
        """Within, tokens are embedded as `entry` [rows, T, D]."""
        return hooked(self._embedding.register_forward_hook(lambda *_: entry))

    def _ids(self, rows: RowLayout, C: int) -> dict[str, Tensor]:
        """The token ids of C times the rows, as the forward pass takes them, if it is to have any."""
        if not self.by_ids:
            return {}
        ids = torch.zeros_like(rows.branch) if rows.ids is None else rows.ids
        return {"input_ids": ids.repeat(C, 1)}

    @torch.no_grad()
    def _measured_scale(self, ids: Tensor) -> float:
        """The factor between the last matrix's product and the logits, of a row of token ids [T]."""
        with cut_at_head(self._head, slice(-1, None)) as seen:
            logits = self.module(input_ids=ids[None]).logits[0, -1].float()
        self._logit_scale, cap = 1.0, self._logit_cap
        self._logit_cap = None
        product = self.logits(seen[-1][0, -1], None)[: len(logits)]
        self._logit_cap = cap
        if cap is not None:
            logits = cap * torch.atanh((logits / cap).clamp(-0.999999, 0.999999))
        scale = float((logits * product).sum() / product.square().sum())
        return 1.0 if abs(scale - 1) < 1e-3 else scale


class WholeRows(_Whole):
    """A causal language model of transformers, run in whole right-padded rows."""

    causal = True

    def __init__(self, module: Any, tokenizer: Any, name: str = "") -> None:
        name = name or str(module.config.name_or_path) or module.config.model_type
        super().__init__(module, tokenizer, name, [find_layers(module)])
        self._logit_scale = self._measured_scale(self.probe_text)

    def branches(
        self,
        context: Context | None,
        entry: Tensor,
        rows: RowLayout,
        *,
        change: Change | None = None,
        start: int = 0,
        stop: int | None = None,
    ) -> Tensor:
        """Run whole rows, one a sequence.

        Args:
            context: None; there are no contexts.
            entry: what enters layer `start`, [C, R, T, D]; input embeddings at 0.
            rows: R sequences of T tokens, padded on the right, the same behind each of C candidates.
            change: candidates to apply, in C * R rows.
            start: the first layer run.
            stop: the layer not run any more; None to run all up to the output embedding.

        Returns:
            States of the tokens that are read, [C, M, D]; with `stop` those of all, [C, R, T, D].
        """
        C = len(entry)
        hidden = self._run(
            self.stacks[0], entry.flatten(0, 1), change, start, stop, use_cache=False, **self._ids(rows, C)
        )
        R, T = rows.branch.shape
        if stop is not None:
            return hidden.reshape(-1, R, T, hidden.shape[-1])
        return rows.reading(hidden.reshape(-1, R * T, hidden.shape[-1]))

    def check_branches(self) -> None:
        """Nothing beyond what `gfo.models.checking` compares."""

    @functools.cached_property
    def cache_name(self) -> str | None:
        """Under which name the forward pass gives and takes what it keeps of a text; None where it does not.

        It is tried: two rows with it, token by token, against whole rows.
        """
        if self.equal_lengths or self.by_ids:  # what a token gives may depend on more than those before it
            return None
        ids = self.probe_text.repeat(2, 1)
        ids[1] = ids[1].flip(0)
        wanted = self._run(self.stacks[0], self.embed(ids), None, 0, None, use_cache=False)[:, 8:]
        most = nearness(self, SAME)
        for name in CACHES:
            try:
                if self._distance(self._token_by_token(ids, name), wanted) <= most:
                    return name
            except Exception:  # of any kind: it is without a cache that such a model is right
                continue
        return None

    def _distance(self, found: Tensor, wanted: Tensor) -> float:
        """How far logits of states [..., D] are from those wanted, in spreads of these."""
        logits = self.logits(wanted, self.probe_vocabulary)
        return float((self.logits(found, self.probe_vocabulary) - logits).abs().max() / logits.std())

    def _token_by_token(self, ids: Tensor, name: str) -> Tensor:
        """States [rows, T - 8, D] of all but the first 8 tokens [rows, T], each behind a cache."""
        hidden, cache = self.keeping(name, None, inputs_embeds=self.embed(ids[:, :8]))
        found = []
        for token in ids[:, 8:].unbind(1):
            hidden, cache = self.keeping(name, cache, input_ids=token[:, None])
            found.append(hidden)
        return torch.cat(found, dim=1)

    def keeping(self, name: str, cache: Any, **inputs: Any) -> tuple[Tensor, Any]:
        """States [rows, T, D] of tokens behind a cache, and the cache with them."""
        held = {} if cache is None else {name: cache}
        with cut_at_head(self._head, slice(-1, None)) as seen:
            out = self.module(**inputs, **held, use_cache=True)
        return seen[-1], getattr(out, name)


class WholeEncoder(_Whole, Encoder):
    """A masked language model whose head is run by its own forward pass, for all tokens of a row."""

    def __init__(self, module: Any, tokenizer: Any, name: str = "") -> None:
        super().__init__(module, tokenizer, name)
        self.stacks = (find_layers(module),)
        self._prefixes = [f"{self.stacks[0].path}."]
        self._layers = list(self.stacks[0].layers)
        self._heads = []
        self._logit_scale = self._measured_scale(self.probe_text)


class WholeSequences(Growing):
    """Sequences of one length that grow token by token, by transformers' own cache, or else run anew.

    Args:
        model: whose they are.
        change: candidates to apply, in all of the rows; its places are those of the first pass.
        ids: the first tokens' ids, int [rows, T].
        cache: what is kept of the texts in front of them, in as many rows; None for no texts.
    """

    shrinks = False  # rows stay: caches of all kinds are kept as they are

    def __init__(self, model: WholeRows, change: Change, ids: Tensor, cache: Any = None) -> None:
        self._model, self._change, self._ids = model, change, ids
        self._entry: Tensor | None = None
        self._cache = cache

    def begin(self, entry: Tensor) -> Tensor:
        """The first tokens, input embeddings [rows, T, D]: hidden states of the last ones, [rows, D]."""
        if self._model.cache_name is None:
            self._entry = entry
            return self._anew(entry)
        with applied(self._change, self._model.module, self._model.all_layers):
            return self._keep(inputs_embeds=entry)

    def step(self, token: Tensor, change: Change | None) -> Tensor:
        """One token more for each, int [rows]: its hidden states, [rows, D].

        Args:
            token: its id.
            change: what of the candidates reaches it.
        """
        if self._entry is None:
            with applied(change, self._model.module, self._model.all_layers):
                return self._keep(input_ids=token[:, None])
        self._entry = torch.cat([self._entry, self._model.embed(token)[:, None]], dim=1)
        self._ids = torch.cat([self._ids, token[:, None]], dim=1)
        old, self.tokens_a_step = self._change, self._entry.shape[1]
        place = nn.functional.pad(old.place, (0, 1), value=-1)
        changed = None if old.changed is None else nn.functional.pad(old.changed, (0, 1), value=True)
        self._change = Change(old.delta, place, changed=changed)
        return self._anew(self._entry)

    def keep(self, rows: Array) -> None:
        """Not taken; see `shrinks`."""

    def _keep(self, **inputs: Tensor) -> Tensor:
        hidden, self._cache = self._model.keeping(self._model.cache_name or "", self._cache, **inputs)
        return hidden[:, -1]

    def _anew(self, entry: Tensor) -> Tensor:
        """Hidden states of the last tokens of whole rows [rows, T, D], [rows, D]."""
        rows, T = entry.shape[:2]
        column = torch.arange(T, device=entry.device).expand(rows, -1)
        read = torch.arange(1, rows + 1, device=entry.device) * T - 1
        lie = RowLayout(torch.zeros_like(column), column, read[None], ids=self._ids)
        return self._model.branches(None, entry[None], lie, change=self._change)[0]
