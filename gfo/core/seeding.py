"""One root seed, many independent named streams.

A component asks for its stream by name, so adding a component never shifts the numbers that
another one draws (numpy's SeedSequence; Salmon et al. 2011, doi:10.1145/2063384.2063405).
"""

from __future__ import annotations

import zlib

import numpy as np

from gfo.core.errors import GfoError


def stream_seed(root: int, name: str) -> int:
    """A 32-bit seed for the stream `name` under the root seed.

    Raises:
        GfoError: if the root seed is negative.
    """
    if root < 0:
        raise GfoError(f"seed = {root} must be 0 or more")
    sequence = np.random.SeedSequence([root, zlib.crc32(name.encode())])
    return int(sequence.generate_state(1)[0])


def stream(root: int, name: str) -> np.random.Generator:
    """numpy's default generator for the stream `name` under the root seed."""
    return np.random.default_rng(stream_seed(root, name))
