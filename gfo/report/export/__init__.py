"""Results that leave gfo: PEFT adapters, whole model folders, prompts as text.

What is written is the one candidate's Delta, so any space can be exported whose changes have a place there.
How a slot is written is a function in `gfo.report.export.peft` and one in `gfo.report.export.merged`; where
there is none, the error says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError, check_name
from gfo.core.files import absolute, whole_folder, write_whole
from gfo.core.text_domain import TextSpace
from gfo.report.export.candidate import Candidate, local
from gfo.report.export.candidate import Exported as Exported
from gfo.report.export.gguf import write_gguf
from gfo.report.export.merged import write_merged
from gfo.report.export.peft import write_adapter
from gfo.report.words import words_near

PROMPT_TEXT = "prompt.txt"
WRITERS: dict[str, Callable[[Candidate, Path], Exported]] = {
    "peft": write_adapter,
    "merged": write_merged,
    "gguf": write_gguf,
}
FORMATS = (*WRITERS, "prompt-text")


def export(evaluator: Any, z: Array, form: str, folder: str | Path) -> Exported:
    """Write what z stands for into a new or empty folder, for programs other than gfo.

    It is written beside its place and renamed, so that the folder is there whole or not at all.

    Args:
        evaluator: the `LocalEvaluator` of the run: model, task and space.
        z: the point [d].
        form: "peft", an adapter for `PeftModel.from_pretrained`; "merged", a folder of the whole model
            for `from_pretrained` of transformers; "gguf", a file for llama.cpp with a type for each tensor;
            "prompt-text", the prompt's words in prompt.txt.
        folder: where to write.

    Raises:
        GfoError: for a change that the format has no place for (says what can be exported and how), an
            unknown format, or a folder that is not empty or cannot be written.
    """
    check_name("format", form, FORMATS)
    z = np.asarray(z, dtype=np.float64)
    if not np.isfinite(z).all():
        raise GfoError("export: the point has numbers that are not finite; nothing is written")
    given, folder = Path(folder), absolute(folder)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise GfoError(f"out = {given}: it is not empty; name another folder, or delete it")
        with whole_folder(folder) as begun:
            if form in WRITERS:
                written = WRITERS[form](Candidate.of(evaluator, z), begun)
                load = (line.replace(repr(str(begun)), repr(str(given))) for line in written.load)
                return replace(written, folder=given, load=tuple(load))
            write_whole(begun / PROMPT_TEXT, prompt_text(evaluator, z) + "\n")
            return Exported(given, ())
    except OSError as error:
        raise GfoError(f"out = {given}: cannot write there ({error.strerror}); name another folder") from None


def prompt_text(evaluator: Any, z: Array) -> str:
    """The prompt that z [d] stands for: a discrete prompt's text, or a soft prompt's nearest words.

    Raises:
        GfoError: if the space has no prompt.
    """
    space = getattr(evaluator, "space", None)
    if isinstance(space, TextSpace):
        return space.text(z)
    evaluator = local(evaluator)
    for space, part in _parts(evaluator.space, z):
        if hasattr(space, "text"):
            return str(space.text(part))
    prompt = Candidate.of(evaluator, z).delta.prompt
    if prompt is None:
        raise GfoError("export: the space has no prompt, and so no text; export peft or merged")
    return str(words_near(evaluator.model, prompt[0], 1))


def _parts(space: Any, z: Array) -> list[tuple[Any, Array]]:
    """The spaces of a product with their parts of z, or the space itself."""
    spaces = getattr(space, "spaces", None)
    if spaces is None:
        return [(space, z)]
    cuts = np.cumsum([part.domain.d for part in spaces])[:-1]
    return list(zip(spaces, np.split(z, cuts), strict=True))
