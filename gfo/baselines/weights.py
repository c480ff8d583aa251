"""Training of weights: all of a copy of the model, or LoRA's beside the model's own, by AdamW or by MeZO.

Full fine-tuning as Devlin et al. 2019 (arXiv:1810.04805); LoRA (Hu et al. 2021, arXiv:2106.09685) by PEFT.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from gfo.baselines.base import Setting, as_array, fill, joined, joined_losses
from gfo.baselines.mezo import MeZO
from gfo.baselines.training import AdamW, Recipe, seeded
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.core.files import cannot_write, whole_folder
from gfo.core.images import is_image_field
from gfo.core.metric import Metric
from gfo.core.protocols import Cost, Evaluation, Evaluator, Scores
from gfo.core.seeding import stream_seed
from gfo.evaluation.local import LocalEvaluator
from gfo.models.frozen import FrozenModel
from gfo.models.weights import is_transposed, quantized_linears
from gfo.spaces.parts.targets import find_targets
from gfo.spaces.parts.unchanged import Unchanged
from gfo.tasks.distance import Distance

ADAPTER = "adapter"

T = TypeVar("T")


class Weights:
    """Parameters of a model's modules as those of a training; see `gfo.baselines.base.Trained`.

    A point is the number of updates made, [1]; only the start and what was kept last can be gone back to.

    Args:
        setting: task, seed and memory.
        model: the model that computes with the parameters.
        parameters: those trained; gradients are turned on.
        start: their first values, if they are held elsewhere; else they are copied.

    Attributes:
        facts: d, the numbers trained, and `beside_bytes`, what the process holds that training alone would
            not: the parameters' first values and those that dev liked best.

    Raises:
        GfoError: for a sentence encoder, whose label texts would have to be encoded anew at each step.
    """

    def __init__(
        self,
        setting: Setting,
        model: FrozenModel,
        parameters: Sequence[nn.Parameter],
        start: Sequence[Tensor] | None = None,
    ) -> None:
        if model.reads == "sentence":
            raise GfoError(
                f"baseline: '{model.name}' is a sentence encoder, whose weights are not trained here; take "
                "'gradient', 'prompt-tuning' or 'linear-head'"
            )
        if isinstance(setting.task, Distance):
            raise GfoError(
                "baseline: Distance compares with the unchanged model, whose weights are trained here; take "
                "Distillation with a teacher"
            )
        self.parameters = list(parameters)
        self.model, self.task, self.memory = model, setting.task, setting.memory
        self.evaluator = LocalEvaluator(model, setting.task, Unchanged(model), memory=setting.memory)
        self.splits = self.evaluator.task.splits
        self.domain = Domain.unbounded(1)
        own = sum(p.numel() * p.element_size() for p in self.parameters)
        self.facts: dict[str, Any] = {"d": sum(p.numel() for p in self.parameters), "beside_bytes": 2 * own}
        self._updates = 0
        self._kept = {0: _copies(self.parameters) if start is None else list(start)}
        for parameter in self.parameters:
            parameter.requires_grad_(True)

    @property
    def judge(self) -> Evaluator:
        """This."""
        return self

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What `score` gives: the task's."""
        return self.evaluator.metrics

    def point(self) -> Array:
        """The number of updates made, float64 [1]."""
        return np.array([float(self._updates)])

    def loss(self, step: int) -> tuple[Tensor, Cost]:
        """The loss [1] on the step's batch, with dropout, and what it and its backward pass cost."""
        self.model.module.train()
        try:
            return self.evaluator.loss_tensor(torch.zeros(1, 1), step)
        finally:
            self.model.module.eval()

    def __call__(self, z: Array, step: int) -> Evaluation:
        """Losses of z [K, 1] on the step's batch, each with its weights, without dropout."""
        return joined_losses([self._with(point, lambda point: self.evaluator(point, step)) for point in z])

    def moved(self) -> None:
        """One more update has been made."""
        self._updates += 1

    def keep(self) -> None:
        """Copy the parameters, in place of those kept before."""
        if self._updates not in self._kept:
            self._kept = {0: self._kept[0], self._updates: _copies(self.parameters)}

    @property
    def kept(self) -> int:
        """After which update the parameters were that were kept last; 0 for the start."""
        return max(self._kept)

    def begin_again(self) -> None:
        """Be as at the start."""
        self._updates, self._kept = 0, {0: self._kept[0]}
        fill(self.parameters, self._kept[0])

    def score(self, z: Array, split: str) -> Scores:
        """Metrics of z [K, 1] on a split, each with its weights."""
        return joined([self._with(point, lambda point: self.evaluator.score(point, split)) for point in z])

    @contextmanager
    def at(self, point: Array) -> Iterator[None]:
        """Within, the parameters are those that the point [1] stands for."""
        update = int(point[0])
        if update == self._updates:
            yield
            return
        if update not in self._kept:
            raise GfoError(
                f"baseline: the weights after {update} updates are gone; they stay in the process that "
                "trained them, and in its run folder: score them there, or with gfo eval"
            )
        now = _copies(self.parameters)
        fill(self.parameters, self._kept[update])
        try:
            yield
        finally:
            fill(self.parameters, now)

    def _with(self, point: Array, found: Callable[[Array], T]) -> T:
        with self.at(point):
            return found(point[None])

    def state_dict(self) -> dict[str, Any]:
        """How many updates were made, and the parameters kept; the start is that of the same seed."""
        kept = {str(update): list(map(as_array, held)) for update, held in self._kept.items() if update}
        return {"updates": self._updates, "kept": kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Be what `state_dict` said."""
        self._updates = state["updates"]
        for update, held in state["kept"].items():
            kept = _copies(self.parameters)
            fill(kept, map(torch.from_numpy, held))
            self._kept[int(update)] = kept

    def save(self, folder: Path, point: Array) -> None:
        """Nothing: the weights are in the run's state."""


class Lora(Weights):
    """LoRA's matrices beside the model's own weights, which the copy shares."""

    def __init__(
        self,
        setting: Setting,
        *,
        rank: int,
        alpha: float,
        dropout: float | None,
        targets: str | Sequence[str] | None,
    ) -> None:
        names = find_targets(setting.model, targets)
        if rank < 1:
            raise GfoError(f"baseline: rank = {rank} must be at least 1")
        module = _sharing(setting.model.module)
        if dropout is not None:
            set_dropout(module, dropout)
        fused = is_transposed(setting.model.module.get_submodule(names[0]))
        with _peft() as peft, seeded(stream_seed(setting.seed, "lora"), setting.model.device):
            config = peft.LoraConfig(
                r=rank,
                lora_alpha=alpha,
                lora_dropout=dropout or 0.0,
                target_modules=names,
                fan_in_fan_out=fused,
            )
            self._adapted = peft.get_peft_model(module, config)
        self._adapted.peft_config["default"].target_modules = names  # as a set its order would change
        trained = [p for p in self._adapted.parameters() if p.requires_grad]
        model = setting.model.like(self._adapted.get_base_model())
        super().__init__(setting, model, trained)

    def save(self, folder: Path, point: Array) -> None:
        """PEFT's folder `adapter`, with the matrices that the point stands for."""
        try:
            with self.at(point), _peft(), whole_folder(folder / ADAPTER) as begun:
                self._adapted.save_pretrained(str(begun), save_embedding_layers=False)
        except OSError as error:
            raise cannot_write(folder, error) from None


FULL = Recipe(lr=2e-5, weight_decay=0.01, warmup=0.1)
LORA = Recipe(lr=5e-4, weight_decay=0.01)


def full(setting: Setting, recipe: Recipe = FULL) -> AdamW:
    """AdamW on all weights, in float32 whatever the model's dtype.

    lr and warm-up as Mosbach et al. 2021 (arXiv:2006.04884) found stable on few examples. Beside the weights,
    gradients and moments (four times the weights) the process holds the frozen model and the best copy.
    """
    return AdamW(_all_weights(setting, torch.float32, recipe.dropout), recipe, seed=setting.seed)


def lora(
    setting: Setting,
    recipe: Recipe = LORA,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    targets: str | Sequence[str] | None = None,
) -> AdamW:
    """AdamW on LoRA's matrices at queries and values.

    lr as Hu et al. for RoBERTa-base (4e-4 to 5e-4, table 9), rank too; alpha, which they set to the rank, as
    in MeZO's LoRA.

    Args:
        rank: of the matrices.
        alpha: LoRA's scale, divided by the rank.
        targets: modules that get matrices, as in gfo.LoRASubspace; queries and values by default.
    """
    matrices = Lora(setting, rank=rank, alpha=alpha, dropout=recipe.dropout, targets=targets)
    return AdamW(matrices, recipe, seed=setting.seed)


def mezo(setting: Setting, *, lr: float = 1e-6, eps: float = 1e-3) -> MeZO:
    """MeZO on all weights; lr and eps as Malladi et al. 2023 (arXiv:2305.17333) for OPT: 1e-6 or 1e-7.

    Args:
        lr: learning rate.
        eps: length of the step to each side, in standard deviations of the perturbation.
    """
    weights = _all_weights(setting, setting.model.dtype, 0.0)
    return MeZO(weights, lr=lr, eps=eps, seed=setting.seed)


def mezo_lora(
    setting: Setting,
    *,
    lr: float = 1e-4,
    eps: float = 1e-2,
    rank: int = 8,
    alpha: float = 16.0,
    targets: str | Sequence[str] | None = None,
) -> MeZO:
    """MeZO on LoRA's matrices; lr, eps, rank and alpha as Malladi et al. 2023 for OPT.

    Args:
        lr: learning rate.
        eps: length of the step to each side, in standard deviations of the perturbation.
        rank: of the matrices.
        alpha: LoRA's scale, divided by the rank.
        targets: modules that get matrices, as in gfo.LoRASubspace; queries and values by default.
    """
    matrices = Lora(setting, rank=rank, alpha=alpha, dropout=0.0, targets=targets)
    return MeZO(matrices, lr=lr, eps=eps, seed=setting.seed)


def _all_weights(setting: Setting, dtype: torch.dtype, dropout: float | None) -> Weights:
    model = copied(setting, dtype, dropout)
    start = list(setting.model.module.parameters())
    return Weights(setting, model, list(model.module.parameters()), start)


def copied(setting: Setting, dtype: torch.dtype, dropout: float | None) -> FrozenModel:
    """A copy of the model, whose weights are to change."""
    if quantized := list(quantized_linears(setting.model.module)):
        raise GfoError(
            f"baseline: all weights are trained, and those of '{quantized[0]}' are quantized; take 'lora', "
            "'mezo-lora', 'gradient' or 'prompt-tuning', or load the model without quantization"
        )
    template = getattr(setting.task, "template", None)
    if template is not None and any(map(is_image_field, template.fields)):
        raise GfoError(
            "baseline: all weights are trained, those too that read the rows' images, which gfo runs once; "
            "take 'lora', 'mezo-lora', 'gradient' or 'prompt-tuning'"
        )
    module = copy.deepcopy(setting.model.module).to(dtype)
    if dropout is not None:
        set_dropout(module, dropout)
    return setting.model.like(module)


def set_dropout(module: nn.Module, share: float) -> None:
    """Give every dropout of a transformers model this share: its `Dropout` modules and its attention's."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = share
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, share)


def _sharing(module: nn.Module) -> nn.Module:
    """A copy of the module with the same tensors."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def _copies(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


@contextmanager
def _peft() -> Iterator[Any]:
    """The package, without what it warns of about transformers."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        import peft

        yield peft
