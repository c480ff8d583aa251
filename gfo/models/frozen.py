"""What all frozen models share: tokens, embeddings, the names and sizes of their parts, chosen logits."""

from __future__ import annotations

import functools
import itertools
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from gfo.core.delta import Delta
from gfo.core.errors import GfoError, check_name
from gfo.models.apply import Change, applied, check_applied
from gfo.models.branches import Context, RowLayout
from gfo.models.families import USUAL_TARGETS, context_length, logit_transform
from gfo.models.precision import nearness
from gfo.models.probing import TOKENS, check_modules, embedding_scale, kept, layers_passed, widest
from gfo.models.structure import LinearInfo, Stack, find_experts, find_linears, hidden_of, hooked, outputs_of
from gfo.models.sub_blocks import HasSubBlocks
from gfo.models.texts import HasTexts
from gfo.models.weights import check_embedding, quantized_linears, rounds_inputs, weight_of

TOKENS_READ = 2048  # in one pass of `read`
LOGITS_AT_ONCE = 2**22  # float32 numbers; more leave a CPU's cache, and fill a GPU no better
CHECKED_TOKENS = 64  # of the vocabulary, where a model is compared with a plain forward pass

_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()


class FrozenModel(HasTexts, HasSubBlocks, ABC):
    """A transformers model with its tokenizer, frozen.

    Args:
        module: the transformers model.
        tokenizer: the transformers tokenizer.
        name: what the user called it.
        stacks: its lists of layers, an encoder's before its decoder's.

    Attributes:
        module, tokenizer, name: as given.
        layers: L, the number of layers.
        context_length: the most tokens a sequence may have.
        vocabulary_size: V.
        hidden_size: D, the width of the input embeddings.
        reached: module -> why a change cannot reach it, or None, of those asked for so far.
    """

    causal: bool
    """Whether a token sees only those before it."""
    contexts: bool = False
    """Whether keys and values are kept as contexts: what rows share in front, and prefixes."""
    states: bool = False
    """Whether states of texts are kept, of which the rows behind one begin with a copy each."""
    by_ids: bool = False
    """Whether the forward pass is given token ids beside what enters, 0 in the soft prompt's places."""
    equal_lengths: bool = False
    """Whether padding changes what a row gives, so that only rows of one length go together."""
    shares_layers: bool = True
    """Whether a pass may begin at any layer; else nothing below the first changed one is computed once."""
    checks: bool = True
    """Whether rows are compared with plain forward passes; see `gfo.freeze`."""
    generates: bool = True
    """Whether it continues a text."""
    reads: str = "next"
    """What stands for the answer: the "next" word, the word in the "mask" place, or the "sentence"."""
    mask: str | None = None
    """The text of the mask token, for a model that reads it."""
    continues: bool = True
    """Whether the answer goes on with the text, so that it has the tokens of running text."""
    read_token: int | None = None
    """The token whose hidden state is read; None for a row's last."""

    def __init__(self, module: Any, tokenizer: Any, name: str, stacks: Sequence[Stack]) -> None:
        super().__init__(tokenizer)
        self.module = module.eval().requires_grad_(False)
        self.config = module.config.get_text_config(decoder=True)
        self.name = name
        self.stacks, self.layers = tuple(stacks), sum(stack.size for stack in stacks)
        names = {id(part): f"{name}." if name else "" for name, part in module.named_modules()}
        self._prefixes = [f"{names[id(stack.body)]}{stack.path}." for stack in stacks]
        self._layers: list[nn.Module] = [layer for stack in stacks for layer in stack.layers]
        self._embedding, self._head = module.get_input_embeddings(), module.get_output_embeddings()
        self._bias = getattr(self._head, "bias", None)
        check_embedding(self._embedding, name)
        self._head_weight: Any = None if self._head is None else weight_of(self._head, self.dtype)  # (V, D)
        self._logit_scale, self._logit_cap = logit_transform(self.config, module.config.model_type)
        self.vocabulary_size, self.hidden_size = (int(n) for n in self._embedding.weight.shape)
        self.context_length = context_length(self.config)
        if not self.has_words:
            raise GfoError(
                f"model '{name}' has no embedding for any word of its tokenizer, which is of another model; "
                "take its own"
            )
        self.reached: dict[str, str | None] = {}

    def like(self, module: Any) -> FrozenModel:
        """Another module of the same architecture, frozen and evaluated in the same way."""
        other = type(self)(module, self.tokenizer, self.name)  # type: ignore[call-arg, arg-type]
        other.equal_lengths, other.shares_layers = self.equal_lengths, self.shares_layers
        other.by_ids, other.checks, other.images = self.by_ids, self.checks, self.images
        return other

    @property
    def lock(self) -> threading.RLock:
        """Held while the module runs with hooks of one caller: one a module, whoever has frozen it."""
        return _LOCKS.setdefault(self.module, threading.RLock())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._embedding.weight.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        return self._embedding.weight.dtype  # type: ignore[no-any-return]

    @property
    def all_layers(self) -> tuple[nn.Module, ...]:
        """The layers, in the order in which they are counted."""
        return tuple(self._layers)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [...] -> embeddings [..., D]."""
        if self.images is not None:
            return self.images.embed(ids, self._embedding)  # type: ignore[no-any-return]
        return self._embedding(ids)  # type: ignore[no-any-return]

    @functools.cached_property
    def embedding_scale(self) -> float:
        """What `embed` multiplies a row of the embedding matrix by: sqrt(D) for Gemma, mostly 1.

        Raises:
            GfoError: if an embedding is not a multiple of its row.
        """
        return embedding_scale(self)

    @property
    def embedding_names(self) -> list[str]:
        """All names of modules that hold the embedding matrix: the head too, where the two are tied."""
        modules = self.module.named_modules(remove_duplicate=False)
        return [name for name, part in modules if getattr(part, "weight", None) is self._embedding.weight]

    @functools.cached_property
    def linears(self) -> dict[str, LinearInfo]:
        """Name -> sizes and layer of the linear modules in the layers."""
        return find_linears(self.module, self.layer_of)

    def weight(self, name: str) -> Tensor:
        """The weight [out, in] of a linear module; of a quantized one dequantized."""
        return weight_of(self.module.get_submodule(name), self.dtype)

    @functools.cached_property
    def rounds_inputs(self) -> bool:
        """Whether quantized modules round their inputs too, by more than the model's products are rounded."""
        with self.lock:
            return any(rounds_inputs(part, self.dtype) for part in quantized_linears(self.module).values())

    @functools.cached_property
    def experts(self) -> dict[str, int]:
        """Name -> layer of the parameters that hold routed experts, which no linear module has."""
        return find_experts(self.module, self.layer_of)

    def usual_targets(self, role: str) -> tuple[tuple[str, ...], ...]:
        """Groups of patterns of the names that linear modules of a role have in families.

        Args:
            role: "queries and values", "keys and values", "queries", or of the feed-forward network "up",
                "down", or "feed-forward" (its inner activations as an output, or "down").
        """
        check_name("role of modules", role, USUAL_TARGETS)
        return USUAL_TARGETS[role]

    @property
    def prompt_layers(self) -> int:
        """The layers, from the first, that the soft prompt passes through."""
        return self.layers

    @functools.cached_property
    def widest(self) -> int:
        """Numbers of a token that the widest module of the layers gives."""
        return widest(self)

    @functools.cached_property
    def kept(self) -> int:
        """Numbers that are kept of a token where its keys and values are, in all layers."""
        return kept(self)

    def layer_of(self, name: str) -> int | None:
        """The layer a module is in, or None for one outside of the layers."""
        first = 0
        for stack, prefix in zip(self.stacks, self._prefixes, strict=True):
            if name.startswith(prefix):
                return first + int(name.removeprefix(prefix).split(".")[0])
            first += stack.size
        return None

    def lowest_layer(self, name: str) -> int:
        """The first layer that runs again where a module changes: its own, or the one it comes behind."""
        layer = self.layer_of(name)
        return max(self._passed.get(name, 0) - 1, 0) if layer is None else layer

    @functools.cached_property
    def _passed(self) -> dict[str, int]:
        return layers_passed(self)

    def check(self, delta: Delta) -> None:
        """Raise GfoError for a Delta that does not fit the model, or too high a first layer."""
        check_applied(delta)
        for slot in delta.slots:
            slot.check(self)
        check_modules(self, delta.modules)
        if delta.layer_prompt and not self._takes_prompts:
            raise GfoError(
                f"Delta: what enters the layers of model '{self.name}' is not one vector for each token of "
                "each row, so that no prompt can be added to it; take SoftPrompt"
            )
        touched = [layer for slot in delta.slots for layer in slot.touched(self)]
        if delta.first_layer > min(touched, default=0):
            raise GfoError(
                f"Delta: first_layer = {delta.first_layer}, but layer {min(touched, default=0)} changes; "
                "give the lowest layer that depends on the candidate"
            )

    @functools.cached_property
    def _takes_prompts(self) -> bool:
        """Whether what enters the layers is [..., rows, T, D]: XLNet's is not, nor are padded rows."""
        ids = self.probe_text[None, :TOKENS]
        seen = self.hidden_states(ids)
        return bool(seen) and all(hidden.shape[-3:-1] == ids.shape for hidden in seen)

    def unseen(self, delta: Delta) -> bool:
        """Whether all that a Delta's modules change is seen by no other token.

        So it is in a decoder's last layer, if the layer's keys and values stay what they are. Then of a row
        the tokens in front of the one that is read do not depend on the candidate.
        """
        return False

    @torch.no_grad()
    def hidden_states(self, ids: Tensor) -> list[Tensor]:
        """What enters each layer in a plain forward pass of token ids [B, T], L tensors [B, T, D]."""
        seen: list[Tensor] = []

        def keep(layer: nn.Module, args: Any, kwargs: Any) -> None:
            seen.append(hidden_of(args, kwargs))

        with hooked(*(layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in self._layers)):
            two = {"decoder_input_ids": ids} if len(self.stacks) > 1 else {}
            self.module.base_model(input_ids=ids, **two)
        return seen

    @torch.no_grad()
    def module_outputs(self, names: Sequence[str], ids: Tensor) -> dict[str, Tensor]:
        """What modules put out in a plain forward pass of token ids [B, T], each [..., out].

        Raises:
            GfoError: for a module that is not called, or does not put out a tensor: nothing can be changed
                there.
        """
        with self.lock:
            return outputs_of(self.module, names, lambda: self.hidden_states(ids))

    @torch.no_grad()
    def read(self, rows: Sequence[Sequence[int]], vocabulary: Sequence[Any] | None) -> Tensor:
        """float32 logits [N, V'] of the unchanged model, where it reads the answer.

        Args:
            rows: whole sequences of token ids.
            vocabulary: the tokens whose logits are wanted, V' of them, or None for all.
        """
        wanted = self.vocabulary_size if vocabulary is None else len(vocabulary)
        out = torch.empty(len(rows), wanted, device=self.device)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for T, group in itertools.groupby(order, key=lambda i: len(rows[i])):  # equal lengths want no padding
            same = list(group)
            most = max(1, TOKENS_READ // T)
            for some in (same[i : i + most] for i in range(0, len(same), most)):
                ids = torch.tensor([list(rows[i]) for i in some], device=self.device)
                column = torch.arange(T, device=self.device).expand_as(ids)
                at = torch.full_like(ids[:, 0], T - 1)
                if self.read_token is not None:
                    at = torch.where(ids == self.read_token, column, -1).amax(dim=1)
                first = torch.arange(len(some), device=self.device) * T
                number = torch.arange(len(some), device=self.device)[:, None].expand_as(ids)
                lie = RowLayout(number, column, (first + at)[None], ids=ids)
                hidden = self.branches(None, self.embed(ids)[None], lie)
                out[some] = self.logits(hidden[0], vocabulary)
        return out

    @abstractmethod
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
        """Run rows of branches; see the subclasses."""

    @abstractmethod
    def check_branches(self) -> None:
        """Raise GfoError if `branches` differs from a plain forward pass by more than rounding."""

    def logits(self, hidden: Tensor, vocabulary: Sequence[Any] | slice | None) -> Tensor:
        """float32 logits [..., V'] of the chosen tokens, or of all for None, from hidden states [..., D]."""
        chosen: Any = slice(None) if vocabulary is None else vocabulary
        if not isinstance(chosen, slice):
            chosen = torch.tensor(chosen, device=hidden.device)
        weight = self._head_weight[chosen].float()  # (V', D)
        bias = None if self._bias is None else self._bias[chosen].float()
        logits = torch.nn.functional.linear(hidden.float(), weight, bias).float() * self._logit_scale
        return logits if self._logit_cap is None else self._logit_cap * torch.tanh(logits / self._logit_cap)

    def log_likelihood(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """float32 log-likelihoods, in nats, of W tokens [..., W] behind each hidden state [..., D]: [..., W].

        The vocabulary goes by in blocks, so that some 4 million logits live at once and no more.
        """
        tokens = tokens.expand(*hidden.shape[:-1], -1)
        size = max(1, LOGITS_AT_ONCE * hidden.shape[-1] // max(1, hidden.numel()))
        total = hidden.new_full(hidden.shape[:-1], -math.inf, dtype=torch.float32)  # log of the sum of exp
        own = hidden.new_zeros(tokens.shape, dtype=torch.float32)
        for first in range(0, len(self._head_weight), size):
            logits = self.logits(hidden, slice(first, first + size))
            total = torch.logaddexp(total, logits.logsumexp(dim=-1))
            here = (tokens >= first) & (tokens < first + size)
            found = logits.gather(-1, (tokens - first).clamp(0, logits.shape[-1] - 1))
            own = torch.where(here, found, own)
        return own - total[..., None]

    @property
    def probe_vocabulary(self) -> tuple[int, ...]:
        """Some 64 tokens, evenly spread over the vocabulary, whose logits are compared."""
        step = max(1, self.vocabulary_size // CHECKED_TOKENS)
        return tuple(range(0, self.vocabulary_size, step))[:CHECKED_TOKENS]

    @property
    def probe_text(self) -> Tensor:
        """12 tokens to compare with, int [12]."""
        padding = getattr(self.config, "pad_token_id", None)
        text = [token for token in self.probe_vocabulary if token != padding]
        return torch.tensor(text[:12], device=self.device)

    def compare(self, logits: Tensor, plain: Tensor) -> None:
        """Raise GfoError if logits differ from those of a plain forward pass by more than rounding."""
        error, spread = float((logits - plain).abs().max()), float(plain.std())
        if not error <= nearness(self, 1e-3) * spread:
            raise GfoError(
                f"model '{self.name}' ({self.config.model_type}): its logits differ from a plain forward "
                f"pass by {error / (spread or 1.0):.1g} of their spread; take another model"
            )

    def _run(
        self,
        stack: Stack,
        entry: Tensor,
        change: Change | None,
        start: int,
        stop: int | None,
        **inputs: Any,
    ) -> Tensor:
        """A stack's layers from `start` to `stop - 1`, both counted in it.

        Args:
            stack, inputs: whose body runs, and what else it takes.
            entry: what enters layer `start`, [rows, T, D]; input embeddings at 0.
            change: candidates to apply, in the rows.
            start, stop: the first layer run, and the first not run any more; None to run the final norm, too.

        Returns:
            Hidden states [rows, T, D].
        """
        last, embeds = stack.size if stop is None else stop, entry.clone()  # a body may write into it
        with ExitStack() as hooks:
            if start:  # the body still wants embeddings, of which nothing is used
                embeds = entry.new_zeros(*entry.shape[:2], self.hidden_size)
                hooks.enter_context(stack.entering(start, entry.contiguous()))  # a layer may take a view
            seen = [] if stop is None else hooks.enter_context(stack.leaving(last))
            hooks.enter_context(applied(change, self.module, self._layers))
            out = self._through(stack.part(start, last), inputs_embeds=embeds, **inputs)
        return out if stop is None else seen[0]

    def _through(self, part: nn.Module, **inputs: Any) -> Tensor:
        """What leaves the last layer and the final norm of a stack's part, [rows, T, D]."""
        return part(**inputs).last_hidden_state  # type: ignore[no-any-return]
