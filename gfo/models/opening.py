"""How transformers opens a model: where its files are, its class, its weights; every failure is one line.

Code that a folder or a repository brings is never run.
"""

from __future__ import annotations

import copy
import difflib
import json
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gfo.core.errors import GfoError, unknown_name
from gfo.core.names import BUILT_IN
from gfo.core.registry import entries
from gfo.models.download import BuiltInModel, check_whole, ensure_downloaded
from gfo.models.limits import check_counts, check_shards, check_size

WITH_HEAD = ("ForMaskedLM", "ForPreTraining")  # how the names of masked language models end
HUB_SECONDS = 3.0  # that the hub has to answer
PROCESSORS_NEED = ("torchvision", "num2words", "pillow")  # of packages that gfo itself does not need
PROMPTS = ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "TRAINABLE_TOKENS")  # adapters that no weight holds


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        name: what the user called it.
        path: a folder or a hub id.
        options: what else `from_pretrained` takes, of configs, tokenizers and weights alike.
        above: where the adapters are that were made for it.
    """

    name: str
    path: str
    options: Mapping[str, Any] = field(default_factory=dict)
    above: tuple[str, ...] = ()


def find_source(name: str, revision: str | None = None, gguf_file: str | None = None) -> Source:
    """Where the model of this name, or of this folder, GGUF file or hub id, comes from.

    Raises:
        GfoError: for a revision of something that has none.
    """
    path = Path(_path_of(name))
    if path.suffix == ".gguf" and os.path.isfile(path):  # False of names too long, too
        path, gguf_file = path.parent, path.name
    options = {"gguf_file": gguf_file} if gguf_file else {}
    return Source(name, path.as_posix(), options | _of_hub(name, path, revision))


def open_model(source: Source, dtype: Any, place: Any, quantization_config: Any = None) -> tuple[Any, Any]:
    """The transformers model and its tokenizer.

    Args:
        source: where they come from.
        dtype: of torch, or "auto" for that of the files.
        place: a device, or a text that transformers takes as device_map.
        quantization_config: of transformers, or as a mapping.

    Raises:
        GfoError: for whatever transformers raises, and weights that are missing.
    """
    adapter = _adapter_config(source)
    if adapter is not None:
        return _open_adapter(source, adapter, dtype, place, quantization_config)
    with _said_of(source), no_progress_bars():
        from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

        check_counts(source.name, PreTrainedConfig.get_config_dict(source.path, **source.options)[0])
        config = AutoConfig.from_pretrained(source.path, **source.options)
        tokenizer = AutoTokenizer.from_pretrained(source.path, **source.options)
        if "gguf_file" in source.options:
            quantization_config = _of_gguf(source, quantization_config)
        more, kind = _placing(config, place, quantization_config), _class_of(config)
        _check_folder(source, kind, config)
        module, info = kind.from_pretrained(
            source.path, dtype=dtype, output_loading_info=True, **more, **source.options
        )
        if "device_map" not in more:
            module = module.to(place)
    _check_whole(source, sorted(info["missing_keys"]))
    return module, tokenizer


def open_processor(source: Source, module: Any) -> tuple[Any, str | None]:
    """The processor of a model of images and text, or None and why there is none, if that can be said."""
    import transformers

    if type(module.config) not in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return None, None
    adapter = _adapter_config(source)
    if adapter is not None:
        return open_processor(find_source(str(adapter["base_model_name_or_path"])), module)
    try:
        with no_progress_bars():
            found = transformers.AutoProcessor.from_pretrained(source.path, **source.options)
    except Exception as error:  # of any kind: rows of text need none
        return None, _why_no_processor(error)
    return (found, None) if hasattr(found, "image_processor") else (None, "has no processor of images")


def _why_no_processor(error: Exception) -> str:
    """What an error says of a processor that was not opened."""
    if not isinstance(error, ImportError):
        return f"has no processor that transformers can open ({_reason(error)[:100]}); save it there"
    package = next((name for name in PROCESSORS_NEED if name in str(error).lower()), "a package")
    return f"reads images by a processor that needs {package}; pip install 'gfo-llm[images]'"


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Within, transformers shows none while it loads and saves."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()


def kind_of(config: Any, architecture: str) -> str:
    """ "decoder", "prefix-lm", "encoder" or "encoder-decoder", by the config and the class that was saved."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    from gfo.models.families import WHOLE_PROMPTS

    if config.is_encoder_decoder:
        return "encoder-decoder"
    if config.model_type in WHOLE_PROMPTS:
        return "prefix-lm"
    if architecture.endswith(WITH_HEAD):
        return "encoder"
    headless = not any(word in architecture for word in ("CausalLM", "LMHead"))
    return "encoder" if headless and config.model_type in MASKED else "decoder"


def _of_hub(name: str, path: Path, revision: str | None) -> dict[str, Any]:
    """What `from_pretrained` is told of a hub id, and that no code is trusted in any case."""
    options: dict[str, Any] = {"trust_remote_code": False} | ({"revision": revision} if revision else {})
    if os.path.isdir(path) and revision:
        raise GfoError(f"revision = '{revision}': model '{name}' is a folder, which has none; leave it out")
    if not os.path.isdir(path) and (_is_near_built_in(name) or not _hub_answers()):
        options["local_files_only"] = True  # else transformers tries for half a minute
    return options


def _path_of(name: str) -> str:
    """The folder or hub id that a name stands for; what is built in is downloaded first."""
    known = entries("model").get(name)
    if known is None:
        return name
    found = known.load()
    if not isinstance(found, BuiltInModel):
        return str(found)
    folder = ensure_downloaded(name, say=lambda text: print(text, file=sys.stderr))
    check_whole(folder)
    return str(folder)


def _is_near_built_in(name: str) -> bool:
    """Whether it looks like the name of a built-in model with a slip in it."""
    return "/" not in name and bool(difflib.get_close_matches(name, BUILT_IN["model"], n=1))


def _hub_answers() -> bool:
    """Whether the hub can be asked, told within a few seconds."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    answered: list[Any] = []

    def ask() -> None:
        try:
            answered.append(get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS))
        except Exception:  # no name, no route, no certificate, ...: what matters is that there is no answer
            return

    asking = threading.Thread(target=ask, daemon=True)  # names may take longer than the timeout to resolve
    asking.start()
    asking.join(HUB_SECONDS)
    return bool(answered)


def _class_of(config: Any) -> Any:
    """The class of transformers that loads the model with the head it was saved with."""
    import transformers

    architecture = (config.architectures or [""])[0]
    kind = kind_of(config, architecture)
    if kind == "encoder":
        masked = architecture.endswith(WITH_HEAD)
        return transformers.AutoModelForMaskedLM if masked else transformers.AutoModel
    if kind == "encoder-decoder":
        return transformers.AutoModelForSeq2SeqLM
    if type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        return transformers.AutoModelForCausalLM
    images = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return transformers.AutoModelForImageTextToText if images else transformers.AutoModelForCausalLM


def _of_gguf(source: Source, quantization_config: Any) -> Any:
    """That a GGUF file is dequantized, after which the model counts as a plain one."""
    from transformers import GgufConfig

    if quantization_config is not None:
        raise GfoError(
            f"model '{source.name}': a GGUF file is dequantized as it is loaded; leave quantization_config "
            "out, or save the model as a folder first"
        )
    return GgufConfig(dequantize=True)


def _check_folder(source: Source, kind: Any, config: Any) -> None:
    """Raise GfoError for a config that asks for more memory than a folder's files account for, or an index
    that names files elsewhere."""
    import torch

    if os.path.isdir(source.path):
        check_shards(source.name, Path(source.path))
        with torch.device("meta"):
            module = kind.from_config(copy.deepcopy(config), trust_remote_code=False)
        check_size(source.name, Path(source.path), module)


def _check_whole(source: Source, missing: list[str]) -> None:
    """Raise GfoError for weights that are missing, which transformers has drawn at random."""
    if missing:
        raise GfoError(
            f"model '{source.name}': its files lack {len(missing)} weights, {missing[0]} first; save it whole"
        )


def _placing(config: Any, place: Any, quantization_config: Any) -> dict[str, Any]:
    """How the weights are placed: quantized ones where they are to be, for they may not be moved."""
    quantized = quantization_config is not None or hasattr(config, "quantization_config")
    more = {} if quantization_config is None else {"quantization_config": quantization_config}
    if isinstance(place, str):
        return more | {"device_map": place}
    return more | ({"device_map": {"": place}} if quantized else {})


def _adapter_config(source: Source) -> dict[str, Any] | None:
    """The config of the PEFT adapter that a folder or repository holds, or None."""
    from transformers.utils import find_adapter_config_file

    wanted = {k: v for k, v in source.options.items() if k in ("revision", "local_files_only")}
    with _said_of(source):
        path = find_adapter_config_file(source.path, **wanted)
        if path is None:
            return None
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}


def _open_adapter(
    source: Source, adapter: Mapping[str, Any], dtype: Any, place: Any, quantization_config: Any
) -> tuple[Any, Any]:
    """The model that an adapter was made for, with the adapter merged into its weights."""
    base = _base_of(source, adapter)
    below = find_source(base)
    below = replace(
        below, name=f"{base}' of the adapter '{source.name}", above=(*source.above, _place_of(source))
    )
    if _place_of(below) in below.above:
        raise GfoError(
            f"model '{source.name}': it is an adapter on itself; name the model that it was made for"
        )
    return _merged(source, *open_model(below, dtype, place, quantization_config))


def _base_of(source: Source, adapter: Mapping[str, Any]) -> str:
    """The name of the model that an adapter was made for.

    Raises:
        GfoError: for an adapter that names none, or that no weight can hold.
    """
    base, kind = adapter.get("base_model_name_or_path"), adapter.get("peft_type")
    if not isinstance(base, str) or not base:
        raise GfoError(
            f"model '{source.name}': this adapter names no base model; load that one, and give the folder to "
            "from_peft of a space"
        )
    if kind in PROMPTS:
        raise GfoError(
            f"model '{source.name}': it is an adapter of the kind {kind}, which no weight holds; load "
            f"'{base}', and start from the adapter: gfo.SoftPrompt.from_peft"
        )
    if adapter.get("alora_invocation_tokens"):
        raise GfoError(
            f"model '{source.name}': it is an activated LoRA, which acts from some tokens on and no weight "
            f"holds; load '{base}', and start from the adapter: gfo.LoRASubspace.from_peft"
        )
    return base


def _place_of(source: Source) -> str:
    """Its folder, however it is written; or its hub id."""
    return os.path.realpath(source.path) if os.path.exists(source.path) else source.path


def _merged(source: Source, module: Any, tokenizer: Any) -> tuple[Any, Any]:
    """A model with an adapter in its weights, and the adapter's own tokenizer if it has one."""
    with _said_of(source), no_progress_bars(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        import peft

        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        merged = peft.PeftModel.from_pretrained(module, source.path).merge_and_unload()
        if (Path(source.path) / "tokenizer_config.json").exists():
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(source.path, **source.options)
    merged.config._name_or_path = ""  # no folder holds it whole
    return merged, tokenizer


@contextmanager
def _said_of(source: Source) -> Iterator[None]:
    """Within, whatever is raised becomes a GfoError that says of which model."""
    try:
        yield
    except GfoError:
        raise
    except Exception as error:  # transformers' and its formats' are of all classes
        raise _cannot_load(source, error) from error


def _reason(error: Exception) -> str:
    """An exception's first line, with its class where the line alone may say little."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    said = isinstance(error, OSError | ValueError | RuntimeError) and lines[0]
    return lines[0] if said else f"{type(error).__name__}: {lines[0]}".removesuffix(": ")


def _cannot_load(source: Source, error: Exception) -> GfoError:
    name = source.name
    if "trust_remote_code" in str(error):
        return GfoError(
            f"model '{name}': it brings code of its own, which gfo never runs; load it yourself, and give it "
            "to gfo.freeze"
        )
    reason = _reason(error)
    if os.path.exists(source.path):
        return GfoError(f"model '{name}': transformers cannot load this folder: {reason}")
    hint = unknown_name("model", name, entries("model"))
    return GfoError(f"{hint}, or a folder, or a hub id if the hub can be reached ({reason})")
