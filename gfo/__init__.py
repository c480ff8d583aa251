"""gfo: tune frozen language models without gradients.

A user's program: `load_model`, a task (`Classification`), a space (`SoftPrompt`, `LoRASubspace`, ...),
`tune`. Everything is loaded when first used, so `import gfo` is fast and needs neither torch nor
transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gfo.core.names import BUILT_IN

if TYPE_CHECKING:
    from gfo import baselines as baselines
    from gfo import optimizers as optimizers
    from gfo import testing as testing
    from gfo.config.study import Sweep as Sweep
    from gfo.config.sweep import sweep as sweep
    from gfo.core.delta import Delta as Delta
    from gfo.core.domain import Domain as Domain
    from gfo.core.errors import GfoError as GfoError
    from gfo.core.errors import GfoWarning as GfoWarning
    from gfo.core.hyperparameters import Hyperparameters as Hyperparameters
    from gfo.core.hyperparameters import Int as Int
    from gfo.core.hyperparameters import Log as Log
    from gfo.core.hyperparameters import When as When
    from gfo.core.metric import Metric as Metric
    from gfo.core.recording import recorded as recorded
    from gfo.core.registry import register as register
    from gfo.evaluation.endpoint import EndpointEvaluator as EndpointEvaluator
    from gfo.evaluation.local import LocalEvaluator as LocalEvaluator
    from gfo.evaluation.racing import Racing as Racing
    from gfo.evaluation.texts import TextEvaluator as TextEvaluator
    from gfo.evaluation.workers import Workers as Workers
    from gfo.models.decoder import Decoder as Decoder
    from gfo.models.encoder import Encoder as Encoder
    from gfo.models.encoder_decoder import EncoderDecoder as EncoderDecoder
    from gfo.models.endpoint import Endpoint as Endpoint
    from gfo.models.loading import freeze as freeze
    from gfo.models.loading import load_model as load_model
    from gfo.run.budget import Budget as Budget
    from gfo.run.callbacks import Callback as Callback
    from gfo.run.callbacks import CSVLog as CSVLog
    from gfo.run.callbacks import EarlyStopping as EarlyStopping
    from gfo.run.callbacks import StopOnTarget as StopOnTarget
    from gfo.run.compare import compare as compare
    from gfo.run.halving import ASHA as ASHA
    from gfo.run.halving import Hyperband as Hyperband
    from gfo.run.loop import minimize as minimize
    from gfo.run.merging import MergeControls as MergeControls
    from gfo.run.merging import merge_controls as merge_controls
    from gfo.run.pruning import OptunaPruning as OptunaPruning
    from gfo.run.result import Result as Result
    from gfo.run.runs import runs as runs
    from gfo.run.search import Study as Study
    from gfo.run.search import search as search
    from gfo.run.selection import Selection as Selection
    from gfo.run.sensitivity import Sensitivities as Sensitivities
    from gfo.run.sensitivity import sensitivities as sensitivities
    from gfo.run.trackers import MLflow as MLflow
    from gfo.run.trackers import TensorBoard as TensorBoard
    from gfo.run.trackers import Trackio as Trackio
    from gfo.run.trackers import WandB as WandB
    from gfo.run.trials import Outcome as Outcome
    from gfo.run.tune import tune as tune
    from gfo.spaces.adapter import Adapter as Adapter
    from gfo.spaces.compression import Compression as Compression
    from gfo.spaces.deep_prompt import DeepPrompt as DeepPrompt
    from gfo.spaces.discrete_prompt import DiscretePrompt as DiscretePrompt
    from gfo.spaces.lora_subspace import LoRASubspace as LoRASubspace
    from gfo.spaces.merge import Merge as Merge
    from gfo.spaces.parts.random_adapters import random_adapter as random_adapter
    from gfo.spaces.prefix import Prefix as Prefix
    from gfo.spaces.product import ProductSpace as ProductSpace
    from gfo.spaces.scaling import BiasSpace as BiasSpace
    from gfo.spaces.scaling import Scaling as Scaling
    from gfo.spaces.soft_prompt import SoftPrompt as SoftPrompt
    from gfo.spaces.structure import Structure as Structure
    from gfo.spaces.texts import Texts as Texts
    from gfo.spaces.words import Words as Words
    from gfo.tasks.classification import Classification as Classification
    from gfo.tasks.distance import Distance as Distance
    from gfo.tasks.distillation import Distillation as Distillation
    from gfo.tasks.generation import Generation as Generation
    from gfo.tasks.language_modeling import LanguageModeling as LanguageModeling
    from gfo.tasks.multiple_choice import MultipleChoice as MultipleChoice
    from gfo.tasks.parts import datasets as datasets
    from gfo.tasks.weighted import Constraint as Constraint
    from gfo.tasks.weighted import Weighted as Weighted

__version__ = "0.2.0"

# public name -> the module that has it: spaces and tasks by the table of names
_PUBLIC = {
    place.partition(":")[2]: f"gfo.{place.partition(':')[0]}"
    for kind in ("space", "task")
    for place, _ in BUILT_IN[kind].values()
} | {
    "ASHA": "gfo.run.halving",
    "Budget": "gfo.run.budget",
    "CSVLog": "gfo.run.callbacks",
    "Callback": "gfo.run.callbacks",
    "Constraint": "gfo.tasks.weighted",
    "Decoder": "gfo.models.decoder",
    "Delta": "gfo.core.delta",
    "Domain": "gfo.core.domain",
    "EarlyStopping": "gfo.run.callbacks",
    "Encoder": "gfo.models.encoder",
    "EncoderDecoder": "gfo.models.encoder_decoder",
    "Endpoint": "gfo.models.endpoint",
    "EndpointEvaluator": "gfo.evaluation.endpoint",
    "GfoError": "gfo.core.errors",
    "GfoWarning": "gfo.core.errors",
    "Hyperband": "gfo.run.halving",
    "Hyperparameters": "gfo.core.hyperparameters",
    "Int": "gfo.core.hyperparameters",
    "LocalEvaluator": "gfo.evaluation.local",
    "Log": "gfo.core.hyperparameters",
    "MLflow": "gfo.run.trackers",
    "MergeControls": "gfo.run.merging",
    "Metric": "gfo.core.metric",
    "Outcome": "gfo.run.trials",
    "OptunaPruning": "gfo.run.pruning",
    "Racing": "gfo.evaluation.racing",
    "Result": "gfo.run.result",
    "Selection": "gfo.run.selection",
    "Sensitivities": "gfo.run.sensitivity",
    "StopOnTarget": "gfo.run.callbacks",
    "Study": "gfo.run.search",
    "Sweep": "gfo.config.study",
    "TensorBoard": "gfo.run.trackers",
    "TextEvaluator": "gfo.evaluation.texts",
    "Trackio": "gfo.run.trackers",
    "WandB": "gfo.run.trackers",
    "When": "gfo.core.hyperparameters",
    "Workers": "gfo.evaluation.workers",
    "compare": "gfo.run.compare",
    "freeze": "gfo.models.loading",
    "load_model": "gfo.models.loading",
    "merge_controls": "gfo.run.merging",
    "minimize": "gfo.run.loop",
    "random_adapter": "gfo.spaces.parts.random_adapters",
    "recorded": "gfo.core.recording",
    "register": "gfo.core.registry",
    "runs": "gfo.run.runs",
    "search": "gfo.run.search",
    "sensitivities": "gfo.run.sensitivity",
    "sweep": "gfo.config.sweep",
    "tune": "gfo.run.tune",
}
_MODULES = {
    "baselines": "gfo.baselines",
    "datasets": "gfo.tasks.parts.datasets",
    "optimizers": "gfo.optimizers",
    "testing": "gfo.testing",
}
__all__ = [*sorted(_PUBLIC), *_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name in _MODULES:
        return import_module(_MODULES[name])
    raise AttributeError(f"module 'gfo' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
