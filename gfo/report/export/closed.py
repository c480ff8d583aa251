"""Closed sub-blocks in a folder of the model: layers left out where both are closed, else zeros.

Whether a family's config can say that a layer is missing is tried: the folder is loaded by transformers and
compared with gfo's own logits before it counts as written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gfo.core.delta import Delta
from gfo.core.files import write_whole
from gfo.core.sub_blocks import SUB_BLOCKS, SubBlock
from gfo.models.apply import Change, applied
from gfo.models.precision import is_fine
from gfo.models.structure import names_of
from gfo.report.export.candidate import cannot
from gfo.report.export.cut import Smaller

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel

STRUCTURE = "gfo_structure.json"
SAME = 1e-4  # of logits in float32, as a share of their spread where that is above 1; else 200 times as much


def closed_in(delta: Delta) -> list[SubBlock]:
    """The sub-blocks that a single candidate closes, from the lowest layer on."""
    return sorted(place for place, runs in delta.gate.items() if not float(runs[0]) > 0)


def whole_layers(closed: Sequence[SubBlock], layers: int) -> list[int]:
    """The layers of which both sub-blocks are closed, one left in place if all are."""
    found = [n for n in range(layers) if all(SubBlock(n, kind) in closed for kind in SUB_BLOCKS)]
    return found[1:] if len(found) == layers else found


def put_zeros(twin: Any, model: FrozenModel, closed: Sequence[SubBlock]) -> None:
    """Write zeros into the last matrix, and its bias, of each closed sub-block of a copy of the model.

    Raises:
        GfoError: for a sub-block whose output no linear module gives, as that of routed experts.
    """
    names = model.last_matrices
    for place in closed:
        if place not in names:
            raise cannot(
                f"no matrix gives the output of {place} of '{model.name}', which zeros could stand in",
                "close it in whole layers, or leave its gene out",
            )
        part = twin.get_submodule(names[place])
        for name in ("weight", "bias"):  # in places of their own: the frozen model shares the others
            if (old := getattr(part, name, None)) is not None:
                setattr(part, name, nn.Parameter(torch.zeros_like(old), requires_grad=False))


def remove_layers(twin: Any, model: FrozenModel, layers: Sequence[int]) -> None:
    """Leave layers out of a copy of the model, and out of its config."""
    names = names_of(model.module)
    path = names[id(model.all_layers[0])].rpartition(".")[0]
    holder, _, name = path.rpartition(".")
    kept = [n for n in range(model.layers) if n not in layers]
    old: Any = twin.get_submodule(path)
    setattr(twin.get_submodule(holder), name, nn.ModuleList(old[n] for n in kept))
    _keep_in_config(twin.config.get_text_config(decoder=True), model.layers, kept)


def _keep_in_config(config: Any, layers: int, kept: Sequence[int]) -> None:
    """Leave the other layers out of a config: of their number, and of lists with a value for each."""
    for key, value in list(vars(config).items()):
        if isinstance(value, list | tuple) and len(value) == layers:
            setattr(config, key, [value[n] for n in kept])
    config.num_hidden_layers = len(kept)


@torch.no_grad()
def is_same(module: Any, model: FrozenModel, delta: Delta) -> bool:
    """Whether a module gives the logits, or hidden states, that the model gives for one candidate."""
    ids = model.probe_text[None]
    place = torch.full((1, ids.shape[1]), -1, device=model.device)
    change = Change(delta.to(model.device, model.dtype), place)
    with model.lock, applied(change, model.module, model.all_layers):
        wanted = model.module(input_ids=ids, **_no_cache(model))[0]
    found = module.eval().to(model.device)(input_ids=ids, **_no_cache(model))[0][..., : wanted.shape[-1]]
    most = SAME * (1 if is_fine(model) else 200) * max(1.0, float(wanted.float().std()))
    return float((found - wanted).abs().max()) <= most


def write_structure(
    folder: Path,
    closed: Sequence[SubBlock],
    removed: Sequence[int],
    parts: Mapping[SubBlock, Tensor],
    left_out: Smaller,
) -> None:
    """Write what was closed as JSON: of cut sub-blocks the inputs of the last matrix that are kept."""
    values: dict[str, Any] = {"closed": [str(place) for place in closed], "layers_left_out": list(removed)}
    if parts:
        values["kept_inputs"] = {
            str(place): kept.nonzero().flatten().tolist() for place, kept in parts.items()
        }
        values["config"] = dict(left_out.config)
    write_whole(folder / STRUCTURE, json.dumps(values, indent=1) + "\n")


def notes_on(closed: Sequence[SubBlock], removed: Sequence[int], left_out: Smaller) -> list[str]:
    """What to mind of closed sub-blocks that are still there."""
    zeros = sum(place.layer not in removed for place in closed)
    room = "part of their room" if any(place in left_out.kept for place in closed) else "their room"
    return [f"{zeros} of {len(closed)} closed sub-blocks are zeros, which take {room}"] if zeros else []


def _no_cache(model: FrozenModel) -> dict[str, bool]:
    return {"use_cache": False} if model.causal else {}
