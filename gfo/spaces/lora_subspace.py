"""Low-rank changes of linear modules in a random subspace: W + B A, with B linear in z.

LoRA (Hu et al. 2021, arXiv:2106.09685) trains A and B. Where both come from z the change is even in z:
f(z) = f(-z), the gradient at 0 is zero, and antithetic pairs carry no signal. All methods here are odd to
first order: A is frozen and shared by all candidates, so that a module makes one product with it, and
B [out, r] comes from a fixed random projection of z. They are so scaled that for z ~ N(0, I) the change's
Frobenius norm is alpha times the weight's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from gfo.core.delta import Begin, Delta
from gfo.core.errors import GfoError, unknown_name
from gfo.core.recording import recorded, remember
from gfo.core.seeding import stream
from gfo.spaces.parts.forms import SVD, Form, LoRAFA, LoRAXS, Started, StartedSVD, VeRA, normal
from gfo.spaces.parts.options import Layers, at_least_one, positive
from gfo.spaces.parts.peft_files import read_lora
from gfo.spaces.parts.projection import Projected
from gfo.spaces.parts.targets import HasLinears, Linear, find_targets, linears_of

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from torch import Tensor

# method -> default rank, dim, alpha. A typical z changes the logits of SmolLM2-135M by 0.2 of their spread,
# half as much as SoftPrompt's (`gfo.testing.logit_response`): they start at the model, not at random words.
METHODS: dict[str, tuple[int, int | None, float]] = {
    "lora-fa": (4, 200, 0.1),
    "lora-xs": (8, 200, 0.1),
    "vera": (32, 200, 0.1),
    "tiny": (2, 13, 0.1),
    "svd": (8, None, 0.1),  # all, without a projection
}
FORMS: dict[str, Callable[[Tensor, int, np.random.Generator], Form]]
FORMS = {"lora-fa": LoRAFA, "lora-xs": LoRAXS, "tiny": LoRAXS, "svd": SVD}  # of one module's weight alone
STARTED: dict[str, Callable[[Tensor, Tensor, Tensor], Form]]
STARTED = {"lora-fa": Started, "svd": StartedSVD}  # of it and an adapter


@recorded
class LoRASubspace:
    """Low-rank changes of chosen linear modules, searched in d dimensions.

    Args:
        model: a frozen model of `gfo.load_model`.
        dim: d; by default 200, for "tiny" 13, for "svd" all singular values, without a projection.
        targets: names of the modules, or their ends: see `gfo.spaces.parts.targets.find_targets`; by default
            the query and value projections, or the fused one.
        layers: None for all, "upper" or "lower" for a half, "last", or their numbers. What lies below the
            lowest is computed once for all candidates.
        rank: r; by default 4 for "lora-fa", 8 for "lora-xs" and "svd", 32 for "vera", 2 for "tiny".
        method: "lora-fa": random A frozen, B from z. "lora-xs": a core between frozen singular vectors.
            "vera": two vectors between random bases that all modules share. "tiny": a handful of
            numbers, through random projections into the cores of "lora-xs" of rank 2. "svd": the weight's
            largest r singular values.
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
        usual_rank, _, usual_alpha = METHODS[method]
        rank = at_least_one("rank", usual_rank if rank is None else rank)
        alpha = positive("alpha", usual_alpha if alpha is None else alpha)
        names = find_targets(model, targets, layers, images=True)
        forms = dict(zip(names, _forms(model, names, method, rank, seed), strict=True))
        self._begins = Begin.of(begins)
        self._finish(model, forms, method, dim, alpha, projection, seed)

    @classmethod
    def from_peft(
        cls,
        folder: str | Path,
        model: HasLinears,
        dim: int | None = None,
        *,
        method: str = "lora-fa",
        alpha: float = METHODS["lora-fa"][2],
        projection: str = "auto",
        seed: int = 0,
    ) -> LoRASubspace:
        """The space around a LoRA adapter of PEFT: decode(0) is the adapter, its scaling in B.

        An activated one changes the tokens from `{here}` in the template on, where its invocation tokens are.

        Args:
            folder: of the adapter.
            model: the frozen model that it was made for.
            method: "lora-fa": A stays as it is, B moves around the adapter's. "svd": the singular values of
                both move (ESSA).
            dim, projection, seed: as above.
            alpha: of a typical change, for "lora-fa" as a share of each weight's norm, not of the adapter's;
                for "svd" as a share of each singular value.

        Raises:
            GfoError: for another kind of adapter or model, missing or extra keys, or an A of zeros.
        """
        import torch

        if method not in STARTED:
            raise unknown_name("method of from_peft", method, STARTED)
        lora, tokens = _read_trained(folder, model)
        space = cls.__new__(cls)
        forms = {name: STARTED[method](model.weight(name).float(), A, B) for name, (A, B) in lora.items()}
        space._begins = Begin("{here}", tokens) if tokens else None
        space._finish(model, forms, method, dim, positive("alpha", alpha), projection, seed)
        given = {"dim": space.dim, "method": method, "alpha": alpha, "projection": projection, "seed": seed}
        remember(space, {"adapter": lora, **({"invocation": tokens} if tokens else {}), **given})
        space.starts_from = space.decode(torch.zeros(1, space.dim))
        return space

    def _finish(
        self,
        model: HasLinears,
        forms: Mapping[str, Form],
        method: str,
        dim: int | None,
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
        dim = METHODS[method][1] if dim is None else dim
        if dim is None:
            dim = sum(form.size for form in forms.values())
            projection = "identity" if projection == "auto" else projection
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
    streams = (stream(seed, f"base of {name}") for name in names)
    return [FORMS[method](model.weight(n).float(), rank, rng) for n, rng in zip(names, streams, strict=True)]


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
    return normal(rng, (rank, widest_in), 1, cpu), normal(rng, (widest_out, rank), 1, cpu)


def _read_trained(
    folder: str | Path, model: HasLinears
) -> tuple[dict[str, tuple[Tensor, Tensor]], tuple[int, ...]]:
    """An adapter's A and B by module, and its invocation tokens.

    Raises:
        GfoError: for one that cannot be read, or whose B changes nothing.
    """
    lora, tokens = read_lora(folder, model)
    for name, (A, _) in lora.items():
        if not bool(A.any()):
            raise GfoError(f"from_peft = {folder}: A of '{name}' is 0, so that B changes nothing; train it")
    return lora, tokens
