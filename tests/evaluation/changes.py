"""Changes of every kind for the tests of equality, and the same ones made the slow way.

The slow way: one candidate, one row, the whole sequence; modules changed in a copy of the transformers
model's weights, prompts added by a hook, prefixes as `past_key_values`.
"""

from __future__ import annotations

import copy
import re

import torch
from torch.nn.functional import gelu
from transformers import DynamicCache
from transformers.pytorch_utils import Conv1D

from gfo.core.bank import Bank
from gfo.core.delta import Delta
from gfo.core.domain import Domain

DIM = 6
P = 3
PREFIX = 2
RANK = 2
QUERY = r"\.(q_proj|query_key_value|c_attn|query|q)$"  # of attention, fused or not; cross-attention's too
OUTPUT = r"\.(o_proj|dense|c_proj|out_proj|o|wo|fc2|down_proj|dense_4h_to_h)$"


class Changes:
    """A space of the slots named, each a fixed random linear map of z; decode(0) changes nothing.

    Args:
        model: a frozen model.
        slots: any of "prompt", "layer_prompt", "prefix", "bank", "lora", "scale", "bias",
            "adapter".
        first: the lowest layer changed, for all slots but "prompt".
        last: the layer not changed any more.
    """

    def __init__(self, model, slots, *, first=0, last=None, seed=0):
        self.domain = Domain.unbounded(DIM)
        self.model, self.slots = model, slots
        self.layers = range(first, model.layers if last is None else last)
        self.seed = seed
        self.words = 0.25 * self.draw("words", 1, P, model.hidden_size)[0].detach()

    def draw(self, name, *shape):
        """A fixed random tensor [*shape, DIM] for the name."""
        number = sum(ord(c) * 31**i for i, c in enumerate(name)) % 2**31
        generator = torch.Generator().manual_seed(number + self.seed)
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def moved(self, z, name, *shape, size=0.5):
        """[K, *shape] that is 0 at z = 0."""
        A = self.draw(name, *shape, DIM) / DIM**0.5
        return (size * torch.einsum("...d,kd->k...", A, z.double())).float()

    def modules(self, pattern):
        inside = {n: i for n, i in self.model.linears.items() if i.layer in self.layers}
        found = {n: i for n, i in inside.items() if re.search(pattern, n)}
        assert found, pattern
        return found

    def decode(self, z):
        K, D = len(z), self.model.hidden_size
        slots = {}
        if "prompt" in self.slots:
            slots["prompt"] = self.words.float() + self.moved(z, "prompt", P, D)
        elif "layer_prompt" in self.slots:
            slots["prompt"] = self.words.float().expand(K, P, D)
        if "layer_prompt" in self.slots:
            hidden = self.model.config.hidden_size
            slots["layer_prompt"] = {n: self.moved(z, f"layer {n}", P, hidden) for n in self.layers}
        if "prefix" in self.slots:
            slots["prefix"] = {n: self.prefix(z, n) for n in self.layers}
        if "bank" in self.slots:
            slots["bank"] = {n: self.chosen(z, n, i) for n, i in self.modules(QUERY + "|" + OUTPUT).items()}
        if "lora" in self.slots:
            slots["lora"] = {n: self.low_rank(z, n, i) for n, i in self.modules(QUERY + "|" + OUTPUT).items()}
        if "scale" in self.slots:
            modules = self.modules(OUTPUT).items()
            slots["scale"] = {n: 1 + self.moved(z, f"scale {n}", i.out_features) for n, i in modules}
        if "bias" in self.slots:
            slots["bias"] = {
                n: self.moved(z, f"bias {n}", i.out_features) for n, i in self.modules(QUERY).items()
            }
        if "adapter" in self.slots:
            slots["adapter"] = {n: self.bottleneck(z, n, i) for n, i in self.modules(OUTPUT).items()}
        moves_words = "prompt" in self.slots
        return Delta(**slots, first_layer=0 if moves_words else self.layers[0])

    def chosen(self, z, name, info):
        """One of three weights in one half of the modules, a mixture in the other; the first is its own."""
        own = self.model.weight(name).float()
        weights = own + 0.1 * self.draw(f"bank {name}", 3, *own.shape).float()
        weights[0] = own
        score = self.moved(z, f"choice {name}", 1, size=3.0)[:, 0]
        if info.layer % 2:
            return torch.stack([1 - score, score, 0 * score], dim=1), Bank.of(weights)
        return torch.nn.functional.one_hot(score.round().long() % 3, 3).float(), Bank.of(weights)

    def low_rank(self, z, name, info):
        """A shared by all candidates in one half of the modules, B in the other."""
        first, second = f"A {name}", f"B {name}"
        if info.layer % 2:
            A = self.draw(first, RANK, info.in_features).float().expand(len(z), -1, -1)
            return A, self.moved(z, second, info.out_features, RANK, size=0.1)
        B = self.draw(second, info.out_features, RANK).float().expand(len(z), -1, -1)
        return self.moved(z, first, RANK, info.in_features, size=0.1), B

    def bottleneck(self, z, name, info):
        """A shared by all candidates in every other layer."""
        A = self.draw(f"down {name}", RANK, info.out_features).float().expand(len(z), -1, -1)
        if info.layer % 2:
            A = A + self.moved(z, f"down moved {name}", RANK, info.out_features)
        return A, self.moved(z, f"up {name}", info.out_features, RANK, size=0.2)

    def prefix(self, z, layer):
        config = self.model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        start = [0.5 * self.draw(f"{name} {layer}", heads, PREFIX, size).float() for name in "kv"]
        return tuple(
            s + self.moved(z, f"prefix {i} {layer}", heads, PREFIX, size) for i, s in enumerate(start)
        )


def changed_module(model, delta):
    """A copy of the transformers model with one candidate's changes of modules in its weights."""
    module = copy.deepcopy(model.module)
    for name in delta.modules:
        part = module.get_submodule(name)
        weight = part.weight.T if isinstance(part, Conv1D) else part.weight
        bias = getattr(part, "bias", None)
        bias = torch.zeros(len(weight)) if bias is None else bias
        with torch.no_grad():
            if name in delta.bank:
                shares, bank = delta.bank[name]
                weight = sum(share * bank[m] for m, share in enumerate(shares[0]))
            if name in delta.lora:
                A, B = (t[0] for t in delta.lora[name])
                weight = weight + B @ A
            if name in delta.scale:
                weight, bias = weight * delta.scale[name][0][:, None], bias * delta.scale[name][0]
            if name in delta.bias:
                bias = bias + delta.bias[name][0]
            part.weight = torch.nn.Parameter(weight.T if isinstance(part, Conv1D) else weight)
            part.bias = torch.nn.Parameter(bias)
            if name in delta.adapter:
                A, B = (t[0] for t in delta.adapter[name])
                part.register_forward_hook(lambda m, x, y, A=A, B=B: y + gelu(y @ A.T) @ B.T)
    return module


def hook_prompts(module, layers, delta, begin):
    """Add one candidate's layer prompts to the hidden states from the place `begin` on."""

    def adder(prompt):
        def hook(layer, args, kwargs):
            hidden = (args[0] if args else kwargs["hidden_states"]).clone()
            if hidden.shape[1] < begin + P:
                return args, kwargs  # a token behind the prompt, which is in the cache
            hidden[:, begin : begin + P] += prompt
            return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})

        return hook

    for n, prompt in delta.layer_prompt.items():
        module.get_submodule(layers[n]).register_forward_pre_hook(adder(prompt[0]), with_kwargs=True)


def past(model, delta):
    """One candidate's prefix as transformers takes it, and its length."""
    if not delta.prefix:
        return None, 0
    cache = DynamicCache()
    for n in range(model.layers):
        cache.update(*(t for t in delta.prefix[n]), n)
    return cache, PREFIX


def layer_names(model):
    """Names of the layers in the transformers model."""
    names = {id(part): name for name, part in model.module.named_modules()}
    return [names[id(layer)] for stack in model.stacks for layer in stack.layers]
