"""EGGROLL: an evolution strategy on all matrices, whose perturbations are of low rank.

Sarkar et al. 2025: Evolution Strategies at the Hyperscale, arXiv:2511.16652. Candidate i of N evaluates

    W + sigma E_i,  E_i = A_i B_i^T / sqrt(r),  entries of A_i and B_i from N(0, 1),  E_{i + N/2} = -E_i

in one pass with all others, x W once for all of them and x B_i A_i^T beside it, and the centre moves by

    W <- W + lr sqrt(N) mean_i(s_i E_i),  W <- W - lr decay (W - W_0)

with s the losses' z-scores, as Qiu et al. 2025 (Evolution Strategies at Scale, arXiv:2509.24372) have them.
The second step draws to the weights that were loaded, against forgetting. The centre is held in float32,
beside the weights that compute. Noise is drawn again from its seed: the steps' numbers and losses are all
that a checkpoint holds, and replay the centre.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from gfo.baselines.base import Setting, Trainer, fill, positive
from gfo.baselines.weights import Weights, copied
from gfo.core.delta import Delta
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.core.protocols import Evaluation
from gfo.core.seeding import stream_seed
from gfo.evaluation.local import LocalEvaluator
from gfo.models.weights import is_transposed
from gfo.optimizers.fitness_shaping import z_scores
from gfo.spaces.parts.targets import find_targets
from gfo.spaces.scaling import norms_of

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel


class Places:
    """What of a model is perturbed: matrices of linear modules, and vectors.

    Args:
        model: whose module computes.
        targets: names of linear modules, as in gfo.LoRASubspace; None for all in the layers.
        vectors: whether biases of these modules and the gains of norms are perturbed, too.

    Attributes:
        matrices, biases: name -> parameter.
        gains: name -> a norm's gain and, if it has one, its bias, which one factor multiplies.
        offsets: name -> what a norm adds to its gain: 1 in Gemma, else 0.
        parameters: all of them.
        first_layer: no hidden state that enters a layer below it, or it, depends on them.
    """

    def __init__(self, model: FrozenModel, targets: str | Sequence[str] | None, vectors: bool) -> None:
        matrices = _matrices(model, targets)
        self.transposed = {name: is_transposed(part) for name, part in matrices.items()}
        self.matrices: dict[str, Any] = {name: part.weight for name, part in matrices.items()}
        biases = {name: getattr(part, "bias", None) for name, part in matrices.items()}
        self.biases: dict[str, Any] = {n: b for n, b in biases.items() if vectors and b is not None}
        norms = _norms(model) if vectors else {}
        self.offsets = {name: offset for name, (_, offset) in norms.items()}
        self.gains = {name: _of_norm(part) for name, (part, _) in norms.items()}
        of_norms = itertools.chain.from_iterable(self.gains.values())
        self.parameters: list[nn.Parameter] = [*self.matrices.values(), *self.biases.values(), *of_norms]
        self.first_layer = min(map(model.lowest_layer, (*self.matrices, *self.gains)))


def _matrices(model: FrozenModel, targets: str | Sequence[str] | None) -> dict[str, Any]:
    """The linear modules by name, without those whose weight another one has, too."""
    module = model.module
    uses = Counter(id(p) for _, p in module.named_parameters(remove_duplicate=False))
    names = list(model.linears) if targets is None else find_targets(model, targets)
    parts = {name: module.get_submodule(name) for name in names}
    return {name: part for name, part in parts.items() if uses[id(part.weight)] == 1}


def _norms(model: FrozenModel) -> dict[str, tuple[Any, float]]:
    """The norms in the layers by name, and what each adds to its gain, where that is known."""
    inside = [name for name, _ in norms_of(model) if model.layer_of(name) is not None]
    parts = {name: model.module.get_submodule(name) for name in inside}
    found = {name: (part, _offset_of(part)) for name, part in parts.items()}
    return {name: (part, offset) for name, (part, offset) in found.items() if offset is not None}


class Population:
    """The candidates of a step around the centre, as a space: point [k] is candidate k.

    Args:
        places: what is perturbed.
        device: where noise is drawn.
        pairs: N / 2.
        rank: r.
        sigma: the size of a perturbation's entries.
        seed: noise of step t comes from the stream "population t" under it.
    """

    def __init__(
        self, places: Places, device: torch.device, pairs: int, rank: int, sigma: float, seed: int
    ) -> None:
        self._places, self._device, self._root = places, device, seed
        self._pairs, self._rank, self._sigma = pairs, rank, sigma
        self.domain = Domain.unbounded(1)
        self.draw(0)

    def draw(self, step: int) -> None:
        """The noise of a step: of matrices A [P, r, in] and B / sqrt(r) [P, out, r], of vectors [P, size]."""
        generator = torch.Generator(self._device).manual_seed(stream_seed(self._root, f"population {step}"))

        def normal(*shape: int) -> Tensor:
            return torch.randn(self._pairs, *shape, generator=generator, device=self._device)

        places, r = self._places, self._rank
        self.matrices: dict[str, tuple[Tensor, Tensor]] = {}
        for name, weight in places.matrices.items():
            out, inner = weight.shape[::-1] if places.transposed[name] else weight.shape
            self.matrices[name] = normal(r, inner), normal(out, r) / math.sqrt(r)
        self.biases = {name: normal(len(bias)) for name, bias in places.biases.items()}
        self.gains = {name: normal(len(several[0])) for name, several in places.gains.items()}

    def decode(self, z: Tensor) -> Delta:
        """Numbers of candidates, z [K, 1], -> K changes: the first half ahead, the others behind."""
        k = z[:, 0].long()
        pair, side = k % self._pairs, self._sigma * (1 - 2 * (k // self._pairs)).float()  # [K]
        lora = {name: (A[pair], side[:, None, None] * B[pair]) for name, (A, B) in self.matrices.items()}
        bias = {name: side[:, None] * n[pair] for name, n in self.biases.items()}
        gain = {name: 1 + side[:, None] * n[pair] for name, n in self.gains.items()}
        return Delta(lora=lora, bias=bias, scale=gain, first_layer=self._places.first_layer)


class Eggroll(Trainer):
    """The strategy on a model's weights.

    Args:
        trained: the places' parameters.
        places: what is perturbed.
        population: N, even.
        rank: r.
        sigma: the size of a perturbation's entries.
        lr: the step along the mean of scored directions, times sqrt(N).
        decay: towards the start, times lr.
        seed: of the noise.

    Raises:
        GfoError: for a number out of range.
    """

    def __init__(
        self,
        trained: Weights,
        places: Places,
        *,
        population: int,
        rank: int,
        sigma: float,
        lr: float,
        decay: float,
        seed: int,
    ) -> None:
        if population < 2 or population % 2:
            raise GfoError(f"baseline: population = {population} must be even, for pairs")
        if rank < 1:
            raise GfoError(f"baseline: rank = {rank} must be at least 1")
        if not (decay >= 0 and lr * decay < 1):
            raise GfoError(f"baseline: decay = {decay} must be 0 or more, and less than 1 / lr")
        super().__init__(trained, losses=population)
        self._places, self._lr, self._decay = places, positive("lr", lr), decay
        self._theta = [p.detach().float().clone() for p in trained.parameters]
        self._start = [theta.clone() for theta in self._theta] if decay else []
        self.population = Population(
            places, trained.model.device, population // 2, rank, positive("sigma", sigma), seed
        )
        evaluator = trained.evaluator
        self._all = LocalEvaluator(trained.model, trained.task, self.population, memory=trained.memory)
        evaluator.use(self._all.settings())
        self._step, self._told = 0, list[tuple[int, Array]]()
        for parameter in trained.parameters:
            parameter.requires_grad_(False)

    def __call__(self, z: Array, step: int) -> Evaluation:
        """The losses [N] of the population on the step's batch, in one pass."""
        self._step = step
        self.population.draw(step)
        return self._all(np.arange(float(len(z)))[:, None], step)

    def tell(self, z: Array, loss: Array) -> None:
        """One update along the directions evaluated; none where all candidates failed."""
        if np.isnan(loss).all():
            return
        self._told.append((self._step, np.array(loss, dtype=np.float64)))
        self._move(loss)
        self.trained.moved()

    @torch.no_grad()
    def _move(self, loss: Array) -> None:
        """Move the centre by the losses [N] of the population drawn, and write it into the weights."""
        N = len(loss)
        s = z_scores(loss)
        c = torch.from_numpy(s[: N // 2] - s[N // 2 :]).float().to(self._theta[0].device)
        along = self._lr * math.sqrt(N) / N
        theta = iter(self._theta)
        for name, (A, B) in self.population.matrices.items():
            W = next(theta)
            W = W.T if self._places.transposed[name] else W
            W.addmm_((c[:, None, None] * B).permute(1, 0, 2).flatten(1), A.flatten(0, 1), alpha=along)
        for n in self.population.biases.values():
            next(theta).add_(c @ n, alpha=along)
        for name, n in self.population.gains.items():
            factor = 1 + along * (c @ n)
            offsets = self._places.offsets[name], 0.0  # of gain and bias
            for _, offset in zip(self._places.gains[name], offsets, strict=False):
                W = next(theta)
                W.add_(offset).mul_(factor).sub_(offset)
        for W, W_0 in zip(self._theta, self._start, strict=False):  # none without decay
            W.add_(W_0 - W, alpha=self._lr * self._decay)
        fill(self.trained.parameters, self._theta)

    def settings(self) -> dict[str, int]:
        """What the memory decided."""
        return self._all.settings()

    def use(self, settings: Mapping[str, int]) -> None:
        """Decide as another one did."""
        super().use(settings)
        self._all.use(settings)

    def state_dict(self) -> dict[str, Any]:
        """The steps that moved the centre, their losses, and after which update dev liked it best."""
        steps, losses = [step for step, _ in self._told], [loss for _, loss in self._told]
        return {
            "steps": np.array(steps, dtype=np.int64),
            "losses": np.array(losses).reshape(len(steps), self._losses),
            "kept": self.weights.kept,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Be where `state_dict` was called: the updates are made again from the start."""
        self.weights.begin_again()
        self._told = []
        fill(self._theta, (p.detach().float() for p in self.trained.parameters))
        for step, loss in zip(state["steps"].tolist(), state["losses"], strict=True):
            self._step = step
            self.population.draw(step)
            self.tell(loss, loss)
            if len(self._told) == state["kept"]:
                self.trained.keep()

    @property
    def weights(self) -> Weights:
        """What is trained."""
        return self.trained  # type: ignore[return-value]


def _of_norm(part: Any) -> list[nn.Parameter]:
    bias = getattr(part, "bias", None)
    return [part.weight] if bias is None else [part.weight, bias]


@torch.no_grad()
def _offset_of(part: Any) -> float | None:
    """What a norm adds to its weight before it multiplies by it: the number with whose negative as weights it
    gives its bias alone; None for a norm of another kind, which stays as it is."""
    weight: Tensor = part.weight
    kept = weight.clone()
    x = torch.linspace(-1, 2, 4 * len(weight), device=weight.device, dtype=weight.dtype).view(4, -1).sin()
    try:
        for offset in (0.0, 1.0):
            weight.fill_(-offset)
            if not (part(x) - part(torch.zeros_like(x))).any():
                return offset
    except (RuntimeError, TypeError):  # a norm that wants more than its input
        pass
    finally:
        weight.copy_(kept)
    return None


def eggroll(
    setting: Setting,
    *,
    population: int = 32,
    rank: int = 1,
    sigma: float = 1e-3,
    lr: float = 1e-4,
    decay: float = 0.0,
    vectors: bool = True,
    targets: str | Sequence[str] | None = None,
) -> Eggroll:
    """EGGROLL on the matrices of all linear modules in the layers, biases and norms' gains.

    sigma and lr as Qiu et al. 2025 (arXiv:2509.24372): 1e-3 and, of a mean over 30 candidates, 5e-4, which is
    1e-4 times sqrt(N). Embeddings and the head stay as they are, as in Sarkar et al. 2025 (arXiv:2511.16652).

    Args:
        population: candidates of a step, N, an even number.
        rank: of the perturbations, r.
        sigma: standard deviation of a perturbation's entries.
        lr: learning rate, of the mean over the candidates times sqrt(N).
        decay: weight decay, the share of the weights that a step takes away, before lr.
        vectors: whether biases and norms' gains move, too, not the matrices alone.
        targets: modules whose matrices move, as in gfo.LoRASubspace; all linear ones of the layers by
            default.
    """
    model = copied(setting, setting.model.dtype, 0.0)
    places = Places(model, targets, vectors)
    start, names = (dict(each.module.named_parameters()) for each in (setting.model, model))
    name_of = {id(parameter): name for name, parameter in names.items()}
    weights = Weights(setting, model, places.parameters, [start[name_of[id(p)]] for p in places.parameters])
    numbers = {"population": population, "rank": rank, "sigma": sigma, "lr": lr, "decay": decay}
    return Eggroll(weights, places, **numbers, seed=setting.seed)  # type: ignore[arg-type]
