"""The global random generators of numpy, Python and (where it is loaded) torch."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator

import numpy as np


def states() -> dict[str, str]:
    """The states of the global generators, by library."""
    _, words, *rest = np.random.get_state()  # noqa: NPY002
    found = {"numpy": repr((np.asarray(words).tolist(), rest)), "Python": repr(random.getstate())}
    if "torch" in sys.modules:
        found["torch"] = repr(sys.modules["torch"].get_rng_state().tolist())
    return found


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators, and put them back afterwards."""
    before, before_python = np.random.get_state(), random.getstate()  # noqa: NPY002
    torch = sys.modules.get("torch")
    before_torch = torch.get_rng_state() if torch else None
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    if torch:
        torch.manual_seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
        random.setstate(before_python)
        if torch:
            torch.set_rng_state(before_torch)
