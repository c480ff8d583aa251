"""Checkpoints of one model that are merged: whole folders read module by module, or LoRA adapters.

Nothing of a folder stays in memory: a tensor is mapped from its file when it is read, and the file is closed
again, so that its pages leave the process with it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gfo.core.errors import GfoError, GfoWarning
from gfo.core.reading import parse_json, read_bytes, read_text
from gfo.spaces.parts.measure import HasModules
from gfo.spaces.parts.peft_files import CONFIG, read_lora

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
SAMPLES, SAMPLED = 64, 4096  # places of a file, and bytes at each, by which its content is told


class HasTokens(HasModules, Protocol):
    """What checkpoints are compared with."""

    name: str
    tokenizer: Any


class Checkpoint(Protocol):
    """What is merged.

    Attributes:
        path: its folder.
        fingerprint: of its content.
    """

    path: Path

    @property
    def fingerprint(self) -> str: ...
    def weight(self, name: str) -> Tensor: ...
    def bias(self, name: str) -> Tensor | None: ...


class Whole:
    """A folder of a whole model that transformers saved, in safetensors.

    Args:
        path: the folder.
        model: the model that it must be like.

    Raises:
        GfoError: for a folder without weights, or with tensors of other names or shapes, or other tokens.
    """

    def __init__(self, path: Path, model: HasTokens) -> None:
        self.path, self._model = path, model
        self._files = _files(path)
        self._prefix = f"{model.module.base_model_prefix}."
        self._check_shapes()
        _check_tokenizer(path, model)

    def weight(self, name: str) -> Tensor:
        """The weight of a linear module [out, in], in the folder's dtype, mapped from its file."""
        weight = self._read(f"{name}.weight")
        return weight.T if _lies_transposed(self._model, name) else weight

    def bias(self, name: str) -> Tensor | None:
        """The bias of a linear module [out], or None where the model has none."""
        has = getattr(self._model.module.get_submodule(name), "bias", None) is not None
        return self._read(f"{name}.bias") if has else None

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the names of its files, their sizes, and what stands at some places in each."""
        digest = hashlib.sha256()
        for file in sorted(set(self._files.values())):
            size = file.stat().st_size
            digest.update(f"{file.name} {size}".encode())
            with file.open("rb") as opened:
                for i in range(SAMPLES):
                    opened.seek(i * size // SAMPLES)
                    digest.update(opened.read(SAMPLED))
        return digest.hexdigest()[:16]

    def _read(self, key: str) -> Tensor:
        from safetensors import SafetensorError, safe_open

        key = self._key(key)
        path = self._files[key]
        try:
            with safe_open(path, "pt") as file:
                tensor: Tensor = file.get_tensor(key)
        except (OSError, SafetensorError) as error:
            raise GfoError(f"checkpoints: {path} cannot be read ({error}); put it back") from None
        return tensor

    def _key(self, key: str) -> str:
        """What the folder calls a tensor of the model: some leave out the name of the body, or add it."""
        found = (key, key.removeprefix(self._prefix), self._prefix + key)
        return next((each for each in found if each in self._files), "")

    def _check_shapes(self) -> None:
        """Raise GfoError unless every linear module, and the vocabulary, is there with the model's shape."""
        names = [
            f"{name}.{part}"
            for name in self._model.linears
            for part in ("weight", "bias")
            if getattr(self._model.module.get_submodule(name), part, None) is not None
        ]
        own = dict(self._model.module.named_parameters())
        embedding = self._model.module.get_input_embeddings().weight
        names += [key for key, parameter in own.items() if parameter is embedding][:1]
        with _Shapes(self._files) as shapes:
            for key in names:
                found = shapes.of(self._key(key))
                wanted = tuple(own[key].shape) if key in own else None
                if found is None or wanted not in (None, found):
                    raise _other_shape(self.path, key, found, wanted, self._model.name)


class _Shapes:
    """Shapes of tensors in files, which are open within."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self._opened: dict[Path, Any] = {}

    def __enter__(self) -> _Shapes:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.clear()

    def of(self, key: str) -> tuple[int, ...] | None:
        """The shape of a tensor, or None where there is none of the name."""
        from safetensors import safe_open

        file = self._files.get(key)
        if file is None:
            return None
        if file not in self._opened:
            self._opened[file] = safe_open(file, "pt")
        return tuple(self._opened[file].get_slice(key).get_shape())


class Adapter:
    """A LoRA adapter of PEFT: W + B A, its scaling in B.

    Args:
        path: the folder.
        model: the model that it was made for.

    Attributes:
        low_rank: module -> A [r, in] and B [out, r], float32.

    Raises:
        GfoError: for another kind of adapter, or one for a model of other shapes.
    """

    def __init__(self, path: Path, model: HasTokens) -> None:
        self.path, self._model = path, model
        try:
            self.low_rank, tokens = read_lora(path, model)
        except GfoError as error:
            raise GfoError(str(error).replace("from_peft =", "space: checkpoints:", 1)) from None
        if tokens:
            raise GfoError(
                f"space: checkpoints: {path} is an activated LoRA, which changes tokens from some place on "
                "and no weight; give plain ones"
            )
        _check_tokenizer(path, model)

    def weight(self, name: str) -> Tensor:
        """The model's weight with the adapter in it, [out, in], float32."""
        own = self._model.weight(name).float()
        if name not in self.low_rank:
            return own
        A, B = self.low_rank[name]
        return own + B @ A

    def bias(self, name: str) -> Tensor | None:
        """None: biases stay the model's."""
        return None

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of its matrices."""
        digest = hashlib.sha256()
        for name, tensors in self.low_rank.items():
            digest.update(name.encode())
            for tensor in tensors:
                digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def open_checkpoints(
    paths: Sequence[str | Path], model: HasTokens
) -> tuple[Whole, ...] | tuple[Adapter, ...]:
    """Two or more whole folders, or as many adapters.

    Raises:
        GfoError: for fewer than two, a folder given twice, one that is missing, or both kinds.
    """
    folders = [Path(path).expanduser() for path in paths]
    if len(folders) < 2:
        raise GfoError(f"space: checkpoints = {list(map(str, paths))}; give two folders or more")
    for folder in folders:
        if not folder.is_dir():
            raise GfoError(f"space: checkpoints: there is no folder {folder}; check the path")
    places = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise GfoError(f"space: checkpoints: {folder} is given twice; give different folders")
    adapters = [(folder / CONFIG).is_file() for folder in folders]
    if all(adapters):
        found = tuple(Adapter(folder, model) for folder in folders)
        _tell_of_bases(folders, model)
        return found
    if any(adapters):
        raise GfoError(
            f"space: checkpoints: {folders[adapters.index(True)]} is an adapter, and "
            f"{folders[adapters.index(False)]} none; give one kind (gfo.load_model merges adapters)"
        )
    return tuple(Whole(folder, model) for folder in folders)


def labels_of(folders: Iterable[Path]) -> list[str]:
    """A name for each folder: its last part, or as many parts as tell it from the others."""
    parts = [folder.resolve().parts for folder in folders]
    for n in range(1, max(map(len, parts)) + 1):
        found = ["/".join(part[-n:]) for part in parts]
        if len(set(found)) == len(found):
            break
    return found


def own_bias(model: HasModules, name: str) -> Tensor | None:
    """The bias of the model's own module [out], or None."""
    bias: Tensor | None = getattr(model.module.get_submodule(name), "bias", None)
    return bias


def _files(path: Path) -> dict[str, Path]:
    """Name of a tensor -> the file that holds it."""
    from safetensors import SafetensorError, safe_open

    try:
        if (path / INDEX).is_file():
            index = parse_json(read_text(path / INDEX, "checkpoints"), INDEX, "save the model anew")
            return {key: path / Path(file).name for key, file in index["weight_map"].items()}
        with safe_open(path / WEIGHTS, "pt") as file:
            return dict.fromkeys(file.keys(), path / WEIGHTS)
    except (OSError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise GfoError(
            f"space: checkpoints: {path} has no weights that can be read ({reason}); give a folder of an "
            f"adapter, or one with {WEIGHTS}"
        ) from None


def _lies_transposed(model: HasModules, name: str) -> bool:
    """Whether the model keeps a weight as [in, out] (GPT-2's), of which `model.weight` is a view."""
    part, weight = model.module.get_submodule(name).weight, model.weight(name)
    return bool(part.data_ptr() == weight.data_ptr() and part.stride() != weight.stride())


def _other_shape(path: Path, key: str, found: Any, wanted: Any, model: str) -> GfoError:
    has = "has no tensor" if found is None else f"has {list(found)} as"
    wants = "" if wanted is None else f", of {list(wanted)} in '{model}'"
    return GfoError(f"space: checkpoints: {path} {has} {key}{wants}; give checkpoints of the model")


def _check_tokenizer(path: Path, model: HasTokens) -> None:
    """Raise GfoError for a folder whose tokenizer has other tokens than the model's; it may have none.

    Tokens without an embedding do not count.
    """
    if not (path / TOKENIZER).is_file():
        return
    V = len(model.module.get_input_embeddings().weight)
    own = {token: i for token, i in model.tokenizer.get_vocab().items() if i < V}
    digest = hashlib.sha256(read_bytes(path / TOKENIZER, "checkpoints")).hexdigest()
    for read in (_vocabulary_of_file, _vocabulary):  # transformers may make another one of the file
        if {token: i for token, i in read(path, digest).items() if i < V} == own:
            return
    raise GfoError(
        f"space: checkpoints: {path} has a tokenizer with other tokens than '{model.name}'; give checkpoints "
        "of the model"
    )


@functools.lru_cache(maxsize=2)
def _vocabulary_of_file(path: Path, digest: str) -> dict[str, int]:
    """Token -> number in a folder's tokenizer.json, which has the digest."""
    from tokenizers import Tokenizer

    try:
        found: dict[str, int] = Tokenizer.from_file(str(path / TOKENIZER)).get_vocab()
    except Exception as error:  # of no other class
        reason = " ".join(str(error).split())
        raise GfoError(f"space: checkpoints: {path / TOKENIZER} cannot be read ({reason})") from None
    return found


@functools.lru_cache(maxsize=2)
def _vocabulary(path: Path, digest: str) -> dict[str, int]:
    """The same as transformers reads the folder."""
    from transformers import AutoTokenizer

    try:
        found: dict[str, int] = AutoTokenizer.from_pretrained(path, trust_remote_code=False).get_vocab()
    except Exception as error:  # of all classes
        reason = " ".join(str(error).split())
        raise GfoError(f"space: checkpoints: {path}: its tokenizer cannot be read ({reason})") from None
    return found


def _tell_of_bases(folders: Sequence[Path], model: HasTokens) -> None:
    """Warn of adapters that name another base than the model."""
    own = {str(model.module.config.name_or_path or ""), model.name}
    known = {Path(name).name.lower() for name in own if name}
    for folder in folders:
        base = json.loads(read_text(folder / CONFIG, "checkpoints")).get("base_model_name_or_path")
        if base and Path(str(base)).name.lower() not in known:
            warnings.warn(
                f"space: checkpoints: {folder} says that it is an adapter of {base}, not of '{model.name}'",
                GfoWarning,
                stacklevel=4,
            )
