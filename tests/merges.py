"""Checkpoints of tiny models, whole and as adapters, and merges of tensors by the formulas, in float64."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import torch

from gfo.models.loading import no_progress_bars

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # peft's own, at import
    import peft

ROWS = [
    {"text": "a great joy from the first minute to the last", "label": "good"},
    {"text": "a terrible waste of time", "label": "bad"},
    {"text": "the food was good, but the service was bad", "label": "bad"},
]
LABELS = {"bad": " terrible", "good": " great"}


def save(module, tokenizer, folder):
    """A folder of a whole model."""
    with no_progress_bars():
        module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def whole(model, folder, number=3, size=0.1, seed=0, dtype=None):
    """Folders of models that differ from one in all parameters."""
    rng, found = torch.Generator().manual_seed(seed), []
    for i in range(number):
        module = copy.deepcopy(model.module)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(size * torch.randn(parameter.shape, generator=rng))
        found.append(save(module.to(dtype or model.dtype), model.tokenizer, folder / f"whole-{i}"))
    return found


def adapters(model, folder, number=3, seed=0, size=0.3, **options):
    """Folders of LoRA adapters with random matrices, of ranks 2, 3, ..."""
    rng, found = torch.Generator().manual_seed(seed), []
    for i in range(number):
        given = {"target_modules": ["q_proj", "v_proj", "down_proj"], "lora_alpha": 6, "r": 2 + i}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = peft.get_peft_model(copy.deepcopy(model.module), peft.LoraConfig(**given | options))
            for _, parameter in adapted.named_parameters():
                if parameter.requires_grad:
                    parameter.data = size * torch.randn(parameter.shape, generator=rng)
            adapted.save_pretrained(folder / f"adapter-{i}")
        found.append(folder / f"adapter-{i}")
    return found


def linear(base, tensors, w):
    return sum(each * tensor for each, tensor in zip(w, tensors, strict=True))


def task_arithmetic(base, tensors, w):
    return base + sum(each * (tensor - base) for each, tensor in zip(w, tensors, strict=True))


def ties(base, tensors, w, density):
    """Trim, elect, merge: Yadav et al. 2023, algorithm 1, with weights."""
    trimmed = []
    for tensor in tensors:
        tau = (tensor - base).ravel()
        keep = np.argsort(-np.abs(tau))[: max(1, int(density * tau.size))]
        kept = np.zeros_like(tau)
        kept[keep] = tau[keep]
        trimmed.append(kept.reshape(base.shape))
    total = sum(each * tau for each, tau in zip(w, trimmed, strict=True))
    sign = np.where(total >= 0, 1.0, -1.0)
    top, below = np.zeros_like(base), np.zeros_like(base)
    for each, tau in zip(w, trimmed, strict=True):
        agrees = np.sign(each * tau) == sign
        top += agrees * each * tau
        below += agrees * each
    return base + top / np.where(below == 0, 1.0, below)


def dare(base, tensors, w, masks, *, elect):
    """Drop and rescale, to the sum of magnitudes of all; then a sum, or that of elected signs."""
    kept = []
    for tensor, mask in zip(tensors, masks, strict=True):
        tau = tensor - base
        left = np.abs(tau * mask).sum()
        kept.append(tau * mask * (np.abs(tau).sum() / left if left else 1.0))
    parts = np.stack([each * tau for each, tau in zip(w, kept, strict=True)])
    if elect:
        sign = np.where(parts.sum(0) >= 0, 1.0, -1.0)
        parts = parts * (np.sign(parts) == sign)
    return base + parts.sum(0)


def slerp(first, second, t):
    a, b = first.ravel() / np.linalg.norm(first), second.ravel() / np.linalg.norm(second)
    cos = np.clip(a @ b, -1, 1)
    if abs(cos) > 0.9995:
        return (1 - t) * first + t * second
    omega = np.arccos(cos)
    return (np.sin((1 - t) * omega) * first + np.sin(t * omega) * second) / np.sin(omega)
