"""A kind of change that gfo does not have: a class of `gfo.core.slots` and a function that applies it.

Nothing else is touched, and it is evaluated, checked, combined and refused as the others are.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from changes import DIM

from gfo import Classification, Delta, LocalEvaluator, ProductSpace, Scaling, SoftPrompt
from gfo.core.domain import Domain
from gfo.core.errors import GfoError
from gfo.core.slots import SLOTS, ModuleSlot
from gfo.models.apply import applies
from gfo.report.export import export
from gfo.report.export.merged import merges
from gfo.testing import check_space

K = 3
TOLERANCE = 5e-5
PLAIN, ALIKE = "Review: {text}\nSentiment:", "{text} It was"
LABELS = {"bad": " terrible", "good": " great"}
TEXTS = ["a", "a great joy from the first minute to the last", "bad!", "the food was good"]
ROWS = [{"text": t, "label": v} for t, v in zip(TEXTS, ["good", "good", "bad", "good"], strict=True)]


class Shifts(ModuleSlot, name="toy_shift"):
    """Module -> [K, in], added to its input."""

    at_rest = 0.0

    def widths(self, name):
        return self.at[name].shape[1], None


@applies(Shifts, "input")
def shift(x, by):
    return x + by[:, None]


class Signs(ModuleSlot, name="toy_sign"):
    """Module -> [K, out], 1 or -1, by which its output is multiplied."""

    at_rest = 1.0


@applies(Signs, "output")
def flip(y, x, sign):
    return y * sign[:, None]


class Idle(ModuleSlot, name="toy_idle"):
    """Nothing applies it."""


@pytest.fixture(autouse=True, scope="module")
def _only_here():
    yield
    for name in ("toy_shift", "toy_sign", "toy_idle"):
        del SLOTS[name]


class Toy:
    """A space of one slot on the linear modules from a layer on; linear in z, or the sign of it."""

    def __init__(self, model, slot, first=0, seed=0):
        self.domain, self.slot, self.first = Domain.unbounded(DIM), slot, first
        rng = torch.Generator().manual_seed(seed)
        side = "in_features" if slot == "toy_shift" else "out_features"
        self.A = {
            name: torch.randn(DIM, getattr(info, side), generator=rng)
            for name, info in model.linears.items()
            if info.layer >= first
        }

    def decode(self, z):
        by = {name: 0.2 * z.float() @ A for name, A in self.A.items()}
        if self.slot == "toy_sign":
            by = {name: torch.where(part < -0.5, -1.0, 1.0) for name, part in by.items()}
        return Delta(**{self.slot: by}, first_layer=self.first)


def points(seed=0):
    return np.random.default_rng(seed).standard_normal((K, DIM))


def evaluator_of(model, space, template, **options):
    if model.reads == "mask":
        template += " {mask}"
    return LocalEvaluator(model, Classification(ROWS, template=template, labels=LABELS), space, **options)


def logits_of(model, space, template, z, **options):
    evaluator = evaluator_of(model, space, template, **options)
    return evaluator.answers(z, evaluator.task.all_rows("train"))


@torch.no_grad()
def slow_logits(model, space, template, z):
    """[K, B, V'] of changed copies of the model, one candidate and one whole row at a time."""
    words = [model.encode(word)[0] for word in LABELS.values()]
    out = torch.empty(len(z), len(ROWS), len(words))
    for k in range(len(z)):
        module = copy.deepcopy(model.module)
        for name, by in getattr(space.decode(torch.from_numpy(z[k : k + 1])), space.slot).items():
            part = module.get_submodule(name)
            if space.slot == "toy_shift":
                part.register_forward_pre_hook(lambda m, args, by=by: (args[0] + by[0],))
            else:
                part.register_forward_hook(lambda m, args, y, by=by: y * by[0])
        for b, row in enumerate(ROWS):
            ids = torch.tensor([model.encode(template.format(**row), start=True)])
            out[k, b] = module(input_ids=ids).logits[0, -1, words]
    return out


@pytest.mark.parametrize("slot", ["toy_shift", "toy_sign"])
@pytest.mark.parametrize(("first", "template"), [(0, PLAIN), (1, ALIKE), (2, ALIKE)])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_it_is_evaluated_as_changed_copies(tiny, family, first, template, slot):
    model = tiny(family)
    space, z = Toy(model, slot, first), points()
    expected = slow_logits(model, space, template, z)
    ways = {
        "at once": logits_of(model, space, template, z),
        "one by one": torch.cat([logits_of(model, space, template, z[k : k + 1]) for k in range(K)]),
        "no reuse": logits_of(model, space, template, z, reuse=False),
        "chunks": logits_of(model, space, template, z, chunk_tokens=16),
    }
    for name, logits in ways.items():
        assert float((logits - expected).abs().max()) < TOLERANCE, name
        assert float((logits - expected.roll(1, 0)).abs().max()) > 1e-3, name  # a control


@pytest.mark.parametrize("family", ["llama", "roberta", "t5"])
def test_an_input_shifted_is_an_output_shifted(tiny, family):
    """In a model of each kind: W (x + s) = W x + W s, an addition to the output."""
    model = tiny(family)
    space, z = Toy(model, "toy_shift", first=1), points()

    class Same(Toy):
        def decode(self, z):
            by = super().decode(z).toy_shift
            return Delta(bias={n: s @ model.weight(n).float().T for n, s in by.items()}, first_layer=1)

    shifted = logits_of(model, space, PLAIN, z)
    added = logits_of(model, Same(model, "toy_shift", first=1), PLAIN, z)
    assert float((shifted - added).abs().max()) < TOLERANCE
    assert float((shifted - added.roll(1, 0)).abs().max()) > 1e-3


def test_it_keeps_the_contract_of_spaces(tiny):
    model = tiny("llama")
    same, other = Toy(model, "toy_shift"), Toy(model, "toy_shift", seed=1)
    check_space(Toy(model, "toy_shift"), model, same=same, other=other, response=None)

    class Started(Toy):
        def decode(self, z):
            return super().decode(z + 0.1)

    with pytest.raises(AssertionError, match="every toy_shift must be 0"):
        check_space(Started(model, "toy_shift"), model, response=None)


def test_it_stands_beside_others(tiny):
    """In a product with its own kind of places, and with slots at the same modules."""
    model = tiny("llama")
    product = ProductSpace(Toy(model, "toy_shift"), Scaling(model, 4), SoftPrompt(model, 2, 4))
    delta = product.decode(torch.ones(2, product.domain.d, dtype=torch.float64))
    assert [slot.name for slot in delta.slots] == ["prompt", "scale", "toy_shift"]
    with pytest.raises(GfoError, match="two spaces change the toy_shift of"):
        ProductSpace(Toy(model, "toy_shift"), Toy(model, "toy_shift", first=2))


def test_shared_tensors_stay_shared(tiny):
    model = tiny("llama")
    name, info = next(iter(model.linears.items()))
    delta = Delta(toy_shift={name: torch.randn(1, info.in_features).expand(5, -1)})
    for other in (
        delta.to("cpu", torch.float64),
        delta.select(slice(1, 4)),
        delta.take(torch.tensor([3, 0])),
    ):
        assert other.toy_shift[name].stride(0) == 0
    assert delta.take(torch.tensor([3, 0])).candidates == 2
    with pytest.raises(GfoError, match="slots of"):
        Delta(toy_shift=delta.toy_shift, bias={name: torch.zeros(2, info.out_features)})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (lambda n, i: {"toy_shift": {n: torch.zeros(1, i.in_features + 1)}}, "toy_shift.*is for an input of"),
        (lambda n, i: {"bias": {n: torch.zeros(1, 1)}}, "bias.*is for an output of 1 numbers"),
        (lambda n, i: {"toy_shift": {"model.nothing": torch.zeros(1, 2)}}, "unknown module 'model.nothing'"),
        (lambda n, i: {"toy_idle": {n: torch.zeros(1, 2)}}, "nothing applies the slot 'toy_idle'"),
        (lambda n, i: {"toy_shft": {n: torch.zeros(1, 2)}}, "did you mean 'toy_shift'"),
    ],
)
def test_what_does_not_fit_is_refused(tiny, changes, words):
    model = tiny("llama")
    name, info = next(iter(model.linears.items()))
    with pytest.raises(GfoError, match=words) as error:
        model.check(Delta(**changes(name, info)))
    assert "\n" not in str(error.value)
    model.check(Delta(toy_shift={name: torch.zeros(1, info.in_features)}))  # a control


def test_formats_without_a_function_for_it_say_so(tiny, tmp_path):
    evaluator = evaluator_of(tiny("llama"), Toy(tiny("llama"), "toy_sign"), PLAIN)
    z = points()[0]
    with pytest.raises(GfoError, match=r"PEFT has no adapter for toy_sign; search a SoftPrompt"):
        export(evaluator, z, "peft", tmp_path / "peft")
    with pytest.raises(GfoError, match="no weight of a model holds the toy_sign; search LoRASubspace"):
        export(evaluator, z, "merged", tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_a_function_writes_it_into_the_weights(tiny, tmp_path, monkeypatch):
    from gfo.report.export import merged

    model = tiny("llama")
    space, z = Toy(model, "toy_sign"), points()
    monkeypatch.setattr(merged, "_MERGES", dict(merged._MERGES))

    @merges(Signs)
    def write(to, sign):
        to.weight = to.weight * sign[:, None]

    export(evaluator_of(model, space, PLAIN), z[0], "merged", tmp_path / "out")
    import transformers

    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.tensor([model.encode(PLAIN.format(**ROWS[1]), start=True)])
    words = [model.encode(word)[0] for word in LABELS.values()]
    expected = logits_of(model, space, PLAIN, z)[:, 1]
    with torch.no_grad():
        found = loaded(input_ids=ids).logits[0, -1, words]
    assert float((found - expected[0]).abs().max()) < TOLERANCE
    assert float((found - expected[1]).abs().max()) > 1e-3
