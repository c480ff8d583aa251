"""Images in rows: what is refused in one line, models opened from a folder, chats, and files beside rows."""

from __future__ import annotations

import io
import json
import warnings

import numpy as np
import pytest
from image_models import draw, make_model, make_parts
from PIL import Image, ImageDraw

import gfo
from gfo import config
from gfo.core.images import MOST_PIXELS, is_image_field
from gfo.models.features import FeatureStore

LABELS = {"bad": " bad", "good": " good"}


def png(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def bomb(width, height):
    """A small PNG that says it is large."""
    whole = png(Image.new("1", (width, height)))
    assert len(whole) < 2**21
    return whole


def bound(value, template="{image} It", model=None, first=None):
    rows = [
        {"image": draw(1) if first is None else first, "text": "bad", "label": "bad"},
        {"image": value, "text": "good", "label": "good"},
    ]
    task = gfo.Classification(rows, template=template, labels=LABELS)
    return task.bind(make_model("llava") if model is None else model)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"no image at all", "train row 2: its image cannot be read"),
        (png(draw(1))[:200], "train row 2: its image cannot be read"),
        (png(draw(1), "JPEG")[:100], "train row 2: its image cannot be read"),
        ("nowhere/at/all.png", "train row 2: image: cannot read nowhere/at/all.png"),
        (".", "train row 2: image: cannot read"),
        ("a\0b.png", "train row 2: image: cannot read"),
        (None, "train row 2: field 'image' is missing, no image"),
        (float("nan"), "train row 2: field 'image' is missing, no image"),
        ("", "train row 2: field 'image' is empty, no image"),
        (b"", "train row 2: field 'image' is empty, no image"),
        (3, "train row 2: field 'image' is a int, no image"),
        ({}, "train row 2: field 'image' is a dict, no image"),
        ([draw(1), [draw(2)]], "train row 2: field 'image' is a list, no image"),
        (np.zeros((4, 4, 3)), r"train row 2: its image is an array of float64 \[4, 4, 3\]"),
        (np.zeros((4, 4, 5), np.uint8), r"train row 2: its image is an array of uint8 \[4, 4, 5\]"),
        (np.zeros((0, 4, 3), np.uint8), "train row 2: its image is an array of uint8"),
        (bomb(12_000, 6_000), f"train row 2: its image has 12000 x 6000 pixels, more than {MOST_PIXELS:,}"),
        (bomb(20_000, 20_000), "train row 2: its image (has 20000 x 20000 pixels|cannot be read)"),
    ],
    ids=range(18),
)
def test_an_image_that_cannot_be_read(value, message):
    with pytest.raises(gfo.GfoError, match=message) as found:
        bound(value)
    assert "\n" not in str(found.value)


def test_an_image_without_a_place():
    with pytest.raises(
        gfo.GfoError, match=r"train row 1: field 'image' has no place in the template; write {image}"
    ):
        bound(draw(2), "Text It")


def test_a_place_without_an_image():
    rows = [{"image": draw(1), "label": "bad"}, {"text": "x", "label": "good"}]
    with pytest.raises(gfo.GfoError, match="template at train row 2: unknown field 'image'"):
        gfo.Classification(rows, template="{image} It", labels=LABELS)


def test_a_place_in_the_models_own_words():
    """The model's sign in a template has no image."""
    with pytest.raises(
        gfo.GfoError, match=r"train row 1: it has 2 times '<image>', .* and 1 images; write {image}"
    ):
        bound(draw(2), "{image}<image> It")


def test_a_sign_in_a_text_is_text():
    """What a row says is no place for an image."""
    model = make_model("llava")
    rows = [
        {"image": draw(1), "text": "<image>", "label": "good"},
        {"image": [], "text": "image", "label": "bad"},
        {"image": draw(1), "text": "image", "label": "good"},
    ]
    task = gfo.Classification(rows, template="{image} a {text} It", labels=LABELS)
    marked, none, plain = (model.images.plain(row)[0] for row in task.bind(model).all_rows("train").before)
    placeholder = model.module.config.image_token_index
    assert marked.count(placeholder) == plain.count(placeholder) == 16
    assert none.count(placeholder) == 0


def test_a_text_model_given_images(tiny):
    with pytest.raises(
        gfo.GfoError, match="train row 1: it has an image, but model 'tiny-llama' reads no images"
    ):
        bound(draw(2), model=tiny("llama"))


def test_a_model_frozen_with_its_tokenizer_alone():
    module, processor = make_parts("llava")
    model = gfo.freeze(module, processor.tokenizer, "without")
    with pytest.raises(gfo.GfoError, match="model 'without' reads no images"):
        bound(draw(2), model=model)


def test_an_image_in_a_field_of_another_name():
    rows = [{"photo": draw(1), "label": "bad"}]
    with pytest.raises(
        gfo.GfoError, match=r"field 'photo' is .*; a template takes .* image, images or image_"
    ):
        gfo.Classification(rows, template="{photo} It", labels=LABELS)
    assert [name for name in ("image", "images", "image2", "image_left") if not is_image_field(name)] == []
    assert [name for name in ("imagery", "photo", "an image", "image url") if is_image_field(name)] == []


@pytest.mark.parametrize("family", ["llava", "llava_next", "idefics3"])
def test_a_folder_is_opened_with_its_processor(family, tmp_path):
    module, processor = make_parts(family)
    module.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = gfo.load_model(tmp_path, device="cpu")
    kept, rows = make_model(family), [draw(1), draw(2, 60, 30)]
    z = np.ones((1, 3))
    losses = [
        gfo.LocalEvaluator(some, task(rows), gfo.SoftPrompt(kept, tokens=2, dim=3))(z, 0).loss
        for some in (model, kept)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def task(images, **options):
    rows = [{"image": image, "label": label} for image, label in zip(images, LABELS, strict=False)]
    return gfo.Classification(rows, **{"template": "{image} It {soft}is", "labels": LABELS, **options})


def test_a_folder_without_a_processor_reads_texts(tmp_path):
    module, processor = make_parts("llava")
    module.save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    model = gfo.load_model(tmp_path, device="cpu")
    assert model.encode("a joy")
    with pytest.raises(
        gfo.GfoError, match=r"train row 1: it has an image, but model '.*' has no processor"
    ) as found:
        bound(draw(1), model=model)
    assert "\n" not in str(found.value)


def test_a_chat_with_images():
    """As the model's chat template writes them, given as contents or in a text."""
    model, processor = make_model("llava"), make_parts("llava")[1]
    content = [{"type": "image"}, {"type": "text", "text": "Say {text}{soft}"}]
    rows = [
        {"image": draw(1), "text": "good", "label": "good"},
        {"image": draw(2), "text": "bad", "label": "bad"},
        {"image": [draw(1), draw(2)], "text": "it", "label": "bad"},
    ]
    found = []
    for given in (content, "{image}Say {text}{soft}"):
        messages = [{"role": "user", "content": given}]
        found.append(gfo.Classification(rows, template=messages, labels=LABELS).bind(model).all_rows("train"))
    assert found[0].before == found[1].before
    said = [{"type": "image"}, {"type": "text", "text": "Say good"}]
    text = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": said}], tokenize=False, add_generation_prompt=True
    )
    wanted = processor(text=[text], images=[draw(1)])["input_ids"][0]
    ids, _ = model.images.plain([*found[0].before[0], *found[0].after[0]])
    assert model.decode([ids]) == model.decode([wanted])
    assert sum(token >= 2**32 for token in found[0].before[2]) == 2 * sum(
        t >= 2**32 for t in found[0].before[0]
    )


def test_a_chat_that_gfo_cannot_read():
    with pytest.raises(gfo.GfoError, match="gfo reads texts and images"):
        gfo.Classification(
            [{"text": "a", "label": "bad"}],
            template=[{"role": "user", "content": [{"type": "audio"}]}],
            labels=LABELS,
        )


def test_paths_are_those_of_the_files_folder(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    outside = tmp_path / "b.png"
    draw(1).save(folder / "a.png")
    draw(2).save(outside)
    rows = [{"image": "a.png", "label": "bad"}, {"image": str(outside), "label": "good"}]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    options = {"template": "{image} It", "labels": LABELS}
    model = make_model("llava")
    by_file = gfo.Classification(folder / "train.jsonl", **options).bind(model).all_rows("train")
    by_hand = gfo.Classification(
        [{"image": draw(1), "label": "bad"}, {"image": "b.png", "label": "good"}], **options
    )
    assert by_file.before == by_hand.bind(model).all_rows("train").before


def test_equal_rows_are_told_by_their_images():
    """Rows with the same text and other images are others."""
    model = make_model("llava")
    rows = [{"image": draw(i), "label": label} for i, label in enumerate(["good", "bad"])]
    gfo.Classification(rows, template="{image} It", labels=LABELS).bind(model)
    same = [{"image": draw(0), "label": label} for label in ("good", "bad")]  # control
    with pytest.warns(gfo.GfoWarning, match="have the text of another and another label"):
        gfo.Classification(same, template="{image} It", labels=LABELS).bind(model)


def test_an_object_is_known_by_its_pixels():
    """Not by the object, whose pixels may change, and in whose place in memory another may lie."""
    model, pixels = make_model("llava"), np.array(draw(0))

    def tokens():
        task = gfo.Classification([{"image": pixels, "label": "good"}], template="{image} It", labels=LABELS)
        return task.bind(model).all_rows("train").before

    first = tokens()
    pixels[:] = np.array(draw(1))
    assert tokens() != first
    pixels[:] = np.array(draw(0))
    assert tokens() == first
    seen = [tokens_of_a_new_one(model, seed) for seed in range(20)]  # each freed before the next
    assert len(set(seen)) == 20


def tokens_of_a_new_one(model, seed):
    rows = [{"image": draw(seed), "label": "good"}]
    return gfo.Classification(rows, template="{image} It", labels=LABELS).bind(model).all_rows("train").before


def test_calibration_leaves_images_out():
    evaluator_task = task([draw(1), draw(2)], calibration="contextual").bind(make_model("llava"))
    batch = evaluator_task.all_rows("train")
    assert [any(token >= 2**32 for token in row) for row in batch.before] == [True, True, False, False, False]


def test_a_family_that_hands_on_more_is_refused():
    """Its rows of text are read; images are refused by what transformers calls the text model with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gfo.GfoWarning)
        model = make_model("qwen3_5")
    assert bound([], "{image} {text} It", model, []).all_rows("train").before
    said = r"train row 2: it has .*model 'tiny-qwen3_5' \(qwen3_5\) gets none \(its images are no words to it"
    with pytest.raises(gfo.GfoError, match=said) as found:
        bound(draw(77), model=model, first=[])
    assert "\n" not in str(found.value)


def test_features_are_found_by_their_numbers():
    import torch

    rng = torch.Generator().manual_seed(0)
    parts = [torch.randn(n, 4, generator=rng) for n in (3, 1, 5)]
    store = FeatureStore(most_bytes=4 * 16)  # room for the first and second
    assert [store.add(part) for part in parts] == [0, 3, 4]
    assert (store.on_disk, store.size) == (1, 9)
    numbers = torch.tensor([8, 0, 3, 3, 4, 2])
    assert torch.equal(store.take(numbers), torch.cat(parts)[numbers])


def test_an_exported_model_reads_images(tmp_path):
    """A merged folder has the processor, and gives what was searched for."""
    model, images = make_model("llava"), [draw(1), draw(2)]
    result = gfo.tune(
        model,
        task(images, template="{image} It is"),
        gfo.LoRASubspace(model, dim=3),
        optimizer="random",
        budget=gfo.Budget(evaluations=16),
        progress=False,
    )
    result.export_merged(tmp_path / "out")
    merged = gfo.load_model(tmp_path / "out", device="cpu")
    losses = [
        gfo.LocalEvaluator(some, task(images, template="{image} It is"), space)(z, 0).loss
        for some, space, z in (
            (model, gfo.LoRASubspace(model, dim=3), result.z[None]),
            (merged, gfo.LoRASubspace(model, dim=3), np.zeros((1, 3))),
            (model, gfo.LoRASubspace(model, dim=3), np.zeros((1, 3))),
        )
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert abs(losses[0] - losses[2]) > 1e-3  # control


def test_baselines_of_all_weights_are_refused(tmp_path):
    model = gfo.testing.tiny_image_model()
    options = {"budget": gfo.Budget(evaluations=4), "progress": False}
    with pytest.raises(gfo.GfoError, match="read the rows' images, which gfo runs once; take 'lora'"):
        gfo.baselines.run("full", model, task([draw(1), draw(2)]), **options)
    space = gfo.SoftPrompt(model, tokens=2, dim=3)
    gfo.baselines.run("prompt-tuning", model, task([draw(1), draw(2)]), space, **options)


def test_a_chat_in_a_config(tmp_path):
    """Contents of a chat as TOML has them, a model and images in files."""
    module, processor = make_parts("llava")
    module.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    draw(1).save(tmp_path / "a.png")
    draw(2).save(tmp_path / "b.png")
    rows = [{"image": "a.png", "text": "x", "label": "good"}, {"image": "b.png", "text": "y", "label": "bad"}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "chat.toml").write_text(
        f"""
        [model]
        name = "{(tmp_path / "model").as_posix()}"
        device = "cpu"
        [task]
        train = "{(tmp_path / "train.jsonl").as_posix()}"
        labels = {{ good = " good", bad = " bad" }}
        [[task.template]]
        role = "user"
        content = [{{ type = "image" }}, {{ type = "text", text = "Say {{text}}{{soft}}" }}]
        [space]
        kind = "soft-prompt"
        tokens = 2
        dim = 3
        [budget]
        evaluations = 16
        """
    )
    result = config.load_config(tmp_path / "chat.toml").run(tmp_path / "run", progress=False)
    assert np.isfinite(result.history.last.loss).all()


def test_tuning_moves_accuracy_from_chance():
    """Blots of two colours, by words that mean nothing, on a random model; control: labels without sense."""
    rng = np.random.default_rng(0)
    colours = {"good": (220, 30, 30), "bad": (30, 30, 220)}
    rows = [{"image": blot(colours[label], rng), "label": label} for _ in range(100) for label in colours]
    assert learnt(rows) > 0.7
    drawn = rng.permutation([row["label"] for row in rows])
    assert learnt([{**row, "label": str(label)} for row, label in zip(rows, drawn, strict=True)]) < 0.65


def learnt(rows):
    """Accuracy on 136 rows after a search on 64."""
    model = gfo.testing.tiny_image_model()
    task = gfo.Classification(
        rows[:64], test=rows[64:], template="{image} It is a{soft}", labels={"good": " true", "bad": " false"}
    )
    space = gfo.SoftPrompt(model, tokens=4, dim=50)
    budget = gfo.Budget(evaluations=1200)
    result = gfo.tune(model, task, space, optimizer="cma", budget=budget, progress=False)
    return result.score("test")["accuracy"]


def blot(colour, rng):
    image = Image.new("RGB", (28, 28), tuple(rng.integers(0, 256, 3).tolist()))
    x, y, r = rng.integers(9, 19), rng.integers(9, 19), rng.integers(5, 9)
    ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), fill=colour)
    return image
