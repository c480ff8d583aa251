"""gfo's rivals: the same losses of the same candidates on the same rows, other ways.

serial: one candidate per forward pass over whole padded sequences with the full output head, as
Black-Box Tuning (Sun et al. 2022) and MeZO (Malladi et al. 2023) do it: soft prompts among the input
embeddings, low-rank changes merged into weights, deep prompts by hooks. stacked: candidates on the
batch axis. peft: PEFT, one LoRA adapter a candidate, switched from pass to pass. plain: no candidates,
only stock forward passes over as many tokens as depend on the candidates, the ceiling. All of them
call transformers' own forward pass, without a cache.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from benchmarks.speed.workloads import Setting
from gfo.core.delta import Delta
from gfo.core.domain import Array
from gfo.evaluation.joining import parts
from gfo.evaluation.local import LocalEvaluator
from gfo.evaluation.plan import plan
from gfo.evaluation.rows import TokenRows
from gfo.models.apply import Change, applied
from gfo.models.structure import hooked

Rival = Callable[[], Array | None]  # the candidates' losses [K], or None if it has no candidates


def usual_rivals(it: Setting, evaluator: LocalEvaluator) -> dict[str, Rival]:
    """The rivals by name; `evaluator` keeps what it computes once from call to call."""
    rows = WholeRows(it)
    serial = Serial(it, rows)
    rivals: dict[str, Rival] = {
        "gfo": lambda: evaluator(it.z, 0).loss,
        "serial": serial.losses,
        "stacked": lambda: stacked(it, rows),
        "plain": Plain(it).run,
    }
    if it.delta().lora and it.delta().begins is None and find_spec("peft"):
        rivals["peft"] = Peft(it, rows).losses
    return rivals


class WholeRows:
    """Whole sequences of all rows, padded on the right.

    Attributes:
        tokens: words and places of the soft prompt, [B, T].
        length: T.
    """

    def __init__(self, it: Setting) -> None:
        self._it = it
        begin = it.delta().begins
        place = None if begin is None else begin.place
        whole = plan(it.batch, it.workload.prompt_tokens, begins=place, reuse=False).branches
        self.tokens = TokenRows.padded(whole, it.model.device)
        self.length = int(self.tokens.ids.shape[1])

    def logits(self, module: Any, embeds: Tensor, b: Tensor) -> Tensor:
        """float32 logits [N, V'] behind rows b [N], whose input embeddings are [N, T, D]."""
        last = self.tokens.length[b] - 1
        visible = torch.arange(self.length, device=b.device) <= last[:, None]
        logits = module(inputs_embeds=embeds, attention_mask=visible.long(), use_cache=False).logits
        answer = logits[torch.arange(len(b), device=b.device), last]  # (N, V)
        return answer[:, list(self._it.batch.vocabulary or ())].float()  # type: ignore[no-any-return]

    def losses(self, logits: Tensor) -> Array:
        """float32 logits [K, B, V'] -> mean losses [K]."""
        losses: Array = torch.as_tensor(self._it.bound.loss(logits, self._it.batch)).double().cpu().numpy()
        return losses


class Serial:
    """One candidate per forward pass over all rows, changed as the field does it.

    Low-rank changes are written into the weights of a copy, W + B A from the untouched W, each
    candidate's over the last one's; the copy shares all weights that no candidate changes.
    """

    def __init__(self, it: Setting, rows: WholeRows) -> None:
        self._it, self._rows = it, rows
        self._module = sharing_copy(it.model.module, it.delta().modules)
        names = {id(part): name for name, part in it.model.module.named_modules()}
        layers = [names[id(layer)] for stack in it.model.stacks for layer in stack.layers]
        self._layers = [self._module.get_submodule(name) for name in layers]

    @torch.no_grad()
    def losses(self) -> Array:
        """Losses [K]."""
        rows, delta = self._rows, self._it.delta()
        b = torch.arange(len(rows.tokens.length), device=self._it.model.device)
        words = rows.tokens.embed(self._it.model)
        read = []
        for k in range(delta.candidates):
            if delta.begins is not None:
                read.append(self._masked(delta.select(slice(k, k + 1)), words, b))
                continue
            self._merge(delta, k)
            embeds = words if delta.prompt is None else self._placed(delta.prompt[k], words, add=False)
            with self._hooks(delta, k):
                read.append(rows.logits(self._module, embeds, b))
        return rows.losses(torch.stack(read))

    def _masked(self, one: Delta, words: Tensor, b: Tensor) -> Tensor:
        """Logits [B, V'] of a candidate whose changes begin at a place: no weight holds them."""
        tokens = self._rows.tokens
        change = Change(one, tokens.places(1, 0)[0], changed=tokens.changed)
        with applied(change, self._module, self._layers):
            return self._rows.logits(self._module, words, b)

    def _merge(self, delta: Delta, k: int) -> None:
        for name, (A, B) in delta.lora.items():
            part: Any = self._module.get_submodule(name)
            weight = self._it.model.weight(name)  # (out, in), untouched
            mine = part.weight.T if isinstance(part, Conv1D) else part.weight
            torch.addmm(weight, B[k], A[k], out=mine)

    def _placed(self, prompt: Tensor, hidden: Tensor, *, add: bool) -> Tensor:
        """Prompt tokens [P, D] in their places of hidden states [B, T, D], or added to them."""
        slot = self._rows.tokens.slot  # (B, T)
        there = prompt[slot.clamp(min=0)]
        return torch.where((slot >= 0)[..., None], hidden + there if add else there, hidden)

    def _hooks(self, delta: Delta, k: int) -> AbstractContextManager[None]:
        def adder(prompt: Tensor) -> Any:
            def hook(module: Any, args: Any, kwargs: Any) -> Any:
                if args:
                    return (self._placed(prompt, args[0], add=True), *args[1:]), kwargs
                hidden = self._placed(prompt, kwargs["hidden_states"], add=True)
                return args, kwargs | {"hidden_states": hidden}

            return hook

        handles = [
            self._layers[layer].register_forward_pre_hook(adder(prompt[k]), with_kwargs=True)
            for layer, prompt in delta.layer_prompt.items()
        ]
        return hooked(*handles)


def sharing_copy(module: Any, own: set[str]) -> Any:
    """A copy of a transformers model that shares all weights but those of the modules named."""
    mine = {id(p) for name in own for p in module.get_submodule(name).parameters()}
    return copy.deepcopy(module, {id(p): p for p in module.parameters() if id(p) not in mine})


@torch.no_grad()
def stacked(it: Setting, rows: WholeRows) -> Array:
    """Losses [K], candidates on the batch axis: whole sequences, as many as fit into a forward pass."""
    delta, module = it.delta(), it.model.module
    K, B, P = delta.candidates, len(it.batch), it.workload.prompt_tokens
    at_once = max(1, it.chunk_tokens // rows.length)
    layers = [layer for stack in it.model.stacks for layer in stack.layers]
    read = []
    for part in parts(K, at_once // B):
        some, each, C = delta.select(part), [], part.stop - part.start
        places = rows.tokens.places(C, P)  # (C, B, T)
        for b in torch.split(torch.arange(B, device=it.model.device), at_once if C == 1 else B):
            changed = None if rows.tokens.changed is None else rows.tokens.changed[b].repeat(C, 1)
            change = Change(some, places[:, b].flatten(0, 1), changed=changed)
            embeds = it.model.embed(rows.tokens.ids[b]).repeat(C, 1, 1)
            with applied(change, module, layers):
                logits = rows.logits(module, change.put_prompts(embeds), b.repeat(C))
            each.append(logits.view(C, len(b), -1))
        read.append(torch.cat(each, dim=1))
    return rows.losses(torch.cat(read))


class Peft:
    """PEFT's LoRA: an adapter for each candidate, one active in a forward pass over all rows.

    Args:
        it: a workload with low-rank changes and nothing else.
        rows: the whole rows.
    """

    def __init__(self, it: Setting, rows: WholeRows) -> None:
        from peft import LoraConfig, get_peft_model

        self._it, self._rows, delta = it, rows, it.delta()
        first = next(iter(delta.lora))
        rank = int(delta.lora[first][0].shape[1])
        config = LoraConfig(
            r=rank,
            lora_alpha=rank,  # a factor of 1
            target_modules=list(delta.lora),
            fan_in_fan_out=isinstance(it.model.module.get_submodule(first), Conv1D),
            bias="none",
        )
        options: Any = {"autocast_adapter_dtype": False}
        module = sharing_copy(it.model.module, set())
        self._adapters = [f"candidate{k}" for k in range(delta.candidates)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for a deprecated name
            self._module: Any = get_peft_model(module, config, self._adapters[0], **options)
        for adapter in self._adapters[1:]:
            self._module.add_adapter(adapter, config, **options)
        self._module.to(it.model.device).eval()

    @torch.no_grad()
    def losses(self) -> Array:
        """Losses [K]; the candidates' numbers are written into the adapters first."""
        rows, delta = self._rows, self._it.delta()
        b = torch.arange(len(rows.tokens.length), device=self._it.model.device)
        words = rows.tokens.embed(self._it.model)
        for name, (A, B) in delta.lora.items():
            part = self._module.base_model.model.get_submodule(name)
            for k, adapter in enumerate(self._adapters):
                part.lora_A[adapter].weight.copy_(A[k])
                part.lora_B[adapter].weight.copy_(B[k])
        read = []
        for adapter in self._adapters:
            self._module.set_adapter(adapter)
            read.append(rows.logits(self._module, words, b))
        return rows.losses(torch.stack(read))


class Plain:
    """Stock forward passes without a mask or a cache, over as many tokens as depend on the candidates.

    What all rows have in common is a sequence a candidate; the rest are K * B sequences of mean length,
    without padding. They run from the first layer that candidates touch.

    Attributes:
        passes: (sequences, tokens each) of each forward pass.
    """

    def __init__(self, it: Setting) -> None:
        delta, K, stack = it.delta(), len(it.z), it.model.stacks[0]
        self._it, self._body = it, stack.part(delta.first_layer, stack.size)
        begins = None if delta.begins is None else delta.begins.place
        everywhere = delta.everywhere and begins is None
        todo = plan(it.batch, it.workload.prompt_tokens, everywhere=everywhere, begins=begins)
        tokens = K * sum(map(len, todo.branches))
        n = max(1, round(tokens / (K * len(todo.branches))))
        self.passes = list(_fill(K, len(todo.own), it.chunk_tokens)) if todo.own else []
        self.passes += _fill(-(-tokens // n), n, it.chunk_tokens)
        words = [token for text in (*it.batch.before, *it.batch.after) for token in text]
        self._words = torch.tensor(words, device=it.model.device)

    @torch.no_grad()
    def run(self) -> None:
        """All passes, and the label words' logits of each sequence."""
        model = self._it.model
        for sequences, n in self.passes:
            ids = self._words.repeat(sequences * n // len(self._words) + 1)[: sequences * n]
            embeds = model.embed(ids.view(sequences, n))
            hidden = self._body(inputs_embeds=embeds, use_cache=False).last_hidden_state
            model.logits(hidden[:, -1], self._it.batch.vocabulary)


def _fill(sequences: int, n: int, chunk_tokens: int) -> Iterator[tuple[int, int]]:
    """Sequences of n tokens in forward passes of at most `chunk_tokens`, as equal as can be."""
    passes = -(-sequences // max(1, chunk_tokens // n))
    for number in range(passes):
        yield sequences * (number + 1) // passes - sequences * number // passes, n
