"""Images in front of a frozen model: the tower runs once an image, and what it gives stands among the words.

What of an image enters the text model are embeddings in the places of placeholders. They are taken there: a
forward pass of transformers over the image alone is stopped where it calls the text model. So the tower, the
projector and the way they are put together are transformers' own, for every family; and a family that hands
the text model anything else (positions of its own, masks, features for deeper layers) is seen and refused.

An image's features are kept under token ids of their own, from FIRST on, the same ids for the same image. For
all else of gfo an image is words that rows may share.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gfo.core.errors import GfoError
from gfo.core.images import PLACE, Picture, opened
from gfo.core.protocols import Tokens
from gfo.core.texts import Pieces, Where
from gfo.models.features import FeatureStore
from gfo.models.structure import hooked
from gfo.models.weights import linear_sizes

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel

FIRST = 2**32  # token ids from here on are features of images
PLAIN = frozenset({"inputs_embeds", "input_ids", "attention_mask", "position_ids"})  # of the text model


@dataclass(frozen=True)
class Block:
    """What stands for an image in a row.

    Attributes:
        value: what the row holds; see `gfo.core.images.opened`. It is opened again where rows are compared
            with plain forward passes.
        tokens: those that the processor writes around the image, and the ids of its features.
        first, size: of its features.
    """

    value: Any
    tokens: Tokens
    first: int
    size: int


class Images:
    """The images of a model's rows.

    Args:
        model: a frozen model of images and text.
        processor: of transformers.

    Attributes:
        processor: as given.
        sign: the text that stands for an image in a prompt.
        features: of all images seen so far.
        runs: how often the tower ran.

    Raises:
        GfoError: for a processor that has no such text, or is of another model.
    """

    def __init__(self, model: FrozenModel, processor: Any) -> None:
        self.processor, self._model = processor, model
        config = model.module.config
        self.sign = str(getattr(processor, "image_token", None) or "")
        self._sign: int | None = processor.tokenizer.get_vocab().get(self.sign)
        placeholder = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
        if self._sign is None or placeholder is None:
            raise GfoError(
                f"model '{model.name}': its processor, a {type(processor).__name__}, has no token that "
                "stands for an image; give the model's own"
            )
        self._placeholder = int(placeholder)  # the token in whose places features stand
        self.features, self.runs = FeatureStore(), 0
        self._blocks: dict[int, Block] = {}  # by their first features' ids
        self._known: dict[Any, Block] = {}

    def encode(self, rows: Sequence[Pieces], where: Where, **options: Any) -> list[Tokens]:
        """Token ids of rows with images; see `gfo.models.text.TextTokens.encode` for the options."""
        behind = options.pop("behind", None)
        texts, fronts = self._with_signs(rows), None if behind is None else self._with_signs(behind)
        found = self._model.text_tokens.encode(texts, behind=fronts, where=where, **options)
        return [self._put(ids, rows[i], where(i)) for i, ids in enumerate(found)]

    @functools.cached_property
    def linears(self) -> list[str]:
        """Names of the linear modules of the tower and the projector, which no space changes."""
        model, head = self._model, self._model.module.get_output_embeddings()
        modules = model.module.named_modules()
        found = [name for name, part in modules if part is not head and linear_sizes(part) is not None]
        return [name for name in found if name not in model.linears]

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Messages in the model's chat format, with PLACE for each of their images.

        Raises:
            GfoError: for a format that does not write each image's sign once.
        """
        number = sum(message["content"].count(PLACE) for message in messages)
        texts = self._model.text_tokens
        if not number:
            return texts.chat(messages)
        said = texts.chat([{**message, "content": _parts(message["content"])} for message in messages])
        if said.count(self.sign) != number:
            raise GfoError(
                f"template: the model's chat template writes {said.count(self.sign)} times '{self.sign}' for "
                f"{number} images; write the template as one text"
            )
        return said.replace(self.sign, PLACE)

    def embed(self, ids: Tensor, words: Any) -> Tensor:
        """Embeddings [..., D] of token ids [...], of which some are features of images.

        Args:
            ids: of tokens.
            words: the model's embedding of the others.
        """
        own = ids >= FIRST
        if not (self._blocks and bool(own.any())):
            return words(ids)  # type: ignore[no-any-return]
        embedded = words(ids.masked_fill(own, 0))
        found = self.features.take(ids[own] - FIRST).to(embedded)
        return embedded.masked_scatter(own[..., None], found)  # type: ignore[no-any-return]

    def plain(self, row: Sequence[int]) -> tuple[list[int], dict[str, Tensor]]:
        """A row as transformers takes it: token ids with placeholders, and the inputs of its images.

        Raises:
            GfoError: for a row with parts of an image.
        """
        tokens = np.array(row)
        own = tokens[tokens >= FIRST]
        blocks = list(filter(None, map(self._blocks.get, own.tolist())))
        whole = [np.arange(block.first, block.first + block.size) for block in blocks]
        if not np.array_equal(own, np.concatenate([*whole, own[:0]])):
            raise GfoError(f"model '{self._model.name}': a row has a part of an image; give it whole")
        ids = np.where(tokens >= FIRST, self._placeholder, tokens).tolist()
        found = [opened(block.value, "a row") for block in blocks]
        return ids, self._processed(found, "a row")[1] if found else {}

    def _with_signs(self, rows: Sequence[Pieces]) -> list[Pieces]:
        """Rows as texts, with the model's sign in the images' places."""
        return [[self.sign if isinstance(piece, Picture) else piece for piece in row] for row in rows]

    def _put(self, ids: Tokens, row: Pieces, where: str) -> Tokens:
        """A row's tokens with its images in the signs' places."""
        pictures = [piece for piece in row if isinstance(piece, Picture)]
        if ids.count(self._sign) != len(pictures):
            raise GfoError(
                f"{where}: it has {ids.count(self._sign)} times '{self.sign}', the model's place for an "
                f"image, and {len(pictures)} images; write {{image}} where one goes, and leave the sign out"
            )
        if not pictures:
            return ids
        blocks = iter([self._block(picture.value, where).tokens for picture in pictures])
        return tuple(t for token in ids for t in (next(blocks) if token == self._sign else (token,)))

    def _block(self, value: Any, where: str) -> Block:
        """The tokens of an image, which is processed if it is new."""
        key = _key(value)
        if key not in self._known:
            image = opened(value, where)
            content = hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()
            if content not in self._known:
                self._known[content] = self._added(value, image, where)
            self._known[key] = self._known[content]
        return self._known[key]

    def _added(self, value: Any, image: Any, where: str) -> Block:
        """A new image, its features computed."""
        ids, inputs = self._processed([image], where)
        size = ids.count(self._placeholder)
        self._check_edges(ids)
        features = self._features(ids, inputs)
        first = FIRST + self.features.add(features)
        numbers = iter(range(first, first + size))
        tokens = tuple(next(numbers) if token == self._placeholder else token for token in ids)
        self._blocks[first] = Block(value, tokens, first, size)
        return self._blocks[first]

    def _processed(self, images: list[Any], where: str) -> tuple[list[int], dict[str, Tensor]]:
        """Token ids of images one behind the other, and the inputs that the model takes with them."""
        try:
            found = dict(
                self.processor(
                    text=[self.sign * len(images)],
                    images=images,
                    return_tensors="pt",
                    add_special_tokens=False,
                )
            )
        except Exception as error:  # of many kinds, for images of strange shapes
            raise GfoError(
                f"{where}: the model's processor does not take its image ({_line(error)}); mend it, or drop "
                "the row"
            ) from error
        ids = found.pop("input_ids")[0].tolist()
        found = {name: value for name, value in found.items() if name not in PLAIN}
        return ids, {name: self._there(value) for name, value in found.items() if isinstance(value, Tensor)}

    def _there(self, value: Tensor) -> Tensor:
        """A tensor on the model's device, floats in its dtype."""
        return value.to(self._model.device, self._model.dtype if value.is_floating_point() else None)

    def _check_edges(self, ids: Sequence[int]) -> None:
        """Raise GfoError where what the processor writes around an image may join with a row's text."""
        special = {*self._model.special_tokens, self._placeholder}
        if not ids or not {ids[0], ids[-1]} <= special:
            raise self._refused("its processor writes text around an image, which joins with the row's")

    @torch.no_grad()
    def _features(self, ids: list[int], inputs: dict[str, Tensor]) -> Tensor:
        """What of an image enters the text model, [size, D]."""
        row = torch.tensor([ids], device=self._model.device)
        with self._model.lock:
            self.runs += 1
            try:
                given = entering(self._model.module, input_ids=row, **inputs)
            except Exception as error:  # of any kind: of a processor that is another model's, say
                raise self._refused(f"its forward pass does not take the image: {_line(error)}") from error
        self._check_given(given)
        embeds: Tensor = given["inputs_embeds"]
        return embeds[0, row[0] == self._placeholder]

    def _check_given(self, given: Mapping[str, Any]) -> None:
        """Raise GfoError where the text model is called with more than the embeddings of a text."""
        for name, value in given.items():
            if name not in PLAIN and _has_tensors(value):
                raise self._refused(f"its text model takes {name}, too")
        position, mask = given.get("position_ids"), given.get("attention_mask")
        if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2 and bool((mask == 1).all())):
            raise self._refused("its images are seen in other ways than text is")
        if position is not None and not _counts(position):
            raise self._refused("its images have positions of their own")

    def _refused(self, why: str) -> GfoError:
        kind = self._model.module.config.model_type
        return GfoError(
            f"model '{self._model.name}' ({kind}): gfo puts no images into it ({why}); take rows of text, or "
            "another model"
        )


class _ReachedError(Exception):
    """The text model was called."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__()
        self.given = given


def entering(module: Any, **inputs: Tensor) -> Mapping[str, Any]:
    """What a model's forward pass calls its text model with; nothing of that runs."""

    def stop(part: Any, args: Any, kwargs: Any) -> None:
        raise _ReachedError(kwargs)

    try:
        with hooked(module.get_decoder().register_forward_pre_hook(stop, with_kwargs=True)):
            module(**inputs)
    except _ReachedError as reached:
        return reached.given
    raise GfoError(f"model: the forward pass of {type(module).__name__} never calls its text model")


def _parts(content: str) -> list[dict[str, str]]:
    """A message's content as chat templates of images take it."""
    pieces = [piece for piece in re.split(f"({PLACE})", content) if piece]
    return [{"type": "image"} if piece == PLACE else {"type": "text", "text": piece} for piece in pieces]


def _line(error: Exception) -> str:
    """The first line of an error, or its class."""
    return (next(iter(str(error).strip().splitlines()), "") or type(error).__name__)[:100]


def _counts(position: Tensor) -> bool:
    """Whether positions are those of text: 0, 1, 2, ..., in one dimension or the same in all."""
    wanted = torch.arange(position.shape[-1], device=position.device)
    return bool((position == wanted).all())


def _has_tensors(value: Any) -> bool:
    parts = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(part, Tensor) for part in parts)


def _key(value: Any) -> Any:
    """What is equal for the same value, without opening it."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str | Path):
        path = os.path.abspath(os.path.expanduser(value))
        found = os.stat(path) if os.path.exists(path) else None
        return path, found and (found.st_mtime_ns, found.st_size)
    return bytes(value) if isinstance(value, bytes | bytearray) else ("object", id(value))
