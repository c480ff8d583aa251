"""Images in rows: which fields hold them, what may stand there, and what of it can be read."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gfo.core.errors import GfoError
from gfo.core.reading import read_bytes
from gfo.core.texts import Pieces, Where

PLACE = "\ue0fd"  # a private character, which stands for an image in a text
FIRST = 2**32  # token ids from here on are features of images
FIELD = re.compile(r"images?(_\w+|\d+)?")
MOST_BYTES = 2**28  # of an image's file
MOST_PIXELS = 2**26  # of an image: 67 million, 200 MB as numbers
WANTED = "give a path, the bytes of a file, an image of PIL, an array [H, W, 3] of bytes, or a list of such"


class Picture(str):
    """An image among the pieces of a row's text, in which it reads as PLACE.

    Attributes:
        value: what the row holds; see `opened`.
    """

    value: Any
    __slots__ = ("value",)

    def __new__(cls, value: Any) -> Picture:
        made = super().__new__(cls, PLACE)
        made.value = value
        return made


def is_image_field(name: str) -> bool:
    """Whether a field of this name holds images: `image`, `images`, `image2`, `image_front`, ..."""
    return FIELD.fullmatch(name) is not None


def images_of(value: Any) -> list[Any]:
    """What stands for each of a field's images: none or several in a list, else one."""
    return list(value) if isinstance(value, list | tuple) else [value]


def check_images(value: Any, where: str) -> None:
    """Raise GfoError for a field's value that is neither an image nor a list of them."""
    for each in images_of(value):
        if not _may_be_one(each):
            raise GfoError(f"{where} is {_kind(each)}, no image; {WANTED}, [] for none")


def check_no_pictures(rows: Sequence[Pieces], where: Where, why: str) -> None:
    """Raise GfoError for rows with images, which are not read for a reason."""
    for i, row in enumerate(rows):
        if any(isinstance(piece, Picture) for piece in row):
            raise GfoError(f"{where(i)}: it has an image, but {why}")


def in_folder(value: Any, folder: Path) -> Any:
    """A field's value, in which relative paths are those of a folder."""
    if isinstance(value, list | tuple):
        return [in_folder(each, folder) for each in value]
    if isinstance(value, Mapping) and not value.get("bytes") and value.get("path"):
        return {**value, "path": in_folder(value["path"], folder)}
    return str(folder / Path(value).expanduser()) if isinstance(value, str) and value else value


def opened(value: Any, where: str) -> Any:
    """An image of PIL, RGB and the right way up.

    Args:
        value: a path, the bytes of a file, an image of PIL, an array [H, W], [H, W, 3] or [H, W, 4] of
            bytes, or a mapping with "bytes" or "path", as `datasets` has it.
        where: the row, for messages.

    Raises:
        GfoError: for what cannot be read, or has more than MOST_PIXELS.
    """
    from PIL import Image, ImageOps

    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str | Path):
        value = read_bytes(Path(value).expanduser(), f"{where}: image", most=MOST_BYTES)
    if isinstance(value, np.ndarray):
        _check_array(value, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # its size is looked at here
            image = _of_pil(value, Image)
            _check_size(image, where)
            return ImageOps.exif_transpose(image).convert("RGB")
    except GfoError:
        raise
    except Exception as error:  # of many kinds: each format's reader has its own
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise GfoError(
            f"{where}: its image cannot be read ({reason[:100]}); mend it, or drop the row"
        ) from None


def _of_pil(value: Any, library: Any) -> Any:
    """An image of PIL, of which no more than the size need be read."""
    if isinstance(value, np.ndarray):
        return library.fromarray(value)
    return library.open(io.BytesIO(value)) if isinstance(value, bytes | bytearray) else value


def _may_be_one(value: Any) -> bool:
    """Whether it is of a kind that may be an image."""
    if isinstance(value, Mapping):
        return bool(value.get("bytes") or value.get("path"))
    if isinstance(value, str | bytes | bytearray):
        return len(value) > 0
    return isinstance(value, Path | np.ndarray) or (hasattr(value, "convert") and hasattr(value, "getbands"))


def _check_array(value: Any, where: str) -> None:
    """Raise GfoError for an array that is no image."""
    fits = value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (3, 4))
    if value.dtype != np.uint8 or not fits or not value.size:
        raise GfoError(
            f"{where}: its image is an array of {value.dtype} {list(value.shape)}; give uint8 numbers "
            "[H, W, 3], 0 to 255"
        )


def _check_size(image: Any, where: str) -> None:
    """Raise GfoError for an image of too many pixels."""
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise GfoError(
            f"{where}: its image has {width} x {height} pixels, more than {MOST_PIXELS:,}; make it smaller"
        )


def _kind(value: Any) -> str:
    """What a value is, in short."""
    if isinstance(value, str | bytes | bytearray) and not len(value):
        return "empty"
    return "missing" if value is None or value != value else f"a {type(value).__name__}"
