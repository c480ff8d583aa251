"""Low-rank changes of linear modules in a random subspace: W + B A, with B linear in z.

LoRA (Hu et al. 2021, arXiv:2106.09685) trains A and B. Where both come from z the change is even in z:
f(z) = f(-z), the gradient at 0 is zero, and antithetic pairs carry no signal. All methods here are odd to
first order: A is frozen and shared by all candidates, so that a module makes one product with it, and
B [out, r] comes from a fixed random projection of z. They are so scaled that for z ~ N(0, I) the change's
Frobenius norm is alpha times the weight's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gfo.core.delta import Begin, Delta
from gfo.core.errors import GfoError, unknown_name
from gfo.core.recording import recorded, remember
from gfo.core.seeding import stream
from gfo.spaces.parts.options import Layers, at_least_one, positive
from gfo.spaces.parts.peft_files import read_lora
from gfo.spaces.parts.projection import Projected
from gfo.spaces.parts.targets import HasLinears, Linear, find_targets, linears_of

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

SPARE_VECTORS, ITERATIONS = 8, 12  # of the subspace iteration for singular vectors
VERA_D = 0.5  # how far VeRA's vector d moves around its start, 1


class Form(Protocol):
    """How the parameters of one module become B."""

    size: int
    """Parameters of the module."""
    A: Tensor
    """Frozen, [r, in]."""
    scale: Tensor
    """What the parameters change by for z ~ N(0, I) and alpha = 1, [size]."""

    def up(self, parameters: Tensor) -> Tensor:
        """Parameters [K, size] -> [K, out, r]; 0 gives 0, or an adapter's B."""
        ...


class LoRAFA:
    """B itself; A [r, in] of N(0, 1/in), frozen (Zhang et al. 2023, arXiv:2308.03303)."""

    def __init__(self, weight: Tensor, rank: int, rng: np.random.Generator) -> None:
        import torch

        self._shape = (out, inner) = tuple(weight.shape)
        self._rank, self.size = rank, out * rank
        self.A = _normal(rng, (rank, inner), inner, weight.device)
        self.scale = torch.full((self.size,), float(weight.norm()) / np.sqrt(out * rank))

    def up(self, parameters: Tensor) -> Tensor:
        """Parameters [K, out * r] -> [K, out, r]."""
        return parameters.view(len(parameters), self._shape[0], self._rank)


class Started:
    """B0 of an adapter and what is added to it; its A [r, in] frozen.

    Args:
        weight: [out, in].
        A, B0: the adapter's, its scaling in B0.
    """

    def __init__(self, weight: Tensor, A: Tensor, B0: Tensor) -> None:
        import torch

        self.A, self._B0, self.size = A, B0, B0.numel()
        # E |N A|^2 = out |A|^2 for N of N(0, 1)
        each = float(weight.norm()) / float(A.norm()) / np.sqrt(len(B0))
        self.scale = torch.full((self.size,), each)

    def up(self, parameters: Tensor) -> Tensor:
        """Parameters [K, out * r] -> [K, out, r]; 0 gives B0."""
        return self._B0 + parameters.view(-1, *self._B0.shape)


class LoRAXS:
    """W + U_r S_r R V_r^T with the weight's largest singular values and vectors, and a core R [r, r].

    Balazy et al. 2024, arXiv:2405.17604; TinyLoRA's change too (Morris et al. 2026, arXiv:2602.04118),
    with R = sum_i z_i P_i for random P_i of each module: what the projection does here. As plain LoRA,
    A = V_r^T and B = U_r S_r R.
    """

    def __init__(self, weight: Tensor, rank: int, rng: np.random.Generator) -> None:
        import torch

        U, S, V = singular_vectors(weight, rank, rng)
        self._rank, self.size = rank, rank * rank
        self.A = V.T.contiguous()
        self._US = U * S  # (out, r)
        # E |U S R V^T|^2 = r |S|^2 for R of N(0, 1)
        each = float(weight.norm()) / float(S.norm()) / np.sqrt(rank)
        self.scale = torch.full((self.size,), each)

    def up(self, parameters: Tensor) -> Tensor:
        """Parameters [K, r * r] -> [K, out, r]."""
        return self._US @ parameters.view(-1, self._rank, self._rank)


class VeRA:
    """W + diag(b) B0 diag(d) A0 with frozen random A0, B0 that all modules share, and two vectors.

    Kopiczko et al. 2023, arXiv:2310.11454. b starts at 0 and d at 1, and both move with z: the change
    is b (1 + VERA_D d'), odd in z to first order, as b's part alone is. d is merged into B, so that all
    candidates share A0.

    Args:
        weight: [out, in].
        rank: r.
        bases: A0 [r, at least in] and B0 [at least out, r] of N(0, 1).
    """

    def __init__(self, weight: Tensor, rank: int, bases: tuple[Tensor, Tensor]) -> None:
        import torch

        self._out, inner = weight.shape
        self.size = self._out + rank
        self.A = (bases[0][:, :inner] / np.sqrt(inner)).to(weight.device)
        self._B0 = (bases[1][: self._out] / np.sqrt(rank)).to(weight.device)
        self.scale = torch.ones(self.size)
        self.scale[: self._out] = float(weight.norm()) / np.sqrt(self._out)

    def up(self, parameters: Tensor) -> Tensor:
        """Parameters [K, out + r], b and then d', -> [K, out, r]."""
        b, d = parameters[:, : self._out, None], parameters[:, None, self._out :]
        up: Tensor = b * self._B0 * (1 + VERA_D * d)
        return up


# method -> default rank, dim, alpha. A typical z changes the logits of SmolLM2-135M by 0.2 of their spread,
# half as much as SoftPrompt's (`gfo.testing.logit_response`): they start at the model, not at random words.
METHODS: dict[str, tuple[int, int, float]] = {
    "lora-fa": (4, 200, 0.1),
    "lora-xs": (8, 200, 0.1),
    "vera": (32, 200, 0.1),
    "tiny": (2, 13, 0.1),
}


@recorded
class LoRASubspace:
    """Low-rank changes of chosen linear modules, searched in d dimensions.

    Args:
        model: a frozen model of `gfo.load_model`.
        dim: d; by default 200, for "tiny" 13.
        targets: names of the modules, or their ends: see `gfo.spaces.parts.targets.find_targets`; by default
            the query and value projections, or the fused one.
        layers: None for all, "upper" or "lower" for a half, "last", or their numbers. What lies below the
            lowest is computed once for all candidates.
        rank: r; by default 4 for "lora-fa", 8 for "lora-xs", 32 for "vera", 2 for "tiny".
        method: "lora-fa": random A frozen, B from z. "lora-xs": a core between frozen singular vectors.
            "vera": two vectors between random bases that all modules share. "tiny": a handful of
            numbers, through random projections into the cores of "lora-xs" of rank 2.
        alpha: the size of a typical change, as a share of each weight's norm; by default the method's.
        begins: where in a row the change begins: None for its start; "{here}" or "{soft}", where the template
            has it; "read", the token at which the answer is read. The tokens in front are the frozen model's,
            and computed once for all candidates.
        projection: see `gfo.spaces.parts.projection.make_projection`.
        seed: of the projection and the bases.

    Attributes:
        names: the modules, in order.
        starts_from: the change that decode(0) is, of one candidate, or None for no change.

    Raises:
        GfoError: for sizes out of range, targets that match nothing, a rank above a matrix's.
    """

    def __init__(
        self,
        model: HasLinears,
        dim: int | None = None,
        *,
        targets: str | Sequence[str] | None = None,
        layers: Layers = None,
        rank: int | None = None,
        method: str = "lora-fa",
        alpha: float | None = None,
        begins: str | None = None,
        projection: str = "auto",
        seed: int = 0,
    ) -> None:
        if method not in METHODS:
            raise unknown_name("method of LoRASubspace", method, METHODS)
        usual_rank, usual_dim, usual_alpha = METHODS[method]
        rank = at_least_one("rank", usual_rank if rank is None else rank)
        alpha = positive("alpha", usual_alpha if alpha is None else alpha)
        names = find_targets(model, targets, layers, images=True)
        forms = dict(zip(names, _forms(model, names, method, rank, seed), strict=True))
        self._begins = Begin.of(begins)
        self._finish(model, forms, method, usual_dim if dim is None else dim, alpha, projection, seed)

    @classmethod
    def from_peft(
        cls,
        folder: str | Path,
        model: HasLinears,
        dim: int = METHODS["lora-fa"][1],
        *,
        alpha: float = METHODS["lora-fa"][2],
        projection: str = "auto",
        seed: int = 0,
    ) -> LoRASubspace:
        """The space around a LoRA adapter of PEFT: A stays as it is, B moves around the adapter's.

        decode(0) is the adapter exactly, its scaling in B. An activated adapter changes the tokens from
        `{here}` in the template on, where its invocation tokens must stand.

        Args:
            folder: of the adapter.
            model: the frozen model that it was made for.
            dim, alpha, projection, seed: as above; alpha is a share of each weight's norm, not of the
                adapter's.

        Raises:
            GfoError: for another kind of adapter, one for another model, missing or extra keys, or an A
                of zeros.
        """
        lora, tokens = read_lora(folder, model)
        _check_trained(lora, folder)
        space = cls.__new__(cls)
        forms = {name: Started(model.weight(name).float(), A, B) for name, (A, B) in lora.items()}
        space._begins = Begin("{here}", tokens) if tokens else None
        space._finish(model, forms, "lora-fa", dim, positive("alpha", alpha), projection, seed)
        first = min(linears_of(model)[name].layer for name in lora)
        given = {"dim": dim, "alpha": alpha, "projection": projection, "seed": seed}
        remember(space, {"adapter": lora, **({"invocation": tokens} if tokens else {}), **given})
        start = {name: (A[None], B[None]) for name, (A, B) in lora.items()}
        space.starts_from = Delta(lora=start, first_layer=first, begins=space._begins)
        return space

    def _finish(
        self,
        model: HasLinears,
        forms: Mapping[str, Form],
        method: str,
        dim: int,
        alpha: float,
        projection: str,
        seed: int,
    ) -> None:
        """What the methods have in common: one projection into the parameters of all modules."""
        self.names, self.method = list(forms), method
        self.starts_from: Delta | None = None
        self._forms = forms
        rank = max(len(form.A) for form in forms.values())
        what = f"the parameters of {len(forms)} modules at rank {rank}"
        remedy = "lower dim, raise rank or take more targets"
        scale = {name: alpha * form.scale for name, form in forms.items()}
        self._project = Projected(scale, dim, projection, seed, model.device, what=what, remedy=remedy)
        self.dim, self.domain = dim, self._project.domain
        self.first_layer = min(linears_of(model)[name].layer for name in self.names)

    def decode(self, z: Tensor) -> Delta:
        """z [K, d] -> low-rank changes, float32; differentiable; decode(0) is no change, or `starts_from`."""
        lora = {
            name: (self._forms[name].A.expand(len(z), -1, -1), self._forms[name].up(part))
            for name, part in self._project(z).items()
        }
        return Delta(lora=lora, first_layer=self.first_layer, begins=self._begins)


def _forms(model: HasLinears, names: Sequence[str], method: str, rank: int, seed: int) -> list[Form]:
    """The modules' forms; each draws from a stream of its own name."""
    if method == "vera":
        bases = _shared_bases([linears_of(model)[name] for name in names], rank, seed)
        return [VeRA(model.weight(name).float(), rank, bases) for name in names]
    _check_rank(model, names, rank)
    form = LoRAFA if method == "lora-fa" else LoRAXS
    return [form(model.weight(name).float(), rank, stream(seed, f"base of {name}")) for name in names]


def _check_rank(model: HasLinears, names: Sequence[str], rank: int) -> None:
    """Raise GfoError for a rank above that of a module."""
    for name in names:
        info = linears_of(model)[name]
        if rank > min(info.in_features, info.out_features):
            raise GfoError(
                f"space: rank = {rank} is above that of '{name}' ({info.out_features} x "
                f"{info.in_features}); lower it, or leave the module out of targets"
            )


def _shared_bases(linears: Sequence[Linear], rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """VeRA's A [rank, in] and B [out, rank], of the widest modules' sizes; the others take parts of them."""
    import torch

    widest_in, widest_out = max(i.in_features for i in linears), max(i.out_features for i in linears)
    rng, cpu = stream(seed, "VeRA's bases"), torch.device("cpu")
    return _normal(rng, (rank, widest_in), 1, cpu), _normal(rng, (widest_out, rank), 1, cpu)


def _normal(
    rng: np.random.Generator, shape: tuple[int, ...], variance_over: int, device: torch.device
) -> Tensor:
    """N(0, 1 / variance_over), float32."""
    import torch

    numbers = rng.standard_normal(shape) / np.sqrt(variance_over)
    return torch.from_numpy(numbers.astype(np.float32)).to(device)


def singular_vectors(weight: Tensor, rank: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The largest singular values and vectors, U [out, r], S [r], V [in, r], with signs fixed.

    Subspace iteration (Halko, Martinsson and Tropp 2011, doi:10.1137/090771806, algorithm 4.4): a few
    products instead of a full decomposition, which takes minutes on large models.
    """
    import torch

    width = min(*weight.shape, rank + SPARE_VECTORS)
    Q = _normal(rng, (weight.shape[1], width), 1, weight.device)
    for _ in range(ITERATIONS):
        Q = torch.linalg.qr(weight.T @ torch.linalg.qr(weight @ Q).Q).Q
    U, S, Vh = torch.linalg.svd(weight @ Q, full_matrices=False)
    U, S, V = U[:, :rank], S[:rank], (Q @ Vh.T)[:, :rank]
    sign = torch.sign(U.gather(0, U.abs().argmax(0, keepdim=True)))  # (1, r)
    return U * sign, S, V * sign


def _check_trained(lora: Mapping[str, tuple[Tensor, Tensor]], folder: str | Path) -> None:
    """Raise GfoError for an adapter whose B changes nothing."""
    for name, (A, _) in lora.items():
        if not bool(A.any()):
            raise GfoError(f"from_peft = {folder}: A of '{name}' is 0, so that B changes nothing; train it")
