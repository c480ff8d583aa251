"""A GGUF file of the whole model with a type for each tensor, which llama.cpp loads.

Nothing counts as written before transformers has loaded it again, and its logits are those of the model with
the weights that the file holds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray

from gfo.core.errors import GfoError
from gfo.core.files import write_whole
from gfo.core.slots import Banks
from gfo.models.loading import no_progress_bars
from gfo.models.rescaling import rescaled
from gfo.report.export.candidate import Candidate, Exported, cannot
from gfo.spaces.compression import Compression
from gfo.spaces.parts.levels import LEVELS

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel
    from gfo.models.gguf_form import GGUFForm, Kept

FILE, CHOSEN = "model.gguf", "gfo_levels.json"
TOLERANCE = 1e-4  # of the logits' spread
NEAR = 5e-3  # of the embeddings' spread, which F16 stays within and Q8_0 does not, if it is not lossless


def write_gguf(candidate: Candidate, folder: Path) -> Exported:
    """Write model.gguf, and gfo_levels.json with the level of each module.

    Raises:
        GfoError: for another space than Compression, a family, tokenizer or level that a GGUF file cannot
            have, or a file that does not come back as it was written.
    """
    model, space = candidate.model, candidate.space
    if not isinstance(space, Compression) or [type(s) for s in candidate.delta.slots] != [Banks]:
        raise cannot("a GGUF file holds what Compression found", "export merged, and convert that folder")
    form: GGUFForm | None = getattr(model, "gguf", None)
    if form is None:
        raise cannot(f"a GGUF file holds a decoder, and '{model.name}' is none", "export merged")
    form.check()
    kinds = _chosen(space, candidate)
    twin = rescaled(model, space.calibration.factors)
    _write(form, twin, kinds, space.embeddings, folder / FILE)
    _compare(twin, folder)
    measured = {name: float(each[0]) for name, each in space.measure(candidate.z[None]).items()}
    measured["bytes"] = (folder / FILE).stat().st_size  # of the file that there is
    values = {"levels": kinds, "embeddings": space.embeddings, **measured}
    write_whole(folder / CHOSEN, json.dumps(values, indent=1) + "\n")
    load = f"import gfo; model = gfo.load_model({str(folder)!r}, gguf_file={FILE!r})"
    return Exported(folder, (load,), tuple(_notes(candidate, twin)))


def _chosen(space: Compression, candidate: Candidate) -> dict[str, str]:
    """Module -> its level, for each of which GGUF has a type."""
    kinds = space.chosen(candidate.z)
    for name, level in kinds.items():
        if not LEVELS[level].gguf:
            raise cannot(f"GGUF has no type for the level {level} of '{name}'", "export merged")
    return kinds


@torch.no_grad()
def _write(form: GGUFForm, twin: Any, kinds: dict[str, str], embeddings: str, path: Path) -> None:
    """Write the parameters of a copy of the model, tensor by tensor; the copy keeps what is read of them."""
    tensors = list(form.kept(kinds, embeddings))
    writer = form.begun(path, (kept for _, kept in tensors))
    try:
        for name, kept in tensors:
            parameter = twin.get_parameter(name)
            data, read = _kept(parameter.float().numpy(force=True), kept)
            parameter.copy_(torch.from_numpy(read))
            writer.write_tensor_data(form.arranged(name, data))
    finally:
        writer.close()


def _kept(values: NDArray[Any], kept: Kept) -> tuple[NDArray[Any], NDArray[Any]]:
    """A tensor's data in its type, row by row, and what is read of it."""
    import gguf

    kind = gguf.GGMLQuantizationType[kept.kind]
    data = gguf.quants.quantize(values, kind)
    return data, gguf.quants.dequantize(data, kind).reshape(values.shape)


@torch.no_grad()
def _compare(twin: Any, folder: Path) -> None:
    """Load the file by transformers, and compare logits with the copy's.

    Raises:
        GfoError: where they differ.
    """
    import transformers

    with no_progress_bars():
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=FILE,
            dtype=next(twin.parameters()).dtype,
            quantization_config=transformers.GgufConfig(dequantize=True),
        )
    error = _difference(twin, loaded.to(next(twin.parameters()).device).eval())
    if not error <= TOLERANCE:
        raise GfoError(
            f"export gguf: read again, the file's logits differ by {error:.1g} of their spread, and it is "
            "not kept; export merged, and convert that folder"
        )


def _difference(one: Any, other: Any) -> float:
    """The largest difference of two models' logits for a few tokens, over their spread."""
    V = one.get_input_embeddings().weight.shape[0]
    ids = torch.arange(1, V, max(1, V // 24), device=next(one.parameters()).device)[None, :24]
    a, b = (part(input_ids=ids).logits.float() for part in (one, other))
    return float((a - b).abs().max() / a.std())


def _notes(candidate: Candidate, twin: Any) -> list[str]:
    """That the embeddings are rounded, where they were not in the search."""
    model: FrozenModel = candidate.model
    own, kept = model.module.get_input_embeddings().weight, twin.get_input_embeddings().weight
    error = float((own.float() - kept.float()).abs().max() / own.float().std())
    if error <= NEAR:
        return []
    return [f"the file has its embeddings in {candidate.space.embeddings}, which the search did not see"]
