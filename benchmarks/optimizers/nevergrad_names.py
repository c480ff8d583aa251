"""Which names of nevergrad's registry run through gfo, and what the others say: nevergrad.json and .md.

Each name is made on four domains and asked and told for a few steps, in a process of its own that is ended
when it takes too long. A name that does not run must say so in one line.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import shared
from benchmarks.shared import say
from gfo import optimizers
from gfo.core.domain import Domain
from gfo.core.errors import GfoError
from gfo.core.files import write_whole

LIMIT_S = 30.0
STEPS, BUDGET = 6, 48
DOMAINS = {
    "R^5": Domain.unbounded(5),
    "box": Domain.box(-5.0, 5.0, 5),
    "genes": Domain.box(0, 3, 6, integer=True),
    "mixed": Domain.box([-1, -1, 0, 0], [1, np.inf, 9, 4], integer=[0, 0, 1, 1], categorical=[0, 0, 0, 1]),
}


def try_name(name: str) -> dict[str, str]:
    """Domain -> "runs" or the error's line, of one method."""
    return {where: _try(name, domain) for where, domain in DOMAINS.items()}


def _try(name: str, domain: Domain) -> str:
    try:
        optimizer = optimizers.make(f"nevergrad:{name}", domain=domain, seed=0, **_options(name))
        for _ in range(STEPS):
            z = optimizer.ask()
            optimizer.tell(z, np.sum((z - 1) ** 2, axis=1))
        optimizer.recommend()
    except GfoError as error:
        return str(error)
    except Exception as error:
        return f"TRACEBACK {type(error).__name__}: {error}"
    return "runs"


def _options(name: str) -> dict[str, int]:
    import nevergrad

    serial = nevergrad.optimizers.registry[name].no_parallelization
    return {"budget": BUDGET} if serial else {"budget": BUDGET, "population": 8}


def _child(name: str, pipe: Any) -> None:
    pipe.send(try_name(name))
    pipe.close()


def within_limit(name: str) -> dict[str, Any]:
    """What `try_name` says, or that it took too long; and its seconds."""
    context = multiprocessing.get_context("fork")  # a spawned one would import nevergrad again, 3 s a name
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(name, sender), daemon=True)
    begun = time.perf_counter()
    child.start()
    sender.close()
    try:
        answered = receiver.poll(LIMIT_S)
        found = receiver.recv() if answered else dict.fromkeys(DOMAINS, f"over {LIMIT_S:.0f} s")
    except EOFError:
        found = dict.fromkeys(DOMAINS, "its process died")
    child.kill()
    child.join()
    return {"name": name, **found, "seconds": round(time.perf_counter() - begun, 2)}


def table(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of Markdown: how many run where, and each that does not everywhere, with the reason."""
    whole = [line for line in lines if all(line[where] == "runs" for where in DOMAINS)]
    counts = {where: sum(line[where] == "runs" for line in lines) for where in DOMAINS}
    text = [f"Of {len(lines)} names in nevergrad's registry {len(whole)} run on all four domains; "]
    text[0] += ", ".join(f"{n} on {where}" for where, n in counts.items()) + "."
    text += ["", "| name | does not run on | what it says |", "|---|---|---|"]
    for line in lines:
        reasons = Counter(line[where] for where in DOMAINS if line[where] != "runs")
        for reason, _ in reasons.most_common():
            where = ", ".join(domain for domain in DOMAINS if line[domain] == reason)
            text.append(f"| {line['name']} | {where} | {reason.replace('|', '/')} |")
    return text


def write_names(out: Path) -> None:
    """Try all names that the folder does not have yet, and write the table as it grows."""
    import nevergrad

    path = out / "nevergrad.json"
    known = json.loads(path.read_text(encoding="utf-8"))["names"] if path.exists() else []
    done = {line["name"]: line for line in known}
    names = sorted(nevergrad.optimizers.registry)
    for number, name in enumerate(names, start=1):
        if name not in done:
            done[name] = within_limit(name)
            say(f"{number} of {len(names)}: {name}, {done[name]['seconds']:.1f} s")
        if number % 20 == 0 or number == len(names):
            lines = [done[name] for name in names if name in done]
            shared.write_json(path, {**shared.source("nevergrad", "numpy"), "names": lines})
            write_whole(out / "nevergrad.md", "\n".join(table(lines)) + "\n")
