"""Factors on the outputs of modules, and additions to them, in a random subspace: IA3, norm gains, BitFit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from gfo.core.delta import Begin, Delta
from gfo.core.errors import GfoError, unknown_name
from gfo.core.recording import recorded
from gfo.spaces.parts.measure import HasModules, clipped_spread, module_outputs
from gfo.spaces.parts.options import Layers, positive, select_layers
from gfo.spaces.parts.projection import Projected
from gfo.spaces.parts.targets import find_roles, find_targets, linears_of, match_targets

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@recorded
class Scaling:
    """Factors on modules' outputs: scale = 1 + alpha * A z, searched in d dimensions.

    Args:
        model: a frozen model of `gfo.load_model`.
        dim: d.
        method: "ia3": keys, values and the feed-forward's inner activations (Liu et al. 2022,
            arXiv:2205.05638); where those cannot be had as a linear module's output, because the
            activation function comes behind it, the feed-forward's outputs. "norm": all norms' outputs,
            which multiplies their gains, and biases where there are any.
        targets: other linear modules instead, see `find_targets`; for "norm", which norms, in the same way:
            "post_attention_layernorm", or "norm" for the one behind the layers, which counts as the last's.
        layers: None for all, "upper" or "lower" for a half, "last", or their numbers. What lies below the
            lowest is computed once for all candidates.
        alpha: the size of a typical change: factors of 1 +- alpha.
        begins: where in a row the change begins: None for its start; "{here}" or "{soft}", where the template
            has it; "read", the token at which the answer is read. The tokens in front are the frozen model's,
            and computed once for all candidates.
        projection: see `gfo.spaces.parts.projection.make_projection`.
        seed: of the projection.

    Attributes:
        names: the modules, in order.

    Raises:
        GfoError: for sizes out of range, targets that match nothing, a model without norms.
    """

    METHODS = ("ia3", "norm")

    def __init__(
        self,
        model: HasModules,
        dim: int = 200,
        *,
        method: str = "ia3",
        targets: str | Sequence[str] | None = None,
        layers: Layers = None,
        alpha: float = 0.1,
        begins: str | None = None,
        projection: str = "auto",
        seed: int = 0,
    ) -> None:
        import torch

        positive("alpha", alpha)
        if method not in self.METHODS:
            raise unknown_name("method of Scaling", method, self.METHODS)
        if method == "norm":
            size = _norms(model, targets, layers)
        else:
            names = _targets(model, targets, layers, "keys and values", "feed-forward")
            size = {name: linears_of(model)[name].out_features for name in names}
        scale = {name: torch.full((n,), alpha) for name, n in size.items()}
        self._project = _of_outputs(scale, dim, projection, seed, model.device)
        self.dim, self.domain, self.names = dim, self._project.domain, tuple(scale)
        self.first_layer = min(map(model.lowest_layer, size))
        self._begins = Begin.of(begins)

    def decode(self, z: Tensor) -> Delta:
        """z [K, d] -> factors float32 [K, out]; differentiable; decode(0) is 1 exactly."""
        scale = {name: 1 + part for name, part in self._project(z).items()}
        return Delta(scale=scale, first_layer=self.first_layer, begins=self._begins)


@recorded
class BiasSpace:
    """Additions to modules' outputs: bias = alpha * s * A z, searched in d dimensions.

    BitFit (Ben Zaken, Ravfogel and Goldberg 2022, arXiv:2106.10199), also for modules that have no bias
    of their own; s is the spread of the module's own outputs for random words, clipped as DeepPrompt's.
    In a decoder's last layer no other token sees the change, which makes a candidate cost one layer of one
    token a row; with so little changed it wants a larger alpha, such as 1.

    Args:
        model: a frozen model of `gfo.load_model`.
        dim: d.
        targets: linear modules: see `find_targets`; by default the queries (or the fused
            projection) and the feed-forward's first matrix, to which BitFit can be restricted.
        layers: None for all, "upper" or "lower" for a half, "last", or their numbers. What lies below the
            lowest is computed once for all candidates.
        alpha: the size of a typical change, as a share of the outputs' spread.
        begins: where in a row the change begins: None for its start; "{here}" or "{soft}", where the template
            has it; "read", the token at which the answer is read. The tokens in front are the frozen model's,
            and computed once for all candidates.
        projection: see `gfo.spaces.parts.projection.make_projection`.
        seed: of the projection and the random words.

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
        targets: str | Sequence[str] | None = None,
        layers: Layers = None,
        alpha: float = 0.15,
        begins: str | None = None,
        projection: str = "auto",
        seed: int = 0,
    ) -> None:
        import torch

        positive("alpha", alpha)
        names = _targets(model, targets, layers, "queries", "up")
        outputs = module_outputs(model, names, seed)
        scale = {
            name: torch.full((linears_of(model)[name].out_features,), alpha * clipped_spread(outputs[name]))
            for name in names
        }
        self._project = _of_outputs(scale, dim, projection, seed, model.device)
        self.dim, self.domain, self.names = dim, self._project.domain, tuple(scale)
        self.first_layer = min(linears_of(model)[name].layer for name in names)
        self._begins = Begin.of(begins)

    def decode(self, z: Tensor) -> Delta:
        """z [K, d] -> additions float32 [K, out]; differentiable; decode(0) adds 0."""
        return Delta(bias=self._project(z), first_layer=self.first_layer, begins=self._begins)


def _of_outputs(
    scale: Mapping[str, Tensor], dim: int, projection: str, seed: int, device: torch.device
) -> Projected:
    """A number for each output of some modules, linear in z."""
    what, remedy = f"the outputs of {len(scale)} modules", "lower dim or take more modules"
    return Projected(scale, dim, projection, seed, device, what=what, remedy=remedy)


def _targets(
    model: HasModules,
    targets: str | Sequence[str] | None,
    layers: Layers,
    *roles: str,
) -> list[str]:
    """The modules asked for, or those of each role."""
    if targets is not None:
        return find_targets(model, targets, layers, images=True)
    return find_roles(model, layers, *roles)


def _norms(model: HasModules, targets: str | Sequence[str] | None, layers: Layers) -> dict[str, int]:
    """Sizes of the norms asked for, by name; all in the layers if none are named."""
    chosen = select_layers(layers, model.layers)
    size = dict(norms_of(model))
    inside = [name for name in size if model.layer_of(name) in chosen]
    if targets is not None and size:
        inside = match_targets([name for name in size if model.lowest_layer(name) in chosen], targets)
    if not inside:
        raise GfoError("space: the model has no norms with gains in these layers; take method = 'ia3'")
    return {name: size[name] for name in inside}


def norms_of(model: HasModules) -> Iterator[tuple[str, int]]:
    """Name and size of each norm that has a gain for each number, those outside of the layers, too."""
    for name, part in model.module.named_modules():
        weight = getattr(part, "weight", None)
        if "norm" in type(part).__name__.lower() and weight is not None and weight.ndim == 1:
            yield name, len(weight)
