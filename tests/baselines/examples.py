"""A separable task of six rows for the tests of baselines, and tokens counted by hand."""

from __future__ import annotations

from gfo import Classification

LABELS = {"bad": " terrible", "good": " great"}
ROWS = [
    {"text": text, "label": label}
    for text, label in [
        ("a great joy", "good"),
        ("a terrible waste", "bad"),
        ("the food was good", "good"),
        ("the service was bad", "bad"),
        ("great, great", "good"),
        ("bad and short", "bad"),
    ]
]
TEXT_FIRST, PROMPT_FIRST = "Review: {text}\n{soft}Sentiment:", "{soft}Review: {text}\nSentiment:"
PLAIN = "Review: {text}\nSentiment:"


def make_task(template=TEXT_FIRST, splits=("dev", "test"), rows=ROWS, **options):
    return Classification(rows, template=template, labels=LABELS, **dict.fromkeys(splits, rows), **options)


def whole_rows(task, model, split="train"):
    """Token ids of each row."""
    batch = task.bind(model).all_rows(split)
    return [before + after for before, after in zip(batch.before, batch.after, strict=True)]


def common_tokens(rows):
    """How many first tokens all rows share."""
    return next(i for i in range(99) if len({row[i] for row in rows}) > 1)


def tokens_computed(rows):
    """Tokens of a forward pass over all rows, their common first ones once."""
    shared = common_tokens(rows)
    return shared + sum(len(row) - shared for row in rows)
