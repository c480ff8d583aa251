"""The contract of a search space, checked by running it: `check_space(space, model)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.protocols import Batch, SearchSpace, Tokenizer
from gfo.testing.global_generators import states

if TYPE_CHECKING:
    from torch import Tensor

    from gfo.core.delta import Delta
    from gfo.models.frozen import FrozenModel

K = 4
TEXTS = (
    "a great joy from the first minute to the last",
    "a terrible waste of time",
    "the food was good, but the service was bad",
)
BEHIND = " It was"
LOGITS = 64  # of the vocabulary, evenly spread
RESPONSE = (0.1, 1.0)  # what a unit change in z may do to the logits: see `logit_response`


def check_space(
    space: SearchSpace,
    model: FrozenModel,
    *,
    same: SearchSpace | None = None,
    other: SearchSpace | None = None,
    response: tuple[float, float] | None = RESPONSE,
) -> None:
    """Run the whole contract on a space; raises AssertionError with what is broken.

    Args:
        space: made for the model.
        model: a frozen model, small if it is to be quick.
        same: another space of the same options and seed, which must decode to the same.
        other: another of another seed, which must not.
        response: the bounds of `logit_response`, or None not to look. It is a factor of 10 that all of gfo's
            spaces keep to with their defaults on SmolLM2-135M; a tiny random model has others.
    """
    for check in SPACE_CHECKS.values():
        check(space, model)
    z = _points(space, K)
    if same is not None:
        _require(_equal(_effects(space.decode(z)), _effects(same.decode(z))), "equal seeds must decode alike")
    if other is not None:
        different = not _equal(_effects(space.decode(z)), _effects(other.decode(z)))
        _require(different, "another seed must decode to something else")
    if response is not None and not _integer(space):
        found = logit_response(space, model)
        _require(
            response[0] <= found <= response[1],
            f"z must be unit scale: a typical z changes the logits by {found:.2g} of their spread, "
            f"not {response[0]} to {response[1]}; choose another default for alpha",
        )


def logit_response(
    space: SearchSpace, model: FrozenModel, *, size: float = 1.0, candidates: int = 8
) -> float:
    """How much one standard deviation in z changes the logits, relative to their own spread.

    The root mean square, over z ~ N(0, size^2 I) and three short texts, of std_v(logits(z) - logits(0)) over
    std_v(logits(0)), v running over 64 tokens of the vocabulary, at the place that a task reads. 0 is no
    change; above 1 nothing is left of the starting point.
    """
    z = np.vstack([np.zeros((1, space.domain.d)), size * _points(space, candidates).numpy()])
    logits = _logits(space, model, z)  # (1 + K, B, V')
    change = (logits[1:] - logits[:1]).std(-1) / logits[:1].std(-1)
    return float(change.square().mean().sqrt())


def check_shapes(space: SearchSpace, model: FrozenModel) -> None:
    """K candidates for each K, in float32, finite, where the model is; the model takes them; z stays."""
    import torch

    for k in (1, K):
        z = _points(space, k)
        before = z.clone()
        delta = space.decode(z)
        _require(torch.equal(z, before), "decode must not change z")
        _require(delta.candidates == k, f"decode of {k} points gives {delta.candidates} candidates")
        model.check(delta)
        for tensor in delta.tensors():
            _require(tensor.dtype == torch.float32, f"decode must give float32, gives {tensor.dtype}")
            _require(bool(tensor.isfinite().all()), "decode must give finite numbers")
            _require(tensor.device == model.device, f"decode gives tensors on {tensor.device}")
        single = _effects(space.decode(z.float()))
        _require(_close(_effects(delta), single, 1e-5), "decode must take float32 and float64 alike")


def check_start(space: SearchSpace, model: FrozenModel) -> None:
    """decode(0) is the same for all candidates, and changes no module or hidden state at all.

    A space that starts from a change, such as an adapter, declares it as its attribute `starts_from`, a
    Delta of one candidate: decode(0) must be that exactly.
    """
    import torch

    delta = space.decode(torch.zeros(K, space.domain.d, dtype=torch.float64))
    for tensor in _effects(delta):
        _require(torch.equal(tensor, tensor[:1].expand_as(tensor)), "decode(0) must be the same for all K")
    start = getattr(space, "starts_from", None)
    if start is not None:
        declared = [tensor.expand(K, *tensor.shape[1:]) for tensor in start.tensors()]
        _require(_equal(list(delta.tensors()), declared), "decode(0) must be what `starts_from` declares")
        return
    for slot in delta.slots:
        rest = slot.at_rest
        if rest is not None:
            unchanged = all(bool((effect == rest).all()) for effect in slot.effects())
            _require(unchanged, f"decode(0) must change nothing: every {slot.name} must be {rest:g}")


def check_repeatable(space: SearchSpace, model: FrozenModel) -> None:
    """decode draws nothing: twice the same, and no global generator moves."""
    z = _points(space, K)
    before = states()
    first, second = (_effects(space.decode(z)) for _ in range(2))
    _require(_equal(first, second), "decode must give the same for the same z")
    moved = [name for name, state in states().items() if state != before[name]]
    _require(not moved, f"decode must not draw from the global generator of {', '.join(moved)}")


def check_batched(space: SearchSpace, model: FrozenModel) -> None:
    """K at once are K one by one, as Deltas and as logits; and they differ from each other."""
    import torch

    z = _points(space, K)
    together = _effects(space.decode(z))
    alone = [_effects(space.decode(z[k : k + 1])) for k in range(K)]
    joined = [torch.cat(parts) for parts in zip(*alone, strict=True)]
    _require(_close(together, joined, 1e-5), "decode of K points must be that of each")
    logits = _logits(space, model, z.numpy())
    single = torch.cat([_logits(space, model, z[k : k + 1].numpy()) for k in range(K)])
    error = float((logits - single).abs().max() / logits.std(-1).mean())
    _require(error < 1e-3, f"logits of K points differ from each by {error:.1g} of their spread")
    apart = float((logits - logits.roll(1, 0)).abs().amax((1, 2)).min() / logits.std(-1).mean())
    _require(apart > 1e-4, "each point must have logits of its own")


def check_gradient(space: SearchSpace, model: FrozenModel) -> None:
    """Gradients by autograd are those by finite differences, and the space is not even around 0."""
    import torch

    if _integer(space):
        return
    z, step = _points(space, 2), 0.05
    weights = [_normal(t.shape, seed=i) for i, t in enumerate(_effects(space.decode(z)))]

    def f(z: Tensor) -> Tensor:
        """[K], a random linear function of what changes."""
        parts = zip(weights, _effects(space.decode(z)), strict=True)
        return torch.stack([(w.to(t.device) * t).flatten(1).double().sum(1) for w, t in parts]).sum(0)

    z.requires_grad_()
    whole = f(z).sum()
    _require(whole.requires_grad, "decode must be differentiable")
    (gradient,) = torch.autograd.grad(whole, z)
    with torch.no_grad():
        for i in range(3):
            direction = _normal(z.shape, seed=100 + i).double()
            numeric = (f(z + step * direction) - f(z - step * direction)) / (2 * step)
            expected = (gradient * direction).sum(1)
            size = float(gradient.norm(dim=1).max())
            error = float((numeric - expected).abs().max()) / max(size, 1e-30)
            _require(error < 0.02, f"autograd and finite differences differ by {error:.1g} of the gradient")
        up, down, at = (f(sign * z) for sign in (1, -1, 0))
        odd, even = float((up - down).abs().max()), float((up + down - 2 * at).abs().max())
        _require(odd > 0.1 * even, "z and -z must not do the same: at 0 there would be no signal")


SPACE_CHECKS = {
    "shapes": check_shapes,
    "start": check_start,
    "repeatable": check_repeatable,
    "batched": check_batched,
    "gradient": check_gradient,
}


class _Probe:
    """A task of three texts with a soft prompt behind them, read at 64 tokens of the vocabulary."""

    splits = ("train",)

    def __init__(self, model: FrozenModel) -> None:
        self._model = model

    def bind(self, tokenizer: Tokenizer) -> _Probe:
        return self

    def batch(self, split: str, step: int) -> Batch:
        return self.all_rows(split)

    def all_rows(self, split: str) -> Batch:
        """The texts."""
        model = self._model
        before = tuple(model.encode(text, start=True) for text in TEXTS)
        mask = () if model.read_token is None else (model.read_token,)
        after = model.encode(BEHIND) + mask
        after += () if model.reads == "next" else model.encode("", end=True)
        step = max(1, model.vocabulary_size // LOGITS)
        vocabulary: tuple[Any, ...] = tuple(range(0, model.vocabulary_size, step))
        if model.reads == "sentence":
            vocabulary = tuple(model.encode(text, start=True, end=True) for text in TEXTS)
        target = np.zeros(len(TEXTS), dtype=np.int64)
        return Batch(("probe",), before, (after,) * len(TEXTS), vocabulary, target, here=True)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return logits.sum((-1, -2))

    def score(self, logits: Tensor, batch: Batch) -> dict[str, Array]:
        return {}


def _logits(space: SearchSpace, model: FrozenModel, z: Array) -> Tensor:
    """float32 logits [K, B, V'] of the probe."""
    from gfo.evaluation.local import LocalEvaluator

    evaluator = LocalEvaluator(model, _Probe(model), space)  # type: ignore[arg-type]
    logits: Tensor = evaluator.answers(z, evaluator.task.all_rows("train"))
    return logits


def _effects(delta: Delta) -> list[Tensor]:
    """What candidates change, each [K, ...]: see `gfo.core.slots.Slot.effects`."""
    return [effect for slot in delta.slots for effect in slot.effects()]


def _points(space: SearchSpace, k: int) -> Tensor:
    """Typical points, float64 [k, d]: standard normal, or anywhere in a box of whole numbers."""
    import torch

    rng, domain = np.random.default_rng(0), space.domain
    z = rng.standard_normal((k, domain.d))
    whole = rng.random((k, domain.d))
    with np.errstate(invalid="ignore"):
        whole = np.floor(domain.low + whole * (domain.high - domain.low + 1))
    return torch.from_numpy(domain.clip(np.where(domain.integer, whole, z)))


def _normal(shape: Sequence[int], seed: int) -> Tensor:
    import torch

    return torch.from_numpy(np.random.default_rng(seed).standard_normal(tuple(shape))).float()


def _integer(space: SearchSpace) -> bool:
    return bool(space.domain.integer.any())


def _equal(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return len(a) == len(b) and all(
        x.shape == y.shape and bool((x == y).all()) for x, y in zip(a, b, strict=True)
    )


def _close(a: Sequence[Tensor], b: Sequence[Tensor], tolerance: float) -> bool:
    """Equal up to a share of the largest number of each tensor."""
    return all(
        float((x - y).abs().max()) <= tolerance * max(float(x.abs().max()), 1e-30)
        for x, y in zip(a, b, strict=True)
    )


def _require(kept: Any, sentence: str) -> None:
    """An assertion that stays on under `python -O`."""
    if not kept:
        raise AssertionError(sentence)
