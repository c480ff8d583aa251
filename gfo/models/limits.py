"""What a model's files may ask for, looked at before anything is made of them: they may be a stranger's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gfo.core.errors import GfoError, shown
from gfo.core.reading import parse_json, read_text

PARTS = re.compile(r"(layers?|experts|blocks|depths?|stages)$")  # names in configs of counts of modules
MOST_PARTS = 4096
PER_BYTE = 8  # numbers that a byte of a file may stand for: of one bit
FREE = 2**28  # numbers that a model may have beside its files': what is computed, such as masks


def check_counts(name: str, config: dict[str, Any]) -> None:
    """Raise GfoError for a config of more modules than can be made."""
    for key, value in _whole_numbers(config):
        if value > MOST_PARTS and PARTS.search(key):
            raise GfoError(
                f"model '{name}': its config has {key} = {shown(value)}, and gfo takes {MOST_PARTS} at most; "
                "mend it"
            )


def _whole_numbers(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """(key, number) however deep."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _whole_numbers(inner, str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _whole_numbers(inner, name)
    elif isinstance(value, int):
        yield name, value


def check_shards(name: str, folder: Path) -> None:
    """Raise GfoError for a folder with an index whose files of weights are not in the folder."""
    remedy = "save the model whole"
    for path in sorted(folder.glob("*.index.json")):
        index = parse_json(read_text(path, f"model '{name}'", remedy=remedy), str(path), remedy)
        shards = index.get("weight_map") if isinstance(index, dict) else None
        for shard in shards.values() if isinstance(shards, dict) else [shards]:
            if not isinstance(shard, str) or Path(shard).name != shard or not (folder / shard).is_file():
                raise GfoError(
                    f"model '{name}': {path.name} names {shown(shard)}, no file in the folder; {remedy}"
                )


def check_size(name: str, folder: Path, module: Any) -> None:
    """Raise GfoError for a model of far more numbers than the files in its folder can hold.

    Args:
        name: of the model.
        folder: with its files.
        module: made of its config, without memory (on the device "meta").
    """
    numbers = sum(tensor.numel() for tensor in (*module.parameters(), *module.buffers()))
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    if numbers > PER_BYTE * size + FREE:
        raise GfoError(
            f"model '{name}': its config makes a model of {numbers:,} numbers, and its files have {size:,} "
            "bytes; the config is of another model"
        )
