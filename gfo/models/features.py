"""Features of images: kept in memory up to a limit, and behind it in files."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MOST_BYTES = 2**30  # of features that are kept in memory
NAME = "features"


class FeatureStore:
    """Rows of features, numbered from 0 in the order in which they come.

    Args:
        most_bytes: that are kept in memory; what comes behind them is written to files, which vanish with
            the store.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes, self.size, self.bytes = most_bytes, 0, 0
        self._starts: list[int] = []
        self._kept: list[Tensor | Path] = []
        self._folder: Path | None = None

    def add(self, features: Tensor) -> int:
        """Keep features [n, D]; the number of the first."""
        first, held = self.size, features.detach().contiguous()
        self._starts.append(first)
        self.size += len(held)
        if self.bytes + held.nbytes <= self.most_bytes:
            self.bytes += held.nbytes
            self._kept.append(held.clone())
        else:
            self._kept.append(self._written(held))
        return first

    def take(self, numbers: Tensor) -> Tensor:
        """The features with these numbers, int [m] -> [m, D] on their device."""
        at = numbers.cpu()
        which = torch.bucketize(at, torch.tensor(self._starts), right=True) - 1
        found: Any = None
        for i in sorted(set(which.tolist())):
            here = torch.nonzero(which == i)[:, 0]
            features = self._read(i, numbers.device)[(at[here] - self._starts[i]).to(numbers.device)]
            found = features.new_empty(len(at), features.shape[1]) if found is None else found
            found[here.to(numbers.device)] = features
        return found  # type: ignore[no-any-return]

    @property
    def on_disk(self) -> int:
        """How many images' features are in files."""
        return sum(isinstance(kept, Path) for kept in self._kept)

    def _written(self, features: Tensor) -> Path:
        from safetensors.torch import save_file

        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="gfo-images-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        path = self._folder / f"{len(self._kept)}.safetensors"
        save_file({NAME: features.cpu()}, path)
        return path

    def _read(self, i: int, device: torch.device) -> Tensor:
        from safetensors.torch import load_file

        kept = self._kept[i]
        return (load_file(kept)[NAME] if isinstance(kept, Path) else kept).to(device)
