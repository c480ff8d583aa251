"""Tokens of endings counted by hand, and endings that a model cannot be asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from changes import DIM, Changes, P
from continuations import Continuations, difference, evaluator_of, found_by, tokenized

from gfo import GfoError, LocalEvaluator, freeze
from gfo.evaluation.endings import with_endings
from gfo.evaluation.plan import plan

K = 4
TEXT_FIRST = "Review: {text}\n{soft}Sentiment:"
PROMPT_FIRST = "{soft}Review: {text}\nSentiment:"
TEXTS = ["good", "the food was good", "bad"]
# Tokens computed behind the rows: 10, 11 and their follower 12 once, 13; none; all but the last of 6.
ENDINGS = [[(10, 11, 12, 9), (10, 11, 8), (10, 7), (13, 7), (6,), (10, 11, 12)], [(5,), (6,)], [(4,) * 6]]
BEHIND = [4, 0, 5]
ALONE = [[3, 2, 1, 1, 0, 2], [0, 0], [5]]


def z(candidates=K):
    return np.random.default_rng(0).standard_normal((candidates, DIM))


def make(model, slots, template, *, first=0, endings=ENDINGS, **options):
    rows = tokenized(model, template, list(zip(TEXTS, endings, strict=True)))
    return evaluator_of(model, Changes(model, slots, first=first), rows, "{soft}" in template, **options)


def needed(evaluator, step=1):
    """Tokens of a step behind the first."""
    evaluator(z(), 0)
    cost = evaluator(z(), step).cost
    return cost.forward_tokens, cost.tokens_needed


def test_text_first_by_hand(tiny):
    model = tiny("llama", start=True)
    evaluator = make(model, ["prompt"], TEXT_FIRST)
    texts = sum(len(model.encode(f"Review: {text}\n", start=True)) for text in TEXTS)
    trunk = P + len(model.encode("Sentiment:"))
    each = K * (3 * trunk + sum(BEHIND))
    assert evaluator(z(), 0).cost.tokens_needed == texts + each
    computed, wanted = needed(evaluator)
    assert wanted == each
    assert each <= computed <= 1.25 * each  # padding: trunks of 12, 8 and 13 tokens or so
    assert needed(make(model, ["prompt"], TEXT_FIRST, endings=[[(5,)]] * 3))[1] == K * 3 * trunk


def test_prompt_first_by_hand(tiny):
    """One row of tokens, packed: no padding."""
    model = tiny("llama", start=True)
    rows = [model.encode(f"Review: {text}\nSentiment:") for text in TEXTS]
    common = next(i for i in range(99) if len({row[i] for row in rows}) > 1)
    own = P + common + sum(map(len, rows)) - 3 * common + sum(BEHIND)
    assert needed(make(model, ["prompt"], PROMPT_FIRST)) == (K * own, K * own)


def test_upper_layers_by_hand(tiny):
    """A token that goes through two of three layers is two thirds of a token; below, all is computed once."""
    model = tiny("llama", start=True)
    rows = sum(len(model.encode(f"{text} It was")) for text in TEXTS)
    evaluator = make(model, ["lora"], "{text} It was", first=1)
    tokens = 1 + rows + sum(BEHIND)  # the start token is common
    assert evaluator(z(), 0).cost.tokens_needed == -(-(tokens + K * 2 * tokens) // 3)
    assert needed(evaluator)[1] == -(-K * 2 * tokens // 3)


def test_without_reuse_every_ending_has_a_row_of_its_own(tiny):
    model = tiny("llama", start=True)
    evaluator = make(model, ["prompt"], TEXT_FIRST, reuse=False)
    behind = P + len(model.encode("Sentiment:"))
    rows = [len(model.encode(f"Review: {text}\n", start=True)) + behind for text in TEXTS]
    whole = sum(row + more for row, alone in zip(rows, ALONE, strict=True) for more in alone)
    assert needed(evaluator)[1] == K * whole


@pytest.mark.parametrize("first", [1, 2])
def test_padding_of_documents_stays_under_five_percent(tiny, first):
    """Of windows of 100 to 500 tokens, the shorter of which lie in one row with others."""
    model = tiny("llama", max_position_embeddings=1024)
    lengths = np.random.default_rng(0).integers(100, 500, 24)
    rows = [((1, 3 + i), (), ((5,) * int(n),)) for i, n in enumerate(lengths)]
    evaluator = evaluator_of(model, Changes(model, ["lora"], first=first), rows, False)
    computed, wanted = needed(evaluator)
    tokens = sum(map(int, lengths))  # one token of each row, and n - 1
    # the start once by each candidate, if its keys in a layer above are another's
    assert wanted == -(-K * (2 * (1 + tokens) if first == 1 else tokens) // 3)
    assert wanted <= computed <= 1.05 * wanted
    assert len(lengths) * max(lengths) > 1.5 * sum(lengths)  # control


def test_masks_share_one_pass(tiny):
    model = tiny("bert")
    rows = tokenized(model, "{text}{soft} It was {masks}.", [(text, [], 2) for text in TEXTS])
    rows = [(left, right, tuple((5 + i, 9) for i in range(4))) for left, right, _ in rows]
    space = Changes(model, ["prompt"])
    tokens = sum(len(left) + P + len(right) for left, right, _ in rows)
    assert needed(evaluator_of(model, space, rows, True))[1] == K * tokens
    assert needed(evaluator_of(model, space, rows, True, reuse=False))[1] == 4 * K * tokens  # control


@pytest.mark.parametrize("encoder_family", ["t5", "bart"], indirect=True)
@pytest.mark.parametrize("first", [0, 3, 4])
def test_the_encoder_runs_once_whatever_the_number_of_endings(tiny, encoder_family, first):
    model = tiny(encoder_family)
    seen = {"encoder": 0, "keys": 0, "decoder": 0}

    def counting(name):
        def hook(module, args, output):
            seen[name] += (output if isinstance(output, torch.Tensor) else output[0]).shape[:-1].numel()

        return hook

    name = "EncDecAttention.k" if encoder_family == "t5" else "encoder_attn.k_proj"
    keys = next(m for n, m in model.module.named_modules() if n.endswith(name))
    handles = [
        model.stacks[0].layers[-1].register_forward_hook(counting("encoder")),
        keys.register_forward_hook(counting("keys")),
        model.stacks[1].layers[-1].register_forward_hook(counting("decoder")),
    ]
    try:
        evaluator = make(model, ["scale"], "{text}: it was", first=first)
        rows = sum(len(model.encode(f"{text}: it was", start=True, end=True)) for text in TEXTS)
        assert min(model.widest, model.kept) > 0  # measured once, by passes of their own, as is this
        model.reads_as_before(evaluator.space.decode(torch.from_numpy(z())))
        seen.update(dict.fromkeys(seen, 0))  # those passes, and those that the evaluator compared
        cost = evaluator(z(), 0).cost
    finally:
        for handle in handles:
            handle.remove()
    times = K if first == 0 else 1
    assert seen["encoder"] == seen["keys"] == times * cost_of_rows(evaluator)
    forced, decoder = sum(map(sum, ALONE)), model.stacks[1].size
    below = max(0, first - 3)
    layers = (rows * first + K * rows * (model.layers - first)) + forced * (below + K * (decoder - below))
    assert cost.tokens_needed == -(-layers // model.layers)
    assert seen["decoder"] >= K * (len(TEXTS) + forced)
    assert cost.forward_tokens >= cost.tokens_needed


def cost_of_rows(evaluator):
    """Tokens of the layout's rows, padding included."""
    (layout,) = evaluator._store.values()
    return sum(rows.ids.numel() for rows, _ in layout._laid)


def test_a_tree_as_large_as_the_passes(tiny):
    """Endings are spread over several trees where one would not fit into a pass, and the trunk with them."""
    model = tiny("llama")
    rows = tokenized(model, "{text} is", [("good", ENDINGS[0])])
    batch = Continuations(rows, False).all_rows("train")
    trunk = len(rows[0][1]) + len(rows[0][0])
    sizes = {}
    for most in (0, trunk + 2, trunk + 3, 100):
        todo = with_endings(plan(batch, 0, everywhere=True), batch, model, most)
        assert todo.branches == tuple(tree.row for tree in todo.trees)
        assert sorted({a for tree in todo.trees for _, _, a in tree.wanted}) == list(range(6))
        sizes[most] = [len(row) - trunk for row in todo.branches]
    assert sorted(sizes[0]) == sorted(ALONE[0])
    assert sizes[trunk + 2] == [2, 3, 1]  # 10 and 11; then 10, 11 and 12, which are more by themselves; 13
    assert sizes[trunk + 3] == [3, 1]
    assert sizes[100] == [4]


def test_a_tree_by_hand(tiny):
    rows = [((1, 2), (), ((10, 11, 9), (10, 12), (7,), (13, 5, 6)))]
    batch = Continuations(rows, False).all_rows("train")
    (tree,) = with_endings(plan(batch, 0, everywhere=True), batch, tiny("llama"), 100).trees
    assert tree.row == (1, 2, 10, 11, 13, 5)
    assert tree.depth == (0, 1, 2, 3, 2, 3)
    assert tree.end == (6, 6, 4, 4, 6, 6)
    wanted = [(1, 10, 0), (2, 11, 0), (3, 9, 0), (1, 10, 1), (2, 12, 1), (1, 7, 2), (1, 13, 3), (4, 5, 3)]
    assert sorted(tree.wanted) == sorted([*wanted, (5, 6, 3)])
    assert tree.places == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("family", "row", "message"),
    [
        ("llama", ((3,), (4,), ((),)), r"train row 1: ending 1 has no tokens; give it some text"),
        ("llama", ((), (), ((3, 4),)), r"train row 1: no token stands in front of its endings; begin"),
        ("bert", ((3,), (2, 2), ((5,),)), r"train row 1: ending 1 has 1 tokens for 2 masks; write one mask"),
        ("bert", ((3,), (4,), ((5,),)), r"ending 1 has 1 tokens for 0 masks"),
        ("llama", ((3,) * 100, (), ((5,), (4,) * 29)), r"train row 1 has 129 tokens"),
        ("bart", ((3,), (), ((5,), (4,) * 128)), r"train row 1 has 129 tokens"),
    ],
)
def test_endings_that_cannot_be_asked_for(tiny, family, row, message):
    space = Changes(tiny(family), ["lora"])
    with pytest.raises(GfoError, match=message) as error:
        evaluator_of(tiny(family), space, [row], False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("family", "row"),
    [
        ("llama", ((3,) * 100, (), ((5,), (4,) * 28))),
        ("bart", ((3,), (), ((5,), (4,) * 127))),
        ("t5", ((3,), (), ((5,), (4,) * 300))),
    ],
)
def test_the_longest_ending_that_fits(tiny, family, row):
    found = found_by(tiny(family), Changes(tiny(family), ["lora"]), [row], False, z())
    assert bool(found.isfinite().all())


def test_a_sentence_encoder_has_no_likelihoods(tiny):
    bert = tiny("bert")
    module = transformers.BertModel(bert.module.config)
    model = freeze(module, bert.tokenizer, "tiny-sentences")
    with pytest.raises(GfoError, match=r"'tiny-sentences' is a sentence encoder, which gives texts no likel"):
        evaluator_of(model, Changes(model, ["lora"]), [((3,), (), ((4,),))], False)


def test_endings_of_other_rows(tiny):
    task = Continuations([((3,), (), ((4,),)), ((5,), (), ())], False)
    assert LocalEvaluator(tiny("llama"), task, Changes(tiny("llama"), ["lora"]))(z(), 0).loss.shape == (K,)
    object.__setattr__(task.all_rows("train"), "endings", (((4,),),))
    with pytest.raises(GfoError, match=r"train: endings of 1 rows for 2; give each row its own"):
        LocalEvaluator(tiny("llama"), task, Changes(tiny("llama"), ["lora"]))


def test_rows_without_endings(tiny):
    model = tiny("llama")
    none = [((3, 4), (), ()), ((5,), (), ())]
    assert found_by(model, Changes(model, ["lora"]), none, False, z()).shape == (K, 2, 0)
    one = [none[0], ((5,), (), ((6, 7),))]
    found = found_by(model, Changes(model, ["lora"]), one, False, z())
    assert bool((found[:, 0] == -torch.inf).all())
    assert difference(found[:, 1:], found_by(model, Changes(model, ["lora"]), one[1:], False, z())) < 5e-5
