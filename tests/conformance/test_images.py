"""Rows with images: what gfo gives is what transformers' own forward pass gives, of pixels and token ids."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest
import torch
from image_models import AROUND, FAMILIES, draw, make_model, make_parts
from test_families import DIM, Change, P, changed

import gfo
from gfo.core.images import opened
from gfo.models.decoder import Decoder
from gfo.models.prefix_lm import PrefixLM
from gfo.models.structure import hooked

K = 2
KINDS = ("token_type_ids", "mm_token_type_ids")
LABELS = {"bad": " bad", "good": " good"}
IMAGES = ([draw(1)], [draw(2, 30, 60), draw(3)], [])  # of the rows: one, two, none
SECONDS = ([draw(4)], [draw(5), draw(6, 60, 30)], [draw(1)])  # behind, where a template has them
TEXTS = ("a joy", "the service was bad and a terrible waste of time", "Is it good?")
PLACES = {
    "behind": "{image} Review: {text}{soft} It",
    "in front": "{soft}Review: {text} {image} It",
    "between": "Review: {soft}{image}{text} It",
    "nowhere": "Review: {image}{text} It",
    "around": "{image} Review:{soft} {text} {image2}",
    "at the end": "Review: {text} {image}{image2}",
}
CASES = [
    ("behind", "prompt behind"),
    ("in front", "prompt in front"),
    ("between", "prompt behind"),
    ("nowhere", "lora"),
    ("nowhere", "lora in the last layer"),
]
OWN = (
    "gemma3",
    "paligemma",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
)  # whose images are no words to the text model


def rows_with(images=IMAGES, seconds=None):
    labels = ("good", "bad", "bad")
    rows = [
        {"image": image, "text": text, "label": label}
        for image, text, label in zip(images, TEXTS, labels, strict=True)
    ]
    return (
        rows
        if seconds is None
        else [{**row, "image2": image} for row, image in zip(rows, seconds, strict=True)]
    )


def task_at(place, images=IMAGES):
    seconds = SECONDS if "{image2}" in PLACES[place] else None
    return gfo.Classification(rows_with(images, seconds), template=PLACES[place], labels=LABELS)


@functools.cache
def processed(family, place, number):
    """What transformers' processor makes of a row, without its soft prompt: in front of it, behind it."""
    _, processor = make_parts(family)
    images, text = IMAGES[number], TEXTS[number]
    start, end = AROUND.get(family, ("", ""))
    sign, whole = start + processor.image_token + end, PLACES[place].replace("{text}", text)
    seconds = SECONDS[number] if "{image2}" in whole else []
    whole = whole.replace("{image}", sign * len(images)).replace("{image2}", sign * len(seconds))
    images = [*images, *seconds]
    found = dict(processor(text=[whole.replace("{soft}", "")], images=images or None, return_tensors="pt"))
    return {name: value for name, value in found.items() if name != "attention_mask"}


def with_more(given, ids, at=None, kind=0):
    """The inputs of a row with more words, behind `at` tokens or all; to PaliGemma they are
    of the kind 0 in the prompt, 1 in the answer."""
    at = given["input_ids"].shape[1] if at is None else at
    ids = torch.as_tensor(ids, dtype=torch.long).view(1, -1)
    more = {name: torch.zeros_like(ids) for name in KINDS} | {"token_type_ids": torch.full_like(ids, kind)}
    more["input_ids"] = ids
    return {
        name: torch.cat([value[:, :at], more[name], value[:, at:]], dim=1) if name in more else value
        for name, value in given.items()
    }


@torch.no_grad()
def plain(family, place, number, at, delta):
    """Logits [V] of a row's last token by transformers' forward pass of its ids and pixels, one candidate's
    weights merged and its prompt put in behind `at` tokens."""
    module, _ = make_parts(family)
    given = processed(family, place, number)
    prompt = delta.prompt
    soft = 0 if prompt is None else P
    given = with_more(given, [5] * soft, at)

    def put(part, args, output):
        if soft and output.shape[1] == given["input_ids"].shape[1]:
            output = output.clone()
            output[0, at : at + soft] = prompt[0]
        return output

    with changed(module, delta), hooked(module.get_input_embeddings().register_forward_hook(put)):
        return module(**given).logits[0, -1].float()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("place", "kind"), CASES)
def test_losses_are_those_of_plain_passes(family, place, kind):
    """K at once, one by one, and without anything kept, of rows with 0, 1 and 2 images."""
    model, z = make_model(family), np.random.default_rng(1).standard_normal((K, DIM))
    space = Change(model, kind)
    evaluator = gfo.LocalEvaluator(model, task_at(place), space)
    assert type(evaluator.model) is (
        PrefixLM if family == "paligemma" else Decoder
    )  # what is shared is shared
    batch = evaluator.task.all_rows("train")
    deltas = [space.decode(torch.from_numpy(point[None])) for point in z]
    wanted = torch.stack(
        [
            torch.stack([plain(family, place, i, len(batch.before[i]), delta) for i in range(len(batch))])
            for delta in deltas
        ]
    )
    spread, wanted = float(wanted.std()), wanted[..., list(batch.vocabulary)]
    slow = gfo.LocalEvaluator(model, task_at(place), space, reuse=False)
    small = gfo.LocalEvaluator(model, task_at(place), space, chunk_tokens=40)
    for found in (
        evaluator.answers(z, batch),
        torch.cat([evaluator.answers(point[None], batch) for point in z]),
        slow.answers(z, batch),
        small.answers(z, batch),
    ):
        assert float((found - wanted).abs().max()) <= 1e-4 * spread
    assert float((wanted[0] - wanted[1]).abs().max()) > 3e-4 * spread  # control: candidates differ
    others = ([draw(11)], IMAGES[1], [])
    other = gfo.LocalEvaluator(model, task_at(place, others), space)
    moved = other.answers(z, other.task.all_rows("train"))
    assert float((moved[:, 0] - wanted[:, 0]).abs().max()) > 1e-3 * spread  # control: another image
    assert float((moved[:, 1:] - wanted[:, 1:]).abs().max()) <= 1e-4 * spread  # of that row alone


@pytest.mark.parametrize("family", ["llava", *OWN])
@pytest.mark.parametrize(
    ("place", "kind"),
    [("around", "prompt behind"), ("at the end", "lora in the last layer"), ("around", "deep prompt")],
)
def test_images_on_both_sides_of_what_changes(family, place, kind):
    """And rows that end in images, of which nothing is computed apart where their tokens see each other."""
    model, z = make_model(family), np.random.default_rng(2).standard_normal((K, DIM))
    space = Change(model, kind)
    found = [
        (evaluator := gfo.LocalEvaluator(model, task_at(place), space, reuse=reuse)).answers(
            z, evaluator.task.all_rows("train")
        )
        for reuse in (True, False)
    ]
    batch = evaluator.task.all_rows("train")
    assert float((found[0] - found[1]).abs().max()) <= 1e-4 * float(found[1].std())
    if kind == "deep prompt":
        return
    wanted = torch.stack(
        [
            plain(family, place, i, len(batch.before[i]), space.decode(torch.from_numpy(z[:1])))
            for i in range(3)
        ]
    )
    assert float((found[0][0] - wanted[:, list(batch.vocabulary)]).abs().max()) <= 1e-4 * float(wanted.std())


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_the_processor(family):
    model = make_model(family)
    batch = task_at("nowhere").bind(model).all_rows("train")
    for i, row in enumerate(batch.before):
        ids, _ = model.images.plain(row)
        assert ids == processed(family, "nowhere", i)["input_ids"][0].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_generated_tokens_are_those_of_plain_passes(family):
    model, module = make_model(family), make_parts(family)[0]
    rows = [{**row, "answer": "x"} for row in rows_with()]
    space = Change(model, "lora")
    options = {"target": "answer", "metric": "exact_match", "max_tokens": 4}
    z, compared = np.random.default_rng(3).standard_normal((K, DIM)), 0
    for reuse in (True, False):
        task = gfo.Generation(rows, template=PLACES["nowhere"], **options)
        evaluator = gfo.LocalEvaluator(model, task, space, reuse=reuse)
        batch = evaluator.task.all_rows("train")
        found = evaluator.answers(z, batch)
        for k in range(K):
            with changed(module, space.decode(torch.from_numpy(z[k : k + 1]))):
                wanted = [greedy(family, i, batch.decoding) for i in range(len(rows))]
            assert [answer[: len(w)] for answer, w in zip(found[k], wanted, strict=True)] == wanted
            compared += sum(map(len, wanted))
    assert compared >= 12
    assert len(set(found[0] + found[1])) > 1  # control


@torch.no_grad()
def greedy(family, number, decoding):
    """Up to a placeholder, behind which transformers wants another image."""
    module, answer = make_parts(family)[0], []
    placeholder = module.config.image_token_id
    given = processed(family, "nowhere", number)
    while len(answer) < decoding.max_tokens:
        behind = with_more(given, torch.tensor(answer, dtype=torch.long), kind=int(family == "paligemma"))
        token = int(module(**behind, use_cache=False).logits[0, -1].argmax())
        if token in decoding.stop or token == placeholder:
            break
        answer.append(token)
    return tuple(answer)


@pytest.mark.parametrize("family", ["llava", "smolvlm", "aya_vision", "gemma3", "paligemma", "qwen3_vl"])
def test_options_behind_images(family):
    """Multiple choice: log-likelihoods of options of several tokens."""
    model = make_model(family)
    rows = [{**row, "options": ["good food", "a waste of time", "bad"], "label": 0} for row in rows_with()]
    task = gfo.MultipleChoice(rows, template=PLACES["nowhere"])
    evaluator = gfo.LocalEvaluator(model, task, Change(model, "lora"))
    batch = evaluator.task.all_rows("train")
    found = evaluator.answers(np.zeros((1, DIM)), batch)[0]
    for i, endings in enumerate(batch.endings):
        given = processed(family, "nowhere", i)
        for j, ending in enumerate(endings):
            behind = with_more(given, ending, kind=int(family == "paligemma"))
            with torch.no_grad():
                logits = make_parts(family)[0](**behind).logits[0].log_softmax(dim=-1)
            first = logits.shape[0] - len(ending)
            wanted = sum(float(logits[first - 1 + n, token]) for n, token in enumerate(ending))
            assert float(found[i, j]) == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("family", ["llava_next", "smolvlm"])
def test_the_tower_runs_once_an_image(family):
    """Of all splits, over a whole search, and of an image that stands in several rows."""
    module, processor = make_parts(family)
    model = gfo.freeze(module, processor, "counted")
    rows = rows_with()
    twice = [*rows, {**rows[0], "text": "Is it bad?", "image": [np.asarray(rows[0]["image"][0])]}]
    dev = [{"image": draw(5), "text": "a joy", "label": "bad"}]
    task = gfo.Classification(twice, dev, template=PLACES["behind"], labels=LABELS)
    names = ("vision_tower", "vision_model")
    tower = next(p for n, p in module.named_modules() if n.rpartition(".")[2] in names)
    calls = []
    with hooked(tower.register_forward_pre_hook(lambda *_: calls.append(1))):
        evaluator = gfo.LocalEvaluator(model, task, gfo.SoftPrompt(model, tokens=2, dim=3))
        compared = len(calls) - 4  # the longest row and the shortest, by plain passes
        assert model.images.runs == 4  # of four different images
        assert compared <= 2
        for step in range(3):
            evaluator(np.random.default_rng(step).standard_normal((4, 3)), step)
        evaluator.score(np.zeros((1, 3)), "dev")
        assert len(calls) == 4 + compared
        other = task_at("behind", ([draw(6)], [], [])).bind(model)  # control: a new image runs it
        assert len(calls) == 5 + compared
        assert other.all_rows("train").before[0] != evaluator.task.all_rows("train").before[0]


def test_a_frozen_text_is_computed_once_whatever_the_image_holds():
    """An image in front of the prompt costs nothing in a step."""
    model = make_model("smolvlm")
    space = gfo.SoftPrompt(model, tokens=2, dim=3)
    costs = []
    for images in (IMAGES, ([draw(1, 20, 20)], [], [])):
        evaluator = gfo.LocalEvaluator(model, task_at("behind", images), space)
        z = np.random.default_rng(0).standard_normal((4, 3))
        evaluator(z, 0)
        costs.append(evaluator(z, 1).cost.tokens_needed)
    assert costs[0] == costs[1]


def test_features_on_disk_are_the_same():
    module, processor = make_parts("llava")
    model, kept = gfo.freeze(module, processor, "disk"), make_model("llava")
    model.images.features.most_bytes = 0
    z = np.random.default_rng(0).standard_normal((2, 3))
    for place in ("behind", "in front"):
        losses = [
            gfo.LocalEvaluator(some, task_at(place), gfo.SoftPrompt(kept, tokens=2, dim=3))(z, 0).loss
            for some in (model, kept)
        ]
        np.testing.assert_allclose(*losses, rtol=1e-6)
    assert model.images.features.on_disk == 3
    assert kept.images.features.on_disk == 0


def test_an_image_is_the_same_in_every_form(tmp_path):
    image = draw(1)
    path = tmp_path / "a.png"
    image.save(path)
    forms = [path, str(path), path.read_bytes(), image, np.asarray(image), {"bytes": path.read_bytes()}]
    model = make_model("llava")
    task = gfo.Classification(
        [{"image": form, "label": "good"} for form in forms] + [{"image": draw(2), "label": "bad"}],
        template="{image} It",
        labels=LABELS,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gfo.GfoWarning)
        rows = task.bind(model).all_rows("train").before
    assert len(set(rows[:-1])) == 1
    assert rows[-1] != rows[0]  # control
    assert opened(forms[0], "row").tobytes() == image.tobytes()
