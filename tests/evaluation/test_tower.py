"""Changes of what reads images: numbers of merged weights, lower layers that run once, exports."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from image_models import draw, make_model, make_parts

import gfo
from gfo.core.delta import Delta
from gfo.models.structure import hooked

IMAGES = ([draw(1)], [draw(2, 30, 60), draw(3)], [])  # of the rows: one, two, none
LABELS = {"bad": " bad", "good": " good"}
TEMPLATE = "A {image}{text}{soft} It"
K = 2
# family, targets, how many layers of the tower run once
TOWERS = [
    ("llava", "multi_modal_projector.linear_1", 2),
    ("llava", "*vision_tower*q_proj", 0),
    ("smolvlm", ["*connector*proj", "*vision_model*layers.1*v_proj"], 1),
    ("llava_next", "*vision_tower*layers.1*fc1", 1),
    ("vipllava", "multi_modal_projector.linear_1", 0),  # it reads several layers
    ("paligemma", "*vision_tower*layers.1*v_proj", 1),
]


def rows():
    texts = ("a joy", "the service was bad", "Is it good?")
    return [{"image": i, "text": t, "label": "bad"} for i, t in zip(IMAGES, texts, strict=True)]


def task(template="A {image}{text} It"):
    return gfo.Classification(rows(), template=template, labels=LABELS)


def spaces(model, targets):
    yield gfo.LoRASubspace(model, dim=3, targets=targets, alpha=0.5)
    if isinstance(targets, str) and "linear_1" not in targets:
        yield gfo.BiasSpace(model, dim=3, targets=targets, alpha=1.0)
        yield gfo.Scaling(model, dim=3, targets=targets, alpha=0.5)


def merged_model(family, delta):
    """Another model of the same weights, one candidate's changes of what reads images merged."""
    module, processor = copy.deepcopy(make_parts(family)[0]), make_parts(family)[1]
    with torch.no_grad():
        for name in delta.modules:
            part = module.get_submodule(name)
            weight = part.weight.clone()
            bias = weight.new_zeros(len(weight)) if part.bias is None else part.bias.clone()
            if name in delta.lora:
                A, B = delta.lora[name]
                weight = weight + B[0] @ A[0]
            if name in delta.scale:
                weight, bias = weight * delta.scale[name][0][:, None], bias * delta.scale[name][0]
            if name in delta.bias:
                bias = bias + delta.bias[name][0]
            part.weight, part.bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)
    return gfo.freeze(module, processor, "merged", check=False)


@pytest.mark.parametrize(("family", "targets", "once"), TOWERS)
def test_losses_are_those_of_merged_weights(family, targets, once):
    model, z = make_model(family), np.random.default_rng(1).standard_normal((K, 3))
    for space in spaces(model, targets):
        evaluator = gfo.LocalEvaluator(model, task(), space)
        batch = evaluator.task.all_rows("train")
        found = evaluator.answers(z, batch)
        assert evaluator._tower._start == once
        wanted = []
        for point in z:
            other = merged_model(family, space.decode(torch.from_numpy(point[None])))
            bound = task().bind(other).all_rows("train")
            whole = [(*before, *after) for before, after in zip(bound.before, bound.after, strict=True)]
            wanted.append(other.read(whole, None))
        wanted = torch.stack(wanted)
        spread, wanted = float(wanted.std()), wanted[..., list(batch.vocabulary)]
        slow = gfo.LocalEvaluator(model, task(), space, reuse=False)
        small = gfo.LocalEvaluator(model, task(), space, chunk_tokens=40)
        for answers in (
            found,
            torch.cat([evaluator.answers(point[None], batch) for point in z]),
            slow.answers(z, batch),
            small.answers(z, batch),
        ):
            assert float((answers - wanted).abs().max()) <= 1e-4 * spread
        assert (
            float((wanted[0, :2] - wanted[1, :2]).abs().max()) > 1e-2 * spread
        )  # control: candidates differ
        assert torch.equal(wanted[0, 2], wanted[1, 2])  # control: but not where there is no image


def test_lower_layers_run_once_an_image():
    """Counted over some steps, of three images; control: the layer that changes runs in every step."""
    model = make_model("llava")
    space = gfo.LoRASubspace(model, dim=3, targets="*vision_tower*layers.1*q_proj")
    evaluator = gfo.LocalEvaluator(model, task(), space)
    evaluator(np.ones((4, 3)), 0)
    layers = model.module.get_submodule("model.vision_tower.encoder.layers")
    calls = {0: 0, 1: 0}

    def count(i):
        return lambda *_: calls.update({i: calls[i] + 1})

    inner = [layers[i].self_attn.q_proj.register_forward_hook(count(i)) for i in calls]
    with hooked(*inner):
        for step in range(3):
            evaluator(np.random.default_rng(step).standard_normal((4, 3)), step)
    assert calls == {0: 0, 1: 9}


def test_with_a_prompt_and_the_text_model():
    """A soft prompt and changes of both parts, as one space."""
    model = make_model("smolvlm")
    parts = (
        gfo.SoftPrompt(model, tokens=2, dim=3),
        gfo.LoRASubspace(model, dim=3, targets=["*connector*proj", "q_proj"], alpha=0.5),
    )
    space, z = gfo.ProductSpace(*parts), np.random.default_rng(0).standard_normal((3, 6))
    evaluator = gfo.LocalEvaluator(model, task(TEMPLATE), space)
    batch = evaluator.task.all_rows("train")
    found = evaluator.answers(z, batch)
    slow = gfo.LocalEvaluator(model, task(TEMPLATE), space, reuse=False)
    for other in (torch.cat([evaluator.answers(point[None], batch) for point in z]), slow.answers(z, batch)):
        assert float((other - found).abs().max()) <= 1e-4 * float(found.std())
    delta = space.decode(torch.from_numpy(z[:1]))
    tower = {name: pair for name, pair in delta.lora.items() if name not in model.linears}
    assert 0 < len(tower) < len(delta.lora)
    other, rest = (
        merged_model("smolvlm", Delta(lora=tower)),
        {n: p for n, p in delta.lora.items() if n not in tower},
    )

    class Rest:
        domain = space.domain
        decode = staticmethod(lambda z: Delta(prompt=delta.prompt, lora=rest))

    evaluator = gfo.LocalEvaluator(other, task(TEMPLATE), Rest())
    wanted = evaluator.answers(z[:1], evaluator.task.all_rows("train"))
    assert float((found[:1] - wanted).abs().max()) <= 1e-4 * float(found.std())


def test_answers_and_options():
    model = make_model("llava")
    space, z = gfo.LoRASubspace(model, dim=3, targets="linear_2", alpha=1.0), np.ones((1, 3))
    other = merged_model("llava", space.decode(torch.from_numpy(z)))
    made = [{**row, "answer": "x", "options": ["good food", "bad"]} for row in rows()]
    for kind, options in (
        (gfo.Generation, {"target": "answer", "metric": "exact_match", "max_tokens": 4}),
        (gfo.MultipleChoice, {}),
    ):
        if kind is gfo.MultipleChoice:
            made = [{**row, "label": 0} for row in made]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", gfo.GfoWarning)
            task = kind(made, template="A {image}{text} It", **options)
            evaluator = gfo.LocalEvaluator(model, task, space)
            found = evaluator.answers(z, evaluator.task.all_rows("train"))
            plain = gfo.LocalEvaluator(other, task, gfo.LoRASubspace(other, dim=3))
            wanted = plain.answers(np.zeros((1, 3)), plain.task.all_rows("train"))
        if kind is gfo.Generation:
            assert found == wanted
        else:
            assert torch.allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("kind", ["merged", "peft"])
def test_exports(kind, tmp_path):
    """What is written gives the losses of the search; of PEFT, as its own library merges it."""
    module, processor = make_parts("llava")
    module.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    model = gfo.load_model(tmp_path / "base", device="cpu")
    space = gfo.LoRASubspace(model, dim=3, targets=["linear_1", "*vision_tower*v_proj"], alpha=0.5)
    result = gfo.tune(
        model, task(), space, optimizer="random", budget=gfo.Budget(evaluations=16), progress=False
    )
    getattr(result, f"export_{kind}")(tmp_path / "out")
    other = gfo.load_model(tmp_path / "out", device="cpu")
    zero = gfo.LoRASubspace(other, dim=3)
    losses = [
        gfo.LocalEvaluator(m, task(), s)(z, 0).loss
        for m, s, z in (
            (model, space, result.z[None]),
            (other, zero, np.zeros((1, 3))),
            (model, zero, np.zeros((1, 3))),
        )
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert abs(float(losses[0][0] - losses[2][0])) > 1e-3  # control
    if kind == "peft":
        around = gfo.LoRASubspace.from_peft(tmp_path / "out", model, dim=3)
        again = gfo.LocalEvaluator(model, task(), around)(np.zeros((1, 3)), 0).loss
        np.testing.assert_allclose(losses[0], again, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("qwen2_vl", {"targets": "*visual*attn.proj"}, "takes images otherwise than words"),
        ("gemma3", {"targets": "*vision_tower*q_proj"}, "takes images otherwise than words"),
        ("llava", {"targets": "linear_1", "begins": "read"}, "begins = 'read', but images are read in front"),
        ("llava", {"targets": "linear_1", "layers": "last"}, "layers are the text model's"),
        ("llava", {"targets": "no_proj"}, "'no_proj' matches nothing in these layers; give some of"),
    ],
)
def test_what_is_refused(family, options, message):
    model = make_model(family)
    with pytest.raises(gfo.GfoError, match=message) as found:
        gfo.LocalEvaluator(model, task(), gfo.LoRASubspace(model, dim=3, **options))
    assert "\n" not in str(found.value)


def test_other_spaces_say_that_they_do_not():
    model = make_model("llava")
    with pytest.raises(gfo.GfoError, match="names what reads images, which this space does not change"):
        gfo.Adapter(model, dim=3, targets="linear_1")
