"""The share of plain of a step on rows with an image in front of the prompt.

    python -m benchmarks.speed.images --threads 1 --json images.json

See README.md of the benchmarks.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, cast

from benchmarks import shared
from benchmarks.shared import FEWEST_ROUNDS, check_at_least_one, check_output, check_rounds, say
from benchmarks.speed.data import DATA_SETS
from benchmarks.speed.measure import make_evaluator, measure
from benchmarks.speed.models import SHAPES, word_tokenizer
from benchmarks.speed.rivals import Plain, Rival
from benchmarks.speed.workloads import WORKLOADS, Setting
from gfo.core.seeding import stream

if TYPE_CHECKING:
    from gfo.core.domain import Array
    from gfo.models.decoder import Decoder

# SmolVLM-256M (Marafioti et al. 2025, arXiv:2504.05299); its text model has SmolLM2-135M's shape
SIDE, TOKENS, SCALE = 512, 64, 4  # pixels of a tile, its tokens, and the factor of pixel shuffling
TOWER = {
    "model_type": "idefics3_vision",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 2,  # of 12: no step runs them
    "num_attention_heads": 12,
    "image_size": SIDE,
    "patch_size": 16,
}
SIGNS = ["<image>", "<fake_token_around_image>", "<global-img>"]
TEMPLATE = "{image}\n{soft}Sentiment:"
SQUARES = (1, 4)  # tiles of an image; behind several stands the whole image once more


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    return shared.command(arguments, _options, _run)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    """The checked options."""
    parser = shared.Parser(__doc__)
    add = parser.add_argument
    add("--candidates", type=int, default=10, help="K, the population (default %(default)s)")
    add("--rows", type=int, default=4, help="B, an image each (default %(default)s)")
    add("--repeats", type=int, default=FEWEST_ROUNDS, help="rounds (default %(default)s)")
    add("--layers", type=int, help="of the text model, instead of 30")
    add("--threads", type=int, help="of torch; default: its own choice")
    add("--json", type=Path, help="write the results to this file")
    options = parser.parse_args(arguments)
    check_at_least_one(options, ["candidates", "rows", "repeats", "layers", "threads"])
    check_rounds(options)
    check_output("--json", options.json)
    return options


def _run(options: argparse.Namespace) -> None:
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    found = []
    for tiles in SQUARES:
        say(f"drawing weights of SmolVLM-256M's shape, and {options.rows} images of {tiles} tiles")
        it = image_setting(tiles, options)
        found.append(_measured(it, tiles, options.repeats))
    shared.show(
        "CPU seconds, medians, and gfo's shares",
        ["tiles", "tokens a row", "K x B", "gfo", "plain", "cached", "of plain", "of cached"],
        [_cells(entry) for entry in found],
    )
    shared.write_json(options.json, {"workloads": found, **shared.source()})


class Cached:
    """Stock forward passes of each row's tokens behind its image, K copies over transformers' own cache.

    What `plain` leaves out is there: every token sees the image.
    """

    def __init__(self, it: Setting) -> None:
        import torch

        self._it, self._K = it, len(it.z)
        self._body: Any = it.model.stacks[0].body
        self._caches, self._ids = [], []
        with torch.no_grad():
            for before, after in zip(it.batch.before, it.batch.after, strict=True):
                embeds = it.model.embed(torch.tensor([before]))
                cache = self._body(inputs_embeds=embeds, use_cache=True).past_key_values
                cache.batch_repeat_interleave(self._K)
                self._caches.append(cache)
                self._ids.append(torch.tensor([[*before[: it.workload.prompt_tokens], *after]]))

    def run(self) -> None:
        """All rows, each with a pass, and the label words' logits."""
        import torch

        model = self._it.model
        with torch.no_grad():
            for cache, ids in zip(self._caches, self._ids, strict=True):
                embeds = model.embed(ids).expand(self._K, -1, -1)
                out = self._body(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
                model.logits(out.last_hidden_state[:, -1], self._it.batch.vocabulary)
                cache.crop(-ids.shape[1])


def _measured(it: Setting, tiles: int, repeats: int) -> dict[str, Any]:
    """Seconds of gfo's step, of plain passes and of those over a cache, with the step's own tokens."""
    evaluator = make_evaluator(it)

    def step() -> Array:
        return evaluator(it.z, 0).loss

    rivals: dict[str, Rival] = {"gfo": step, "plain": Plain(it).run, "cached": Cached(it).run}
    found = measure(it, repeats, rivals=rivals, say=say)
    seconds = {name: median(rounds) for name, rounds in found["cpu_seconds"].items()}
    cost = evaluator(it.z, 0).cost
    own: dict[str, float] = {"forward_tokens": cost.forward_tokens, "tokens_needed": cost.tokens_needed}
    runs = cast(Any, it.model).images.runs
    del found["share_of_matrix_rate"]  # which counts what is computed once
    own["share_of_cached"] = seconds["cached"] / seconds["gfo"]
    return {**found, **own, "template": TEMPLATE, "tiles": tiles, "tower_runs": runs}


def _cells(entry: dict[str, Any]) -> list[str]:
    seconds = [f"{median(entry['cpu_seconds'][name]):.2f}" for name in ("gfo", "plain", "cached")]
    shares = [f"{entry[f'share_of_{name}']:.2f}" for name in ("plain", "cached")]
    size = f"{entry['candidates']} x {entry['rows']}"
    return [str(entry["tiles"]), str(entry["tokens_per_row"]), size, *seconds, *shares]


def image_setting(tiles: int, options: argparse.Namespace) -> Setting:
    """Rows with an image of so many tiles each in front of a soft prompt, and candidates."""
    from PIL import Image

    from gfo.tasks.classification import Classification

    model, data = image_decoder(tiles, options.layers), DATA_SETS["sst2"]
    side = SIDE * round(tiles**0.5)
    rng = stream(0, "speed images")
    rows = [
        {"image": Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype="uint8")), "label": label}
        for label in (list(data.labels) * options.rows)[: options.rows]
    ]
    words = {"negative": "News", "positive": "Topic"}  # tokens of the tokenizer
    task: Any = Classification(rows, template=TEMPLATE, labels=words)
    workload = WORKLOADS["text-first"][0]
    space = workload.space(model, workload.prompt_tokens, 0)
    z = stream(0, "speed candidates").standard_normal((options.candidates, space.domain.d))
    return Setting(workload, data, "random pixels", model, task, task.bind(model), space, z, 2048)


def image_decoder(tiles: int, layers: int | None = None) -> Decoder:
    """Random weights of SmolVLM-256M's shape, as an Idefics3, whose processor needs no package for videos."""
    import torch
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessorPil,
        Idefics3Processor,
    )

    from gfo.models.loading import freeze

    tokenizer, square = word_tokenizer(), round(tiles**0.5)
    places = [f"<row_{i}_col_{j}>" for i in range(1, square + 1) for j in range(1, square + 1)]
    tokenizer.add_special_tokens({"additional_special_tokens": SIGNS + places})
    text = SHAPES["135m"] | ({} if layers is None else {"num_hidden_layers": layers})
    config = Idefics3Config(
        text_config={"model_type": "llama", **text},
        vision_config=TOWER,
        image_token_id=tokenizer.convert_tokens_to_ids(SIGNS[0]),
        scale_factor=SCALE,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessorPil(
            size={"longest_edge": SIDE * square},
            max_image_size={"longest_edge": SIDE},
            do_image_splitting=tiles > 1,
        ),
        tokenizer=tokenizer,
        image_seq_len=TOKENS,
    )
    module = Idefics3ForConditionalGeneration(config)
    return cast("Decoder", freeze(module, processor, "random-smolvlm-256m"))


if __name__ == "__main__":
    shared.start(main)
