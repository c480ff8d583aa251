"""Changes that begin at a place: the tokens in front of it are the frozen model's, whatever the change is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from family_models import build, frozen
from torch.nn.functional import gelu, linear

import gfo
from gfo.core.bank import Bank
from gfo.core.delta import Begin
from gfo.models.structure import hooked
from gfo.report.export import export
from gfo.testing import check_space

FAMILIES = {
    "llama": {},
    "gpt2": {},  # [in, out] matrices, fused projections
    "gemma2": {},  # windows
    "qwen3": {},  # norms of heads
    "gpt_neox": {},  # attention and feed-forward side by side
    "mixtral": {},  # experts
    "bloom": {},  # biases by position
    "mamba": {},  # copied states, token by token
    "minimax": {},  # copied states
    "roberta": {},  # whole rows
}
TEXTS = (
    "a joy",
    "the service was bad and a terrible waste of time from the first minute to the last",
    "good",
)
LABELS = {"bad": " bad", "good": " good", "joy": " joy"}
TEMPLATES = {"{here}": "Say {text}{here} It was", "{soft}": "{text}{soft} It was", "read": "{text} It was"}


class Mixed:
    """The weights of all linear modules, mixed with others by z."""

    def __init__(self, model, begins=None):
        self.domain, self.begins, rng = (
            gfo.Domain.unbounded(4),
            Begin.of(begins),
            torch.Generator().manual_seed(0),
        )
        self.banks = {}
        for name in model.linears:
            if name.endswith("dt_proj"):  # Mamba's, which is no module in its forward pass
                continue
            own = model.weight(name).float()
            other = own + own.std() * torch.randn(own.shape, generator=rng)
            self.banks[name] = Bank.of(torch.stack([own, other]))

    def decode(self, z):
        share = 0.3 * z[:, :1].float()
        mixture = torch.cat([1 - share, share], dim=1)
        bank = {name: (mixture, bank) for name, bank in self.banks.items()}
        return gfo.Delta(bank=bank, begins=self.begins)


SPACES = {
    "bank": Mixed,
    "lora": lambda model, **more: gfo.LoRASubspace(model, dim=4, rank=2, alpha=0.5, **more),
    "upper lora": lambda model, **more: gfo.LoRASubspace(
        model, dim=4, rank=2, alpha=0.5, layers="upper", **more
    ),
    "bias": lambda model, **more: gfo.BiasSpace(model, dim=4, alpha=0.5, **more),
    "adapter": lambda model, **more: gfo.Adapter(model, dim=4, rank=2, alpha=0.5, **more),
    "norm": lambda model, **more: gfo.Scaling(model, dim=4, method="norm", alpha=0.5, **more),
    "lora and bias": lambda model, **more: gfo.ProductSpace(
        SPACES["lora"](model, **more), SPACES["bias"](model, **more)
    ),
}
K, DIM = 3, 4
pytestmark = [
    pytest.mark.filterwarnings("ignore:the model's routed experts"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),  # PEFT reads it
]


def task(place, **options):
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    return gfo.Classification(rows, template=TEMPLATES[place], labels=LABELS, **options)


def points(space, seed=1):
    return np.random.default_rng(seed).standard_normal((K, space.domain.d))


def masked_pass(model, delta, row, first):
    """Logits [T, V] of a row by a plain pass, in which modules change the tokens from the first on."""

    def change(name):
        def hook(module, args, y):
            x, new = args[0], y
            if name in delta.bank:
                shares, bank = delta.bank[name]
                new = linear(x, bank.mixed(shares[0]), getattr(module, "bias", None))
            if name in delta.lora:
                A, B = delta.lora[name]
                new = new + x @ A[0].T @ B[0].T
            if name in delta.scale:
                new = new * delta.scale[name][0]
            if name in delta.bias:
                new = new + delta.bias[name][0]
            if name in delta.adapter:
                A, B = delta.adapter[name]
                new = new + gelu(new @ A[0].T) @ B[0].T
            # a module has each row's tokens in its axis 1, or all of the one row in its axis 0
            axis = 1 if y.shape[1] == len(row) else 0
            at = torch.arange(len(row)).view(*[1] * axis, -1, *[1] * (y.ndim - 1 - axis))
            return torch.where(at >= first, new, y)

        return hook

    handles = [model.module.get_submodule(n).register_forward_hook(change(n)) for n in delta.modules]
    with hooked(*handles), torch.no_grad():
        return model.module(input_ids=torch.tensor([row]), use_cache=False).logits[0].float()


def firsts(batch, place):
    rows = [before + after for before, after in zip(batch.before, batch.after, strict=True)]
    return rows, [len(r) - 1 if place == "read" else len(b) for r, b in zip(rows, batch.before, strict=True)]


def one(space, z):
    delta = space.decode(torch.from_numpy(z[None]))
    return delta.map(lambda tensor: tensor.float())


@pytest.fixture(scope="module")
def models():
    return {family: frozen(build(family, **more), family, "causal")[0] for family, more in FAMILIES.items()}


@pytest.mark.parametrize("place", TEMPLATES)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_pass_in_which_the_change_is_masked_by_position(models, family, place):
    model, refused = models[family], []
    for name, make in SPACES.items():
        try:
            space = make(model, begins=place)
        except gfo.GfoError as error:
            refused.append((name, str(error)))
            continue
        evaluator = gfo.LocalEvaluator(model, task(place), space)
        batch = evaluator.task.all_rows("train")
        z = points(space)
        found = evaluator.answers(z, batch)
        slow = gfo.LocalEvaluator(model, task(place), space, reuse=False).answers(z, batch)
        rows, first = firsts(batch, place)
        wanted, everywhere = torch.empty_like(found), torch.empty_like(found)
        for k in range(K):
            for b, row in enumerate(rows):
                delta = one(space, z[k])
                wanted[k, b] = masked_pass(model, delta, row, first[b])[-1, list(batch.vocabulary)]
                everywhere[k, b] = masked_pass(model, delta, row, 0)[-1, list(batch.vocabulary)]
        spread = float(wanted.std())
        assert float((found - wanted).abs().max()) <= 1e-4 * spread, name
        assert float((slow - wanted).abs().max()) <= 1e-4 * spread, name
        ones = torch.cat([evaluator.answers(each[None], batch) for each in z])
        assert float((found - ones).abs().max()) <= 1e-4 * spread, name
        assert float((found - everywhere).abs().max()) > 1e-3 * spread, name  # control
    assert all("targets" in error for _, error in refused), refused
    assert len(refused) < len(SPACES) - 1, refused


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "bloom", "mamba", "minimax"])
@pytest.mark.parametrize("place", ["{here}", "read"])
def test_answers_are_those_of_the_masked_pass(models, family, place):
    model = models[family]
    rows = [{"text": text, "answer": "x"} for text in TEXTS]
    options = {"target": "answer", "metric": "exact_match", "max_tokens": 5}
    given = gfo.Generation(rows, template=TEMPLATES[place], **options)
    space = SPACES["lora"](model, begins=place) if family != "mamba" else SPACES["norm"](model, begins=place)
    z = 2 * points(space, seed=3)
    for reuse in (True, False):
        evaluator = gfo.LocalEvaluator(model, given, space, reuse=reuse)
        batch = evaluator.task.all_rows("train")
        found = evaluator.answers(z, batch)
        texts, first = firsts(batch, place)
        for k in range(K):
            for b, row in enumerate(texts):
                assert found[k][b] == greedy(model, one(space, z[k]), row, first[b], batch.decoding), (k, b)
    plain = [greedy(model, one(space, 0 * z[0]), row, 0, batch.decoding) for row in texts]
    assert any(found[k][b] != plain[b] for k in range(K) for b in range(len(texts)))  # control


def greedy(model, delta, row, first, decoding):
    answer = []
    while len(answer) < decoding.max_tokens:
        token = int(masked_pass(model, delta, (*row, *answer), first)[-1].argmax())
        if token in decoding.stop:
            break
        answer.append(token)
    return tuple(answer)


@pytest.mark.parametrize("family", ["llama", "bloom", "minimax"])
@pytest.mark.parametrize("place", ["{here}", "read"])
def test_endings_are_those_of_the_masked_pass(models, family, place):
    model = models[family]
    options = ["was bad and terrible", "was good", "a joy"]
    rows = [{"text": text, "options": options, "answer": i} for i, text in enumerate(TEXTS)]
    given = gfo.MultipleChoice(
        rows, template=TEMPLATES[place], options="options", label_field="answer", delimiter=" "
    )
    space = SPACES["lora"](model, begins=place)
    z = points(space)
    evaluator = gfo.LocalEvaluator(model, given, space)
    batch = evaluator.task.all_rows("train")
    found = evaluator.answers(z, batch)
    slow = gfo.LocalEvaluator(model, given, space, reuse=False).answers(z, batch)
    texts, first = firsts(batch, place)
    for k in range(K):
        for b, row in enumerate(texts):
            for j, ending in enumerate(batch.endings[b]):
                logits = masked_pass(model, one(space, z[k]), (*row, *ending), first[b]).log_softmax(-1)
                said = sum(float(logits[len(row) - 1 + i, token]) for i, token in enumerate(ending))
                assert float(found[k, b, j]) == pytest.approx(said, abs=2e-4)
                assert float(slow[k, b, j]) == pytest.approx(said, abs=2e-4)


def test_tokens_in_front_are_computed_once(models):
    model = models["llama"]
    costs = {}
    for begins in (None, "{here}", "read"):
        evaluator = gfo.LocalEvaluator(model, task("{here}"), SPACES["lora"](model, begins=begins))
        evaluator(np.zeros((8, DIM)), 0)  # texts
        costs[begins] = evaluator(np.zeros((8, DIM)), 1).cost.tokens_needed
    batch = evaluator.task.all_rows("train")
    behind = sum(map(len, batch.after))
    assert costs["{here}"] == 8 * behind
    assert costs["read"] == 8 * len(TEXTS)
    assert costs[None] > 8 * behind  # control


def test_it_begins_at_a_soft_prompt(models):
    """Both in one space: the prompt stands where modules begin to change."""
    model = models["llama"]
    soft = gfo.SoftPrompt(model, tokens=2, dim=DIM)
    space = gfo.ProductSpace(soft, SPACES["lora"](model, begins="{soft}"))
    other = gfo.ProductSpace(soft, SPACES["lora"](model))
    z = points(space)
    fast, slow = (
        gfo.LocalEvaluator(model, task("{soft}"), space, reuse=reuse)(z, 0).loss for reuse in (True, False)
    )
    np.testing.assert_allclose(fast, slow, rtol=1e-5)
    assert np.abs(gfo.LocalEvaluator(model, task("{soft}"), other)(z, 0).loss - fast).max() > 1e-4


def test_an_encoder_decoder_answers_behind_all_places():
    model = frozen(build("t5", "seq2seq"), "t5", "seq2seq")[0]
    decoder = list(range(model.encoder_layers, model.layers))
    found = []
    for begins in (None, "{here}"):
        space = gfo.LoRASubspace(model, dim=4, rank=2, layers=decoder, begins=begins)
        z = points(space)
        found.append(gfo.LocalEvaluator(model, task("{here}"), space)(z, 0).loss)
    np.testing.assert_array_equal(*found)
    with pytest.raises(gfo.GfoError, match="the texts are in the encoder of 't5'"):
        gfo.LocalEvaluator(model, task("{here}"), gfo.LoRASubspace(model, dim=4, begins="{here}"))


def test_what_cannot_begin_at_a_place_is_told(models):
    model = models["llama"]
    lora = SPACES["lora"]
    with pytest.raises(gfo.GfoError, match=r"unknown begins '\{hear\}': did you mean '\{here\}'"):
        lora(model, begins="{hear}")
    with pytest.raises(
        gfo.GfoError, match=r"template: it has no \{here\}, where the changes of the space begin"
    ):
        gfo.LocalEvaluator(model, task("read"), lora(model, begins="{here}"))
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    ending = gfo.Classification(rows, template="{text}{here}", labels=LABELS)
    with pytest.raises(gfo.GfoError, match=r"train row 1: no token stands behind \{here\}"):
        gfo.LocalEvaluator(model, ending, lora(model, begins="{here}"))
    soft = gfo.ProductSpace(gfo.SoftPrompt(model, tokens=2, dim=4), lora(model, begins="read"))
    with pytest.raises(gfo.GfoError, match="begins = 'read' beside a soft prompt"):
        gfo.LocalEvaluator(model, task("{soft}"), soft)
    prefix = gfo.ProductSpace(gfo.Prefix(model, tokens=2, dim=4), lora(model, begins="read"))
    with pytest.raises(gfo.GfoError, match="all tokens see the prefix"):
        gfo.LocalEvaluator(model, task("read"), prefix)
    with pytest.raises(gfo.GfoError, match="begins differs, read and the start"):
        gfo.ProductSpace(lora(model, begins="read"), SPACES["bias"](model))
    with pytest.raises(gfo.GfoError, match=r"times {soft} or {here}"):
        gfo.Classification(rows, template="{text}{here}{soft}", labels=LABELS)
    encoder = frozen(build("bert", "masked"), "bert", "masked")[0]
    masked = gfo.Classification(rows, template="{text}{here} {mask}", labels=LABELS)
    with pytest.raises(gfo.GfoError, match="each token of 'bert' sees all others"):
        gfo.LocalEvaluator(encoder, masked, lora(encoder, begins="{here}"))


def through_peft(models, family, evaluator, z, folder):
    """The logits [B, V'] that the exported adapter gives, loaded by PEFT, with whole rows of tokens."""
    import peft

    batch = evaluator.task.all_rows("train")
    export(evaluator, z, "peft", folder)
    copied = build(family, **FAMILIES[family])
    copied.load_state_dict(models[family].module.state_dict())
    adapted = peft.PeftModel.from_pretrained(copied, folder)
    wanted = []
    with torch.no_grad():
        for before, after in zip(batch.before, batch.after, strict=True):
            logits = adapted(input_ids=torch.tensor([before + after])).logits[0, -1]
            wanted.append(logits[list(batch.vocabulary)].float())
    return torch.stack(wanted)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_change_of_the_token_that_is_read_is_peft_s_where_all_rows_end_in_it(models, family, tmp_path):
    space = SPACES["lora"](models[family], begins="read")
    z = points(space)[0]
    evaluator = gfo.LocalEvaluator(models[family], task("read"), space)
    batch = evaluator.task.all_rows("train")
    wanted = through_peft(models, family, evaluator, z, tmp_path / "adapter")
    found = evaluator.answers(z[None], batch)[0]
    assert float((found - wanted).abs().max()) <= 1e-4 * float(wanted.std())
    plain = evaluator.answers(np.zeros((1, DIM)), batch)[0]
    assert float((found - plain).abs().max()) > 1e-2 * float(wanted.std())  # control


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "qwen3", "gpt_neox"])
def test_it_is_the_activated_lora_of_peft(models, family, tmp_path):
    """Its logits on the rows, and the space that begins at the adapter."""
    model = models[family]
    space = SPACES["lora"](model, begins="{here}")
    given, z = task("{here}"), points(space)[0]
    evaluator = gfo.LocalEvaluator(model, given, space)
    batch = evaluator.task.all_rows("train")
    wanted = through_peft(models, family, evaluator, z, tmp_path / "adapter")
    found = evaluator.answers(z[None], batch)[0]
    spread = float(wanted.std())
    assert float((found - wanted).abs().max()) <= 1e-4 * spread
    plain = evaluator.answers(np.zeros((1, DIM)), batch)[0]
    assert float((found - plain).abs().max()) > 1e-2 * spread  # control

    start = gfo.LoRASubspace.from_peft(tmp_path / "adapter", model, dim=4)
    again = gfo.LocalEvaluator(model, given, start).answers(np.zeros((1, 4)), batch)[0]
    assert float((again - found).abs().max()) <= 1e-4 * spread
    if family == "llama":
        check_space(start, model)
    with pytest.raises(gfo.GfoError, match=r"template: it has no \{here\}"):
        gfo.LocalEvaluator(model, task("read"), start)
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    other = gfo.Classification(rows, template="Say {text}{here} good", labels=LABELS)
    with pytest.raises(gfo.GfoError, match="the adapter acts from"):
        gfo.LocalEvaluator(model, other, start)


def test_what_has_no_place_in_a_format_is_told(models, tmp_path):
    model, out = models["llama"], tmp_path / "out"
    lora = gfo.LocalEvaluator(model, task("{here}"), SPACES["lora"](model, begins="{here}"))
    z = points(lora.space)[0]
    with pytest.raises(gfo.GfoError, match=r"weights change all tokens, this those from \{here\} on; search"):
        export(lora, z, "merged", out)
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    open_ended = gfo.Classification(rows, template="Say {text}", labels=LABELS)
    read = gfo.LocalEvaluator(model, open_ended, SPACES["lora"](model, begins="read"))
    with pytest.raises(gfo.GfoError, match="and the last one differs"):
        export(read, z, "peft", out)
    again = gfo.Classification(rows, template="{text}{here} It {text} It", labels=LABELS)
    with pytest.raises(gfo.GfoError, match=r"has again behind \{here\}"):
        export(gfo.LocalEvaluator(model, again, lora.space), z, "peft", out)
    varied = gfo.Classification(rows, template="Say{here} {text}", labels=LABELS)
    with pytest.raises(gfo.GfoError, match=r"behind \{here\} there are none"):
        export(gfo.LocalEvaluator(model, varied, lora.space), z, "peft", out)
    ia3 = gfo.Scaling(model, dim=4, begins="{here}")
    with pytest.raises(gfo.GfoError, match="IA3 changes all tokens, this those from a place on"):
        export(gfo.LocalEvaluator(model, task("{here}"), ia3), z, "peft", out)
    assert not out.exists()


@pytest.mark.parametrize("make", [gfo.LoRASubspace, gfo.BiasSpace, gfo.Adapter, gfo.Scaling])
def test_it_is_a_space(models, make):
    for begins in ("{here}", "read"):
        check_space(make(models["llama"], dim=8, begins=begins), models["llama"])
