"""A resumed run of a model counts and rounds as the uninterrupted one, whatever memory is free by then."""

import math
from contextlib import contextmanager

import pytest

import gfo

ROWS = [
    {"text": f"the food {'abcdefghijkl'[n]} was good " * (1 + n % 4), "label": "a" if n % 2 else "b"}
    for n in range(12)
]
LABELS = {"a": "good", "b": "bad"}
TEXT_FIRST, PROMPT_FIRST = "Review: {text}\n{soft}Sentiment:", "{soft}Review: {text}\nSentiment:"


def soft(model):
    return gfo.SoftPrompt(model, tokens=3, dim=10, alpha=2.0)


def upper(model):
    return gfo.LoRASubspace(model, 10, layers="upper")


def tune(tiny, template, space, batch_size, *, family="llama", steps, memory=None, **options):
    model = tiny(family)
    task = gfo.Classification(
        ROWS[:8], ROWS[8:], template=template, labels=LABELS, batch_size=batch_size, seed=3
    )
    budget = gfo.Budget(evaluations=10 * steps)
    return gfo.tune(
        model, task, space(model), budget=budget, progress=False, dev_every=2, memory=memory, **options
    )


@contextmanager
def passes(model):
    """The shape [rows, tokens, D] of every forward pass, as it enters the last layer."""
    seen = []
    last = model.stacks[0].layers[-1]
    handle = last.register_forward_hook(lambda layer, inputs, out: seen.append(tuple(inputs[0].shape)))
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize(
    ("template", "space"),
    [(TEXT_FIRST, soft), (PROMPT_FIRST, soft), (PROMPT_FIRST.replace("{soft}", ""), upper)],
)
def test_resumed_is_uninterrupted(tiny, tmp_path, template, space, batch_size):
    few = 200 * 10**3  # bytes: small passes, for which there is no reason when the run goes on
    with passes(tiny("llama")) as small:
        whole = tune(tiny, template, space, batch_size, steps=9, memory=few)
    tune(tiny, template, space, batch_size, steps=5, memory=few, out=tmp_path)
    with passes(tiny("llama")) as again:
        resumed = tune(tiny, template, space, batch_size, steps=9, out=tmp_path, resume=True)
    assert resumed.evaluator.tokens_at_once == whole.evaluator.tokens_at_once
    assert resumed.history.trajectory() == whole.history.trajectory()  # with tokens counted
    assert resumed.z.tobytes() == whole.z.tobytes()
    costs = [(r.scoring.candidates, r.scoring.forward_tokens) for r in (whole, resumed)]
    assert costs[0] == costs[1]
    with passes(tiny("llama")) as large:  # control: nothing but what was recorded makes the passes small
        ample = tune(tiny, template, space, batch_size, steps=9)
    assert ample.evaluator.tokens_at_once > whole.evaluator.tokens_at_once
    assert set(again) <= set(small)
    assert max(map(math.prod, large)) > 2 * max(map(math.prod, small))


def test_other_pieces_are_refused(tiny, tmp_path):
    tune(tiny, TEXT_FIRST, soft, None, steps=3, out=tmp_path)
    more = {"steps": 5, "out": tmp_path, "resume": True}

    def refused(words, template=TEXT_FIRST, space=soft, batch_size=None, **options):
        with pytest.raises(gfo.GfoError, match=words) as error:
            tune(tiny, template, space, batch_size, **more, **options)
        assert "\n" not in str(error.value)

    refused("seed = 0, not 1", seed=1)
    refused("optimizer = cma, not snes", optimizer="snes")
    refused("options.sigma0 = None, not 0.1", options={"sigma0": 0.1})
    refused("model = tiny-llama, not tiny-gpt2", family="gpt2")
    refused("task.batch_size = None, not 4", batch_size=4)
    refused("task.template = ", template=TEXT_FIRST.replace("Review", "Text"))
    refused("space.alpha = 2.0, not 1.0", space=lambda m: gfo.SoftPrompt(m, tokens=3, dim=10, alpha=1.0))
    refused("space.seed = 0, not 9", space=lambda m: gfo.SoftPrompt(m, tokens=3, dim=10, alpha=2.0, seed=9))
    assert len(tune(tiny, TEXT_FIRST, soft, None, **more).history) == 5
