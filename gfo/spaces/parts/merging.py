"""How weights of several checkpoints become one: linear, task arithmetic, TIES, DARE, SLERP, and picking.

Each tensor by itself, in float32, as mergekit 0.1.5 has them. theta_i are the checkpoints' tensors, theta_0
the model's, tau_i = theta_i - theta_0 task vectors, w_i coefficients:

- linear (Wortsman et al. 2022, arXiv:2203.05482): sum_i w_i theta_i, with sum_i w_i = 1.
- task arithmetic (Ilharco et al. 2023, arXiv:2212.04089): theta_0 + sum_i w_i tau_i.
- TIES (Yadav et al. 2023, arXiv:2306.01708): of each tau_i the largest magnitudes are kept, a share
  `density`; gamma = sgn(sum_i w_i tau_i) is elected, and theta_0 + sum_{i in A} w_i tau_i / sum_{i in A} w_i,
  where A are those whose w_i tau_i has the sign gamma.
- DARE (Yu et al. 2024, arXiv:2311.03099): of each tau_i a random share `density` is kept, and scaled so that
  its sum of magnitudes stays (in the mean by 1 / density, the paper's factor); then task arithmetic
  ("dare_linear"), or TIES' election without the division ("dare_ties").
- SLERP (Shoemake 1985, doi:10.1145/325165.325242) from theta_1 to theta_2:
  sin((1 - t) omega) / sin(omega) theta_1 + sin(t omega) / sin(omega) theta_2, omega the angle between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gfo.core.bank import Bank
from gfo.core.errors import unknown_name
from gfo.core.seeding import stream_seed

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PARALLEL = 0.9995  # of |cos omega|, beyond which SLERP is linear, as mergekit has it
SMALL = 1e-8  # a norm below it counts as 1
SMALL_SUM = 1e-7  # of magnitudes, below which DARE scales nothing

BLOCK = 2**16  # numbers of a tensor that are merged at a time, where much is made on the way
Parts = tuple["Tensor | None", list["Tensor"]]
"""theta_0, or None, and what `Method.mix` takes."""
Mix = Callable[["Tensor | None", Sequence["Tensor"], "Tensor"], "Tensor"]
"""theta_0 (or None), the N tensors of `Parts`, coefficients -> the merged tensor."""


@dataclass(frozen=True)
class Method:
    """One way to merge.

    Attributes:
        mix: what merges a tensor.
        of_changes: whether it merges task vectors, and so needs theta_0.
        low_rank: whether it is a sum, which adapters take without a weight being made.
        density: the share of each task vector that is kept, by default; None for all.
        random: whether that share is drawn.
    """

    mix: Mix
    of_changes: bool = True
    low_rank: bool = False
    density: float | None = None
    random: bool = False


def weighted(base: Tensor | None, tensors: Sequence[Tensor], w: Tensor) -> Tensor:
    """base + sum_i w_i tensors_i, or the sum alone; a tensor itself where its weight is 1 and alone."""
    if base is None and not w.requires_grad:
        found = w.nonzero().flatten().tolist()
        if len(found) == 1 and w[found[0]] == 1:
            alone: Tensor = tensors[found[0]]
            return alone
    total = base
    for tensor, each in zip(tensors, w, strict=True):
        total = each * tensor if total is None else total + each * tensor
    assert total is not None
    return total


def _elected(changes: Sequence[Tensor], w: Tensor) -> tuple[Tensor, Tensor]:
    """sum_{i in A} w_i tau_i and sum_{i in A} w_i, of the signs that are elected; see above."""
    import torch

    total = weighted(None, changes, w)
    sign = torch.where(total >= 0, 1.0, -1.0)
    kept, weights = torch.zeros_like(total), torch.zeros_like(total)
    for change, each in zip(changes, w, strict=True):
        agrees = (each * change).sign() == sign
        kept = kept + torch.where(agrees, each * change, 0.0)
        weights = weights + torch.where(agrees, each, 0.0)
    return kept, weights


def _in_blocks(mix: Mix) -> Mix:
    """The same, some rows after the other, so that what is made on the way is small."""

    def mixed(base: Tensor | None, changes: Sequence[Tensor], w: Tensor) -> Tensor:
        import torch

        assert base is not None
        step = max(1, BLOCK // max(1, base[:1].numel()))
        parts = (slice(start, start + step) for start in range(0, len(base), step))
        return torch.cat([mix(base[rows], [change[rows] for change in changes], w) for rows in parts])

    return mixed


@_in_blocks
def ties(base: Tensor | None, changes: Sequence[Tensor], w: Tensor) -> Tensor:
    """TIES of changes that are trimmed."""
    import torch

    assert base is not None
    kept, weights = _elected(changes, w)
    return base + kept / torch.where(weights == 0, 1.0, weights)


@_in_blocks
def elected(base: Tensor | None, changes: Sequence[Tensor], w: Tensor) -> Tensor:
    """The same without the division."""
    assert base is not None
    return base + _elected(changes, w)[0]


def slerp(base: Tensor | None, ends: Sequence[Tensor], t: Tensor) -> Tensor:
    """SLERP between two tensors at t [1]; linear where they are parallel."""
    import torch

    first, second, t = ends[0], ends[1], t[0]
    norms = [end.norm() for end in (first, second)]
    a, b = (end / (norm if norm > SMALL else 1.0) for end, norm in zip(ends, norms, strict=True))
    cos = (a * b).sum().clamp(-1, 1)
    if cos.abs() > PARALLEL:
        return (1 - t) * first + t * second
    omega = torch.acos(cos)
    return (((1 - t) * omega).sin() * first + (t * omega).sin() * second) / omega.sin()


METHODS: dict[str, Method] = {
    "linear": Method(weighted, of_changes=False, low_rank=True),
    "task_arithmetic": Method(weighted, low_rank=True),
    "ties": Method(ties, density=0.2),  # Yadav et al.: k = 20
    "dare_linear": Method(weighted, density=0.1, random=True),  # Yu et al.: p = 0.9
    "dare_ties": Method(elected, density=0.1, random=True),
    "slerp": Method(slerp, of_changes=False),
    "pick": Method(weighted, of_changes=False, low_rank=True),
}
"""Those that mergekit has by the same name, and "pick": each place gets one checkpoint's tensors."""


def find_method(name: str) -> Method:
    """The method of this name.

    Raises:
        GfoError: for an unknown one.
    """
    if name not in METHODS:
        raise unknown_name("method of Merge", name, METHODS)
    return METHODS[name]


def least_kept(change: Tensor, density: float) -> float:
    """The smallest magnitude that TIES keeps of a task vector: of a share `density`, one number at least."""
    k = max(1, int(density * change.numel()))
    return float(change.abs().flatten().kthvalue(change.numel() - k + 1).values)


def trimmed(change: Tensor, least: float) -> Tensor:
    """A task vector without what is smaller; numbers of equal magnitude all stay."""
    import torch

    return torch.where(change.abs() >= least, change, 0.0)


def dropped(change: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """A random share of a task vector, scaled to the sum of magnitudes of all of it."""
    import torch

    kept = change * torch.bernoulli(torch.full(change.shape, density), generator=generator).to(change.device)
    before, after = change.abs().sum(), kept.abs().sum()
    return kept if min(before, after) < SMALL_SUM else kept * (before / after)


@dataclass(frozen=True)
class Recipe:
    """What is done to every tensor alike.

    Attributes:
        method: how they are merged.
        density: the share that TIES and DARE keep of a task vector.
        seed: of what DARE draws.
    """

    method: Method
    density: float
    seed: int
    _least: dict[tuple[str, int], float] = field(default_factory=dict)

    def parts(self, name: str, own: Tensor, tensors: Iterable[Tensor]) -> Parts:
        """theta_0, if it is needed, and what `method.mix` takes, whatever the coefficients; all float32.

        Args:
            name: of the tensor.
            own: theta_0.
            tensors: the checkpoints', read one after the other.
        """
        if not self.method.of_changes:
            return None, [tensor.to(own.device).float() for tensor in tensors]
        base = own.float()
        return base, [
            self._kept(name, i, tensor.to(own.device).float() - base) for i, tensor in enumerate(tensors)
        ]

    def _kept(self, name: str, i: int, change: Tensor) -> Tensor:
        """What is left of the i-th task vector."""
        if self.density >= 1:
            return change
        return self._dropped(name, i, change) if self.method.random else self._trimmed(name, i, change)

    def _trimmed(self, name: str, i: int, change: Tensor) -> Tensor:
        """TIES' part of the i-th task vector; where it is cut is found once."""
        if (name, i) not in self._least:
            self._least[name, i] = least_kept(change, self.density)
        return trimmed(change, self._least[name, i])

    def _dropped(self, name: str, i: int, change: Tensor) -> Tensor:
        """DARE's part of the i-th task vector, drawn as [out, in] by a stream of its own."""
        import torch

        generator = torch.Generator().manual_seed(stream_seed(self.seed, f"{name} of checkpoint {i}"))
        return dropped(change, self.density, generator)


class Reader:
    """Reads what is merged in one module, and keeps that of the last module alone."""

    def __init__(self, read: Callable[[str], Parts]) -> None:
        self._read, self._last = read, ""
        self._found: Parts = None, []

    def __call__(self, name: str) -> Parts:
        """theta_0 and the parts of a module's weight."""
        if name != self._last:
            self._last, self._found = "", (None, [])  # gone before the next is read
            self._found = self._read(name)
            self._last = name
        return self._found


class Merged(Bank):
    """The weights of one module in all checkpoints, merged by coefficients, which are a candidate's shares.

    Args:
        name: of the module.
        read: what is merged, shared by the modules.
        method: how.
        size: the number of coefficients.
        like: the model's weight [out, in], whose dtype merged ones have.
    """

    def __init__(self, name: str, read: Reader, method: Method, size: int, like: Tensor) -> None:
        super().__init__(self.__getitem__, size, (like.shape[0], like.shape[1]))
        self._name, self._read, self._method = name, read, method
        self._dtype = like.dtype

    def mixed(self, shares: Tensor) -> Tensor:
        """The merged weight [out, in] of coefficients [M]."""
        base, parts = self._read(self._name)
        return self._method.mix(base, parts, shares.float()).to(self._dtype)

    def __getitem__(self, m: int) -> Tensor:
        """The weight with the coefficient m at 1 and the others at 0, made anew."""
        import torch

        return self.mixed(torch.eye(self.size)[m])
