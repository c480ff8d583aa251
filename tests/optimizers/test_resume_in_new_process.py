"""A state written to disk goes on bit by bit in another process."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

from gfo.optimizers import make
from gfo.testing import Rosenbrock

GO_ON = """
import pickle, sys
import numpy as np
from gfo.optimizers import make
from gfo.testing import Rosenbrock
with open(sys.argv[2], "rb") as file:
    state = pickle.load(file)
f = Rosenbrock(6, seed=1)
optimizer = make(sys.argv[1], domain=f.domain, seed=99)
optimizer.load_state_dict(state)
trace = []
for _ in range(10):
    z = optimizer.ask()
    trace.append(z)
    optimizer.tell(z, f(z))
np.savez(sys.argv[3], recommended=optimizer.recommend(), points=np.concatenate(trace))
"""


@pytest.mark.parametrize("name", ["cma", "ga"])
def test_resumed_is_uninterrupted(name, tmp_path):
    f = Rosenbrock(6, seed=1)
    optimizer = make(name, domain=f.domain, seed=1)
    trace = []
    for step in range(17):
        if step == 7:
            (tmp_path / "state").write_bytes(pickle.dumps(optimizer.state_dict()))
        z = optimizer.ask()
        trace.append(z)
        optimizer.tell(z, f(z))
    arguments = [name, str(tmp_path / "state"), str(tmp_path / "trace.npz")]
    subprocess.run([sys.executable, "-c", GO_ON, *arguments], check=True)
    with np.load(tmp_path / "trace.npz") as resumed:
        np.testing.assert_array_equal(resumed["points"], np.concatenate(trace[7:]))
        np.testing.assert_array_equal(resumed["recommended"], optimizer.recommend())
