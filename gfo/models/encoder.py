"""A frozen encoder: a masked language model, or a sentence encoder.

Every token sees every other, so nothing of a sequence is shared between candidates but the layers below
the first one that they change. Branches are whole sequences, one a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gfo.core.errors import GfoError
from gfo.models.apply import Change
from gfo.models.branches import Context, RowLayout
from gfo.models.frozen import FrozenModel
from gfo.models.structure import find_stacks, without

TEMPERATURE = 0.05  # of cosine similarities, as sentence encoders are trained (scale 20)


class Encoder(FrozenModel):
    """An encoder of transformers.

    With a language-modelling head the word in the place of the template's `{mask}` is read. Without
    one it is a sentence encoder (Reimers and Gurevych 2019, arXiv:1908.10084): the mean of the last
    hidden states stands for a text, and a label's logit is the cosine similarity to its label text
    (as the frozen model encodes it) over a temperature of 0.05.

    Raises:
        GfoError: for a masked language model whose tokenizer has no mask token.
    """

    causal = False
    continues = False
    generates = False

    def __init__(self, module: Any, tokenizer: Any, name: str = "") -> None:
        name = name or str(module.config.name_or_path) or module.config.model_type
        body = module.base_model
        super().__init__(module, tokenizer, name, find_stacks(body))
        self._heads: list[nn.Module] = []
        self._anchors: dict[tuple[Any, ...], Tensor] = {}
        self.reads = "sentence"
        if self._head is not None:
            self.reads = "mask"
            self.mask, self.read_token = tokenizer.mask_token, tokenizer.mask_token_id
            if self.read_token is None:
                raise GfoError(f"model '{self.name}': its tokenizer has no mask token; give it one")
            self._heads = [self._headless(part) for part in module.children() if part is not body]

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
        """Run whole sequences, one a row.

        Args:
            context: None; an encoder has no contexts.
            entry: what enters layer `start`, [C, R, T, D]; input embeddings at 0.
            rows: R sequences of T tokens, the same behind each of C candidates.
            change: candidates to apply, in C * R rows.
            start: the first layer run.
            stop: the layer not run any more; None to run all and the head up to its last matrix.

        Returns:
            States of the masked tokens, or of the sentences, [C, R, D]; with `stop` all, [C, R, T, D].
        """
        C, real = len(entry), rows.branch >= 0  # (R, T)
        mask = real.repeat(C, 1).long()
        hidden = self._run(
            self.stacks[0],
            entry.flatten(0, 1),
            change,
            start,
            stop,
            attention_mask=mask,
            **self._ids(rows, C),
        )
        hidden = hidden.reshape(-1, *real.shape, hidden.shape[-1])
        return self._read(hidden, rows, real) if stop is None else hidden

    def logits(self, hidden: Tensor, vocabulary: Sequence[Any] | slice | None) -> Tensor:
        """float32 logits [..., V'] of tokens, or of label texts (as token ids) for a sentence encoder."""
        if self.reads == "mask" or isinstance(vocabulary, slice):
            return super().logits(hidden, vocabulary)
        anchors = self._anchors_of(tuple(vocabulary or ()))  # (V', D)
        return (nn.functional.normalize(hidden.float(), dim=-1) @ anchors.T).float() / TEMPERATURE

    @torch.no_grad()
    def check_branches(self) -> None:
        """Compare a masked word's logits with a plain forward pass.

        Raises:
            GfoError: if they differ by more than rounding, so that no result would be right.
        """
        if self.reads == "sentence":
            return
        some, ids = self.probe_vocabulary, self.probe_text
        at = 8
        ids[at] = self.tokenizer.mask_token_id
        plain = self.module(input_ids=ids[None]).logits[0, at, list(some)].float()
        rows = RowLayout.single(torch.tensor([at + 1], device=self.device), len(ids))
        hidden = self.branches(None, self.embed(ids)[None, None], rows)
        self.compare(self.logits(hidden[0, 0], some), plain)

    def _ids(self, rows: RowLayout, C: int) -> dict[str, Tensor]:
        """Token ids, for a forward pass that is to have them; none."""
        return {}

    def _read(self, hidden: Tensor, rows: RowLayout, real: Tensor) -> Tensor:
        """Hidden states [C, R, T, D] -> what the head's last matrix, or the similarity, takes: [C, R, D]."""
        if self.reads == "sentence":
            weight = real.to(hidden.dtype)[..., None]  # (R, T, 1)
            return (hidden * weight).sum(2) / weight.sum(1)
        read = rows.reading(hidden.flatten(1, 2))
        for head in self._heads:
            read = head(read)
        return read

    def _headless(self, part: nn.Module) -> nn.Module:
        """A part of the head that stops in front of the output embedding."""
        path = next((name for name, inner in part.named_modules() if inner is self._head), None)
        if path is None:
            return part
        return without(part, path) if path else nn.Identity()

    def _anchors_of(self, texts: tuple[tuple[int, ...], ...]) -> Tensor:
        """Unit vectors [V', D] of the label texts, by the frozen model."""
        if texts not in self._anchors:
            found = []
            for ids in texts:
                rows = RowLayout.single(torch.tensor([len(ids)], device=self.device), len(ids))
                entry = self.embed(torch.tensor(ids, device=self.device))[None, None]
                found.append(self.branches(None, entry, rows)[0, 0].float())
            self._anchors[texts] = nn.functional.normalize(torch.stack(found), dim=-1)
        return self._anchors[texts]
