"""The evaluator's promise for encoders and encoder-decoders: the logits are those of the slow way."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import transformers
from changes import DIM, Changes, changed_module, hook_prompts, layer_names

from gfo import Classification, GfoError, LocalEvaluator, SoftPrompt, freeze

K = 3
TOLERANCE = 5e-5
LABELS = {"bad": " terrible", "good": " great"}
TEXTS = ["a", "a great joy from the first minute to the last", "bad!", "the food was good", "not good"]
ROWS = [{"text": t, "label": v} for t, v in zip(TEXTS, ["good", "good", "bad", "good", "bad"], strict=True)]
# name -> (slots, lowest layer changed, layer not changed any more)
WORKLOADS = {
    "prompt": (["prompt"], 0, None),
    "prompt and lora": (["prompt", "lora", "scale"], 0, None),
    "lora": (["lora"], 0, None),
    "lora-upper": (["lora", "bias"], 1, None),
    "adapter": (["adapter"], 0, None),
    "bank and lora": (["bank", "lora"], 0, None),
    "deep-prompt-upper": (["layer_prompt"], 1, 3),
    "lora in the last layer": (["lora"], -1, None),
}
DECODER_WORKLOADS = {
    "decoder, cross-attention too": (["lora"], 3, None),
    "decoder, outputs": (["scale"], 3, None),
    "decoder, chosen weights": (["bank"], 3, None),
    "decoder, upper": (["scale", "bias"], 4, None),
}


def points(seed=0):
    return np.random.default_rng(seed).standard_normal((K, DIM))


def template_of(model, prompt):
    soft = "{soft}" if prompt else ""
    return (
        f"Review: {{text}} {soft} It was {{mask}}." if model.mask else f"Review: {{text}}\n{soft}Sentiment:"
    )


@torch.no_grad()
def slow_logits(model, space, template, z):
    """[K, B, V'], one candidate and one row at a time, by the stock forward pass with its full head."""
    words = [model.encode(word)[0] for word in LABELS.values()]
    before, soft, after = template.replace("{mask}", model.mask or "").partition("{soft}")
    out = torch.empty(len(z), len(ROWS), len(words))
    for k in range(len(z)):
        delta = space.decode(torch.from_numpy(z[k : k + 1]))
        module = changed_module(model, delta)
        for b, row in enumerate(ROWS):
            left = [1, *model.encode(before.format(**row))]
            right = [*model.encode(after.format(**row)), 1]
            for layer in layer_names(model):
                module.get_submodule(layer)._forward_pre_hooks.clear()
            hook_prompts(module, layer_names(model), delta, len(left))
            pieces = [model.embed(torch.tensor(left))]
            pieces += [delta.prompt[0]] if soft else []
            embeds = torch.cat([*pieces, model.embed(torch.tensor(right))])[None]
            if model.mask:
                at = (left + [0] * (embeds.shape[1] - len(left) - len(right)) + right).index(model.read_token)
                out[k, b] = module(inputs_embeds=embeds).logits[0, at, words]
            else:
                answer = [[0]] if model.config.model_type == "t5" else [[2]]
                found = module(inputs_embeds=embeds, decoder_input_ids=torch.tensor(answer))
                out[k, b] = found.logits[0, -1, words]
    return out


def all_logits(model, space, template, z, **options):
    task = Classification(ROWS, template=template, labels=LABELS)
    evaluator = LocalEvaluator(model, task, space, **options)
    return evaluator.answers(z, evaluator.task.all_rows("train"))


def difference(a, b):
    assert a.shape == b.shape
    return float((a - b).abs().max())


def check(model, workload):
    slots, first, last = workload
    first = model.layers - 1 if first < 0 else first
    space, z = Changes(model, slots, first=first, last=last), points()
    template = template_of(model, {"prompt", "layer_prompt"} & set(slots))
    expected = slow_logits(model, space, template, z)
    ways = {
        "at once": all_logits(model, space, template, z),
        "one by one": torch.cat([all_logits(model, space, template, z[k : k + 1]) for k in range(K)]),
        "no reuse": all_logits(model, space, template, z, reuse=False),
        **{f"chunks of {n}": all_logits(model, space, template, z, chunk_tokens=n) for n in (16, 50)},
    }
    for name, logits in ways.items():
        assert difference(logits, expected) < TOLERANCE, name
        assert difference(logits, expected.roll(1, 0)) > 1e-3, name  # controls
        assert difference(logits, expected.roll(1, 1)) > 1e-3, name
    other = Changes(model, slots, first=first, last=last, seed=1)
    assert difference(all_logits(model, other, template, z), expected) > 1e-3


@pytest.mark.parametrize("workload", WORKLOADS)
def test_all_ways_equal_the_slow_way(tiny, encoder_family, workload):
    check(tiny(encoder_family), WORKLOADS[workload])


@pytest.mark.parametrize("encoder_family", ["t5", "bart"], indirect=True)
@pytest.mark.parametrize("workload", DECODER_WORKLOADS)
def test_changes_of_the_decoder_alone(tiny, encoder_family, workload):
    check(tiny(encoder_family), DECODER_WORKLOADS[workload])


def test_an_answer_may_begin_with_a_forced_token(tiny):
    """As BART's do: the word behind it is read."""
    module = copy.deepcopy(tiny("bart").module)
    module.generation_config.forced_bos_token_id = 1
    model = freeze(module, tiny("bart").tokenizer)
    space, z, template = SoftPrompt(model, tokens=2, dim=4), np.zeros((1, 4)), "Review: {text}{soft}"
    found = all_logits(model, space, template, z)
    embeds = model.embed(torch.tensor([1, *model.encode(f"Review: {TEXTS[3]}")]))
    embeds = torch.cat([embeds, space.p0, model.embed(torch.tensor([1]))])[None]
    words = [model.encode(word)[0] for word in LABELS.values()]
    with torch.no_grad():
        expected = module(inputs_embeds=embeds, decoder_input_ids=torch.tensor([[2, 1]])).logits[0, -1, words]
    assert difference(found[0, 3], expected) < TOLERANCE
    assert difference(all_logits(tiny("bart"), space, template, z)[0, 3], expected) > 1e-2  # control


@pytest.mark.parametrize("encoder_family", ["t5", "bart"], indirect=True)
def test_the_encoder_runs_once_where_only_the_decoder_changes(tiny, encoder_family):
    model = tiny(encoder_family)
    task = Classification(ROWS, template=template_of(model, False), labels=LABELS)
    seen = []
    handle = model.stacks[0].layers[-1].register_forward_hook(lambda m, a, out: seen.append(a[0].shape))
    try:
        decoder = LocalEvaluator(model, task, Changes(model, ["scale"], first=3))
        both = LocalEvaluator(model, task, Changes(model, ["scale"], first=2))
        assert min(model.widest, model.kept) > 0  # measured once, by passes of their own
        seen.clear()
        for step in range(3):
            decoder(points(), step)
        once = len(seen)
        for step in range(3):
            both(points(), step)
    finally:
        handle.remove()
    assert sum(shape[0] for shape in seen[:once]) == len(ROWS)  # each row once in all steps
    assert sum(shape[0] for shape in seen[once:]) == 3 * K * len(ROWS)  # control


@pytest.mark.parametrize("encoder_family", ["t5", "bart"], indirect=True)
def test_what_an_encoder_decoder_cannot_take(tiny, encoder_family):
    model = tiny(encoder_family)
    task = Classification(ROWS, template="{text}{soft}", labels=LABELS)
    with pytest.raises(GfoError, match=r"layer_prompt in layer 3, but the soft prompt is in the encoder"):
        LocalEvaluator(model, task, Changes(model, ["layer_prompt"], first=3))


def test_the_template_must_fit_the_model(tiny):
    space = SoftPrompt(tiny("bert"), tokens=2, dim=4)
    with pytest.raises(GfoError, match=r"0 times \{mask\}; the model is a masked language model: write"):
        LocalEvaluator(tiny("bert"), Classification(ROWS, template="{text}{soft}", labels=LABELS), space)
    task = Classification(ROWS, template="{text}{soft}{mask}", labels=LABELS)
    with pytest.raises(GfoError, match=r"1 times \{mask\}; the model reads the answer behind the text"):
        LocalEvaluator(tiny("llama"), task, SoftPrompt(tiny("llama"), tokens=2, dim=4))


def test_the_longest_row_of_a_model_fits_and_one_more_does_not(tiny):
    """RoBERTa's positions begin behind its padding token."""
    for family, most in (("bert", 128), ("roberta", 127)):
        model = tiny(family)
        assert model.context_length == most
        fixed = len(model.encode(" It was </s>.", start=True, end=True)) + 2
        for more in (0, 1):
            rows = [{"text": " the" * (most - fixed + more), "label": "good"}]
            task = Classification(rows, template="{text}{soft} It was {mask}.", labels=LABELS)
            space = SoftPrompt(model, tokens=2, dim=4)
            if more:
                with pytest.raises(GfoError, match=f"train row 1 has {most + 1} tokens"):
                    LocalEvaluator(model, task, space)
            else:
                assert np.isfinite(LocalEvaluator(model, task, space)(np.zeros((1, 4)), 0).loss).all()


@pytest.fixture(scope="module")
def sentence_encoder(tiny):
    bert = tiny("bert")
    module = transformers.BertModel(bert.module.config)
    module.load_state_dict(bert.module.bert.state_dict(), strict=False)
    return freeze(module, bert.tokenizer, "tiny-sentences")


@torch.no_grad()
def test_sentences_are_compared_with_label_texts(sentence_encoder):
    model = sentence_encoder
    assert model.reads == "sentence"
    space, z = Changes(model, ["prompt", "lora"]), points()
    found = all_logits(model, space, "{text}{soft} indeed", z)
    expected = torch.empty_like(found)
    for k in range(K):
        delta = space.decode(torch.from_numpy(z[k : k + 1]))
        module = changed_module(model, delta)
        for b, row in enumerate(ROWS):
            left, right = [1, *model.encode(row["text"])], [*model.encode(" indeed"), 1]
            parts = [model.embed(torch.tensor(left)), delta.prompt[0], model.embed(torch.tensor(right))]
            mean = module(inputs_embeds=torch.cat(parts)[None]).last_hidden_state[0].mean(0)
            for v, word in enumerate(LABELS.values()):
                ids = torch.tensor([[1, *model.encode(word), 1]])
                label = model.module(input_ids=ids).last_hidden_state[0].mean(0)
                expected[k, b, v] = torch.cosine_similarity(mean, label, dim=0) / 0.05
    assert difference(found, expected) < 1e-4
    assert difference(found, expected.roll(1, 0)) > 1e-2
    assert difference(found, expected.roll(1, 1)) > 1e-2
    assert difference(found, expected.flip(2)) > 1e-2
