"""Named streams of one root seed."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfo.core.errors import GfoError, unknown_name
from gfo.core.seeding import stream, stream_seed


@given(st.integers(0, 2**63), st.text())
def test_same_name_same_numbers(root, name):
    assert stream(root, name).integers(2**62) == stream(root, name).integers(2**62)
    assert 0 <= stream_seed(root, name) < 2**32


@given(st.integers(0, 2**31), st.sets(st.text(max_size=8), min_size=2, max_size=6))
def test_other_name_or_root_other_numbers(root, names):
    first = [stream(root, name).integers(2**62) for name in sorted(names)]
    assert len(set(first)) == len(names)
    name = min(names)
    assert stream(root + 1, name).integers(2**62) != stream(root, name).integers(2**62)


def test_streams_are_the_same_in_every_process():
    """Not by `hash`, which differs from process to process."""
    code = "from gfo.core.seeding import stream_seed; print(stream_seed(7, 'batch 3'))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert printed == {f"{stream_seed(7, 'batch 3')}\n"}


def test_streams_are_independent():
    draws = np.stack([stream(0, f"s{i}").standard_normal(2000) for i in range(8)])
    correlation = np.corrcoef(draws) - np.eye(8)
    assert np.abs(correlation).max() < 0.1  # 4.5 standard deviations
    assert np.abs(draws.mean()) < 0.05


@pytest.mark.parametrize("root", [-1, -(2**40)])
def test_negative_root(root):
    with pytest.raises(GfoError, match=rf"^seed = {root} must be 0 or more$"):
        stream(root, "a")


def test_unknown_name_suggests_the_nearest():
    assert str(unknown_name("fruit", "aple", ["pear", "apple"])) == (
        "unknown fruit 'aple': did you mean 'apple'? known are apple, pear"
    )
    assert (
        str(unknown_name("fruit", "xyz", ["pear", "apple"])) == "unknown fruit 'xyz': known are apple, pear"
    )
