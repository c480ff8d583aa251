"""Adapters: a bottleneck behind chosen modules, y + B gelu(A y), with B linear in z.

Houlsby et al. 2019, Parameter-Efficient Transfer Learning for NLP, arXiv:1902.00751, section 2.1; by
default one behind each feed-forward network, as Pfeiffer et al. 2021 (arXiv:2005.00247) keep it. There A and
B are trained. Here A is random, frozen and shared by all candidates, and B, which starts at 0, comes from a
fixed random projection of z, so that the change is odd in z (see `gfo.spaces.lora_subspace`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gfo.core.delta import Begin, Delta
from gfo.core.recording import recorded
from gfo.core.seeding import stream
from gfo.spaces.parts.measure import HasModules, clipped_spread, module_outputs
from gfo.spaces.parts.options import Layers, at_least_one, positive
from gfo.spaces.parts.projection import Projected
from gfo.spaces.parts.targets import find_targets, linears_of

if TYPE_CHECKING:
    from torch import Tensor


@recorded
class Adapter:
    """Bottlenecks of r units behind linear modules, searched in d dimensions.

    A [r, out] is so scaled that its units see numbers of standard deviation 1, and B that for z ~ N(0, I)
    the adapter adds alpha times the spread of the module's outputs, both measured for random words.

    Args:
        model: a frozen model of `gfo.load_model`.
        dim: d.
        rank: r, the units of a bottleneck.
        targets: linear modules: see `find_targets`; by default the last matrix of each
            feed-forward network.
        layers: None for all, "upper" or "lower" for a half, "last", or their numbers. What lies below the
            lowest is computed once for all candidates.
        alpha: the size of a typical change, as a share of the outputs' spread.
        begins: where in a row the change begins: None for its start; "{here}" or "{soft}", where the template
            has it; "read", the token at which the answer is read. The tokens in front are the frozen model's,
            and computed once for all candidates.
        projection: see `gfo.spaces.parts.projection.make_projection`.
        seed: of the projection, the frozen matrices and the random words.

    Attributes:
        names: the modules, in order.

    Raises:
        GfoError: for sizes out of range, or targets that match nothing.
    """

    def __init__(
        self,
        model: HasModules,
        dim: int = 200,
        *,
        rank: int = 8,
        targets: str | Sequence[str] | None = None,
        layers: Layers = None,
        alpha: float = 0.15,
        begins: str | None = None,
        projection: str = "auto",
        seed: int = 0,
    ) -> None:
        import torch

        at_least_one("rank", rank)
        positive("alpha", alpha)
        self.names = find_targets(model, targets, layers, role="down")
        outputs = module_outputs(model, self.names, seed)
        self._A, scale = {}, {}
        for name in self.names:
            y = outputs[name].float()
            A = torch.from_numpy(stream(seed, f"base of {name}").standard_normal((rank, y.shape[-1])))
            inner = y @ A.float().to(y.device).T  # (..., r)
            self._A[name] = A.float().to(y.device) / inner.std()
            units = torch.nn.functional.gelu(inner / inner.std())
            size = clipped_spread(y) / float(units.square().sum(-1).mean().sqrt())
            scale[name] = torch.full((y.shape[-1] * rank,), alpha * size)
        self._rank, self._begins = rank, Begin.of(begins)
        what = f"the matrices B of {len(scale)} adapters of {rank} units"
        remedy = "lower dim, raise rank or take more modules"
        self._project = Projected(scale, dim, projection, seed, model.device, what=what, remedy=remedy)
        self.dim, self.domain = dim, self._project.domain
        self.first_layer = min(linears_of(model)[name].layer for name in self.names)

    def decode(self, z: Tensor) -> Delta:
        """z [K, d] -> K candidates' adapters, float32; differentiable; decode(0) adds 0."""
        adapter = {
            name: (self._A[name].expand(len(z), -1, -1), part.view(len(z), -1, self._rank))
            for name, part in self._project(z).items()
        }
        return Delta(adapter=adapter, first_layer=self.first_layer, begins=self._begins)
