"""Images in front of a frozen model: the tower runs once an image, and what it gives stands among the words.

What of an image enters the text model are embeddings in the places of placeholders. They are taken there: a
forward pass of transformers over the image alone is stopped where it calls the text model. So the tower, the
projector and the way they are put together are transformers' own, for every family; positions of its own and
features for deeper layers are seen there too (see `gfo.models.image_tokens`), and anything else is refused.

An image's features are kept under token ids of their own, from FIRST on, the same ids for the same image. For
all else of gfo an image is words that rows may share.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
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
from gfo.core.images import FIRST, PLACE, Picture, opened
from gfo.core.protocols import Tokens
from gfo.core.texts import Pieces, Where
from gfo.models.decoder import Decoder
from gfo.models.entering import counts, dimensions_of_moves, entering, has_tensors, shows_all
from gfo.models.families import WHOLE_IMAGES
from gfo.models.features import FeatureStore
from gfo.models.image_tokens import ImageTokens, moves_of
from gfo.models.prefix_lm import PrefixLM
from gfo.models.structure import LinearInfo, outputs_of
from gfo.models.weights import linear_sizes

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel

PLAIN = frozenset({"inputs_embeds", "input_ids", "attention_mask", "position_ids"})  # of the text model
DEEP = frozenset({"visual_pos_masks", "deepstack_visual_embeds"})  # what names features for deeper layers
KINDS = ("token_type_ids", "mm_token_type_ids")  # which tokens are an image's


@dataclass(frozen=True)
class Block:
    """What stands for an image in a row.

    Attributes:
        value: what the row holds; see `gfo.core.images.opened`. It is opened again where rows are compared
            with plain forward passes.
        front, back: the text that the processor writes around the image, which may join with the row's.
        tokens: those that it writes around the image between them, and the ids of its features.
        first, size: of its features.
    """

    value: Any
    front: str
    back: str
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
        tokens: how the text model takes them.
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
        self._around = _signs_around(config, processor.tokenizer)
        self.features, self.runs = FeatureStore(), 0
        self.tokens = ImageTokens(self.features, model.hidden_size, config.model_type in WHOLE_IMAGES)
        self._blocks: dict[int, Block] = {}  # by their first features' ids
        self._known: dict[Any, Block] = {}

    def encode(self, rows: Sequence[Pieces], where: Where, **options: Any) -> list[Tokens]:
        """Token ids of rows with images; see `gfo.models.text.TextTokens.encode` for the options."""
        behind = options.pop("behind", None)
        texts, fronts = self._signed(rows, where), None if behind is None else self._signed(behind, where)
        found = self._model.text_tokens.encode(texts, behind=fronts, where=where, **options)
        return [self._put(ids, rows[i], where(i)) for i, ids in enumerate(found)]

    @functools.cached_property
    def linears(self) -> dict[str, LinearInfo]:
        """Name -> sizes of the linear modules of the tower and the projector, in front of layer 0."""
        model, head = self._model, self._model.module.get_output_embeddings()
        parts = {n: p for n, p in model.module.named_modules() if p is not head and n not in model.linears}
        sizes = {name: linear_sizes(part) for name, part in parts.items()}
        return {name: LinearInfo(*found, 0) for name, found in sizes.items() if found is not None}

    def outputs(self, names: Sequence[str]) -> dict[str, Tensor]:
        """What modules of the tower and the projector put out for an image of noise, each [..., out]."""
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        _, ids, _, inputs = self._alone(opened(noise, "an image of noise"), "an image of noise")
        row = torch.tensor([ids], device=self._model.device)
        with torch.no_grad(), self._model.lock:
            module = self._model.module
            return outputs_of(module, names, lambda: entering(module, input_ids=row, **inputs))

    def block(self, first: int) -> Block | None:
        """The image whose first feature has this id, or None."""
        return self._blocks.get(first)

    def alone(self, block: Block) -> tuple[list[int], dict[str, Tensor]]:
        """A row with an image alone, as transformers takes it: token ids, and the image's inputs."""
        _, ids, _, inputs = self._alone(opened(block.value, "a row"), "a row")
        return ids, inputs

    def places(self, ids: Tensor) -> Tensor:
        """In which places of token ids, as transformers takes them, features stand."""
        return ids == self._placeholder

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
        found = self.features.take(ids[own] - FIRST)[:, : embedded.shape[-1]].to(embedded)
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
        return ids, self._with_kinds(ids, self._processed(found, "a row")[1]) if found else {}

    def _with_kinds(self, ids: list[int], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inputs of a row's images, in which all of its tokens are told apart, as far as images' are."""
        places = torch.tensor([ids], device=self._model.device) == self._placeholder
        told = {name: places * inputs[name].max() for name in KINDS if name in inputs}
        return {**inputs, **told}

    def _signed(self, rows: Sequence[Pieces], where: Where) -> list[Pieces]:
        """Rows as texts, with the model's sign in the images' places and what belongs around it."""
        return [[self._sign_of(row, i, where(n)) for i in range(len(row))] for n, row in enumerate(rows)]

    def _sign_of(self, row: Pieces, i: int, where: str) -> str:
        """A row's piece i as text."""
        piece, (start, end) = row[i], self._around
        if not isinstance(piece, Picture):
            return piece
        if start and i and row[i - 1].endswith(start):
            start = end = ""  # a chat template writes them itself
        block = self._block(piece.value, where)
        return start + block.front + self.sign + block.back + end

    def _put(self, ids: Tokens, row: Pieces, where: str) -> Tokens:
        """A row's tokens with its images in the signs' places."""
        pictures = _pictures(row)
        if ids.count(self._sign) != len(pictures):
            raise GfoError(
                f"{where}: it has {ids.count(self._sign)} times '{self.sign}', the model's place for an "
                f"image, and {len(pictures)} images; write {{image}} where one goes, and leave the sign out"
            )
        if not pictures:
            return ids
        blocks = iter([self._block(picture.value, where).tokens for picture in pictures])
        return tuple(itertools.chain(*(next(blocks) if token == self._sign else (token,) for token in ids)))

    def _block(self, value: Any, where: str) -> Block:
        """The tokens of an image, which is processed if it is new."""
        key = _key(value)
        if key is not None and key in self._known:
            return self._known[key]
        image = opened(value, where)
        content = hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()
        if content not in self._known:
            self._known[content] = self._added(value, image, where)
        if key is not None:
            self._known[key] = self._known[content]
        return self._known[content]

    def _added(self, value: Any, image: Any, where: str) -> Block:
        """A new image, its features computed."""
        front, ids, back, inputs = self._alone(image, where)
        size = ids.count(self._placeholder)
        features, moves = self._features(ids, inputs, where)
        first = FIRST + self.features.add(features)
        if moves is not None:
            self.tokens.add(moves)
        numbers = iter(range(first, first + size))
        tokens = tuple(next(numbers) if token == self._placeholder else token for token in ids)
        self._blocks[first] = Block(value, front, back, tokens, first, size)
        return self._blocks[first]

    def _alone(self, image: Any, where: str) -> tuple[str, list[int], str, dict[str, Tensor]]:
        """What the processor makes of one image: as `_parted`, and the model's inputs."""
        written, inputs = self._processed([image], where)
        start = self._model.tokenizer.bos_token_id
        if start in written:  # behind the images it begins the row's text, which is the template's
            written = written[: written.index(start)]
        front, ids, back = self._parted(written, where)
        return front, ids, back, self._with_kinds(ids, inputs)

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
        found = {name: value for name, value in found.items() if name not in {*PLAIN, "labels"}}
        return ids, {name: self._there(value) for name, value in found.items() if isinstance(value, Tensor)}

    def _there(self, value: Tensor) -> Tensor:
        """A tensor on the model's device, floats in its dtype."""
        return value.to(self._model.device, self._model.dtype if value.is_floating_point() else None)

    def _parted(self, ids: list[int], where: str) -> tuple[str, list[int], str]:
        """What the processor writes for an image: text, tokens from the first special one to the last, text.

        Raises:
            GfoError: for text that is not its own alone, so that nobody knows what joins with the row's.
        """
        special = {*self._model.special_tokens, self._placeholder}
        places = [i for i, token in enumerate(ids) if token in special]
        if not places:
            raise self._refused(where, "its processor writes no sign of an image")
        first, last = places[0], places[-1] + 1
        edges = ids[:first], ids[last:]
        front, back = map(self._text_of, edges)
        (joint,) = self._model.text_tokens.encode([(front, self.sign, back)])
        if list(joint) != [*edges[0], self._sign, *edges[1]]:
            raise self._refused(
                where, "its processor writes text around an image, which joins with the row's"
            )
        return front, ids[first:last], back

    def _text_of(self, ids: list[int]) -> str:
        """Token ids as text; "" of none."""
        return str(self._model.tokenizer.decode(ids)) if ids else ""

    @torch.no_grad()
    def _features(
        self, ids: list[int], inputs: dict[str, Tensor], where: str
    ) -> tuple[Tensor, Tensor | None]:
        """What of an image enters the text model, [size, D], and layers behind it, [size, deep * D], and the
        moves of its tokens if they have positions of their own."""
        row = torch.tensor([ids], device=self._model.device)
        with self._model.lock:
            self.runs += 1
            try:
                given = entering(self._model.module, input_ids=row, **inputs)
            except Exception as error:  # of any kind: of a processor that is another model's, say
                raise self._refused(
                    where, f"its forward pass does not take the image: {_line(error)}"
                ) from error
        self._check_given(given, where)
        image, deep = row[0] == self._placeholder, given.get("deepstack_visual_embeds") or ()
        embeds: Tensor = given["inputs_embeds"]
        self.tokens.deep = len(deep)
        return torch.cat([embeds[0, image], *deep], dim=-1), self._moves(given.get("position_ids"), image)

    def _moves(self, position: Tensor | None, image: Tensor) -> Tensor | None:
        """The moves of an image's tokens by positions [..., 1, T] in a row with it alone, or None."""
        if position is None or counts(position):
            return None
        return moves_of(position[-3:, 0], image)

    def _check_given(self, given: Mapping[str, Any], where: str) -> None:
        """Raise GfoError where the text model is called with what is not known here."""
        whole, tensors = self.tokens.whole, {name for name, value in given.items() if has_tensors(value)}
        unknown = [name for name in given if name in tensors - PLAIN - DEEP]
        if unknown:
            raise self._refused(where, f"its text model takes {unknown[0]}, too")
        if not (whole or isinstance(self._model, PrefixLM) or shows_all(given.get("attention_mask"))):
            raise self._refused(where, "its images are seen in other ways than text is")
        dimensions = dimensions_of_moves(given.get("position_ids"))
        if dimensions not in (0, 3):
            raise self._refused(where, "its images have positions of their own")
        if (dimensions or tensors & DEEP or whole) and not isinstance(self._model, Decoder):
            raise self._refused(where, "its images are no words to it, and its rows run whole")

    def _refused(self, where: str, why: str) -> GfoError:
        kind = self._model.module.config.model_type
        return GfoError(
            f"{where}: it has an image, but model '{self._model.name}' ({kind}) gets none ({why}); take "
            "rows of text, or another model"
        )


def _parts(content: str) -> list[dict[str, str]]:
    """A message's content as chat templates of images take it."""
    pieces = [piece for piece in re.split(f"({PLACE})", content) if piece]
    return [{"type": "image"} if piece == PLACE else {"type": "text", "text": piece} for piece in pieces]


def _pictures(row: Pieces) -> list[Picture]:
    """The images of a row."""
    return [piece for piece in row if isinstance(piece, Picture)]


def _line(error: Exception) -> str:
    """The first line of an error, or its class."""
    return (next(iter(str(error).strip().splitlines()), "") or type(error).__name__)[:100]


def _signs_around(config: Any, tokenizer: Any) -> tuple[str, str]:
    """What a model wants around an image, which its processor leaves to chat templates; or ""."""
    ids = [getattr(config, f"vision_{side}_token_id", None) for side in ("start", "end")]
    if not set(ids) <= set(tokenizer.all_special_ids):
        return "", ""
    start, end = tokenizer.convert_ids_to_tokens(ids)
    return str(start), str(end)


def _key(value: Any) -> Any:
    """What is equal for the same value, without opening it; None for an object, whose pixels may change."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str | Path):
        return _key_of_file(os.path.abspath(os.path.expanduser(value)))
    return bytes(value) if isinstance(value, bytes | bytearray) else None


def _key_of_file(path: str) -> tuple[str, tuple[int, int] | None]:
    """A path, and by what a file that changes there is another one; None where there is no file."""
    found = os.stat(path) if os.path.exists(path) else None
    return path, found and (found.st_mtime_ns, found.st_size)
