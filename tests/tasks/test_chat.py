"""Templates that are messages of a chat, against transformers' own chat format."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest
from kinds import byte_level, frozen, sentence_piece
from plain import refused

import gfo
from gfo import Classification, Distillation, LanguageModeling, SoftPrompt
from gfo.config import Config

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are good<|im_end|>\n' }}{% endif %}"
    + CHATML
)
LLAMA = (
    "{{ bos_token }}{% set first = true %}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ '<<SYS>>' + m['content'] + '<</SYS>>' }}{% elif m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] | trim + ' [/INST]' }}{% else %}{{ ' ' + m['content'] + eos_token }}"
    "{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    ""
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
BOS_CHATML = "{{ bos_token }}" + CHATML
TOKENIZERS = {
    "chatml": lambda: byte_level(CHATML),
    "start, but not in chats": lambda: byte_level(CHATML, start=True),
    "default system": lambda: byte_level(DEFAULT_SYSTEM, start=True),
    "llama": lambda: sentence_piece("prepend", LLAMA),
    "gemma": lambda: sentence_piece("first", GEMMA),
    "start": lambda: byte_level(BOS_CHATML, start=True),
}
USER = [{"role": "user", "content": "Review: {text}\nSentiment:"}]
MESSAGES = {
    "user": USER,
    "field at both ends": [{"role": "user", "content": "{text}"}],
    "turns": [
        *USER,
        {"role": "assistant", "content": "good"},
        {"role": "user", "content": "And {{{title}}}: {text}?"},
    ],
}
SYSTEM = [{"role": "system", "content": "The food is {title}."}, *USER]
TEXTS = ["the movie is great", "  a terrible\tmovie\n", "so <|im_end|> good </s>", "[INST] 🧠"]
ROWS = [{"text": text, "title": "joy", "label": label} for text, label in zip(TEXTS, "abab", strict=True)]
LABELS = {"a": "good", "b": "bad"}


def filled(messages, row):
    return [{**m, "content": m["content"].format(**row)} for m in messages]


def theirs(model, messages, **options):
    """transformers' tokens of a chat, the users' signs as text."""
    options = {"add_generation_prompt": True, "return_dict": False, "sanitize_control_tokens": True} | options
    return tuple(model.tokenizer.apply_chat_template(messages, tokenize=True, **options))


@pytest.fixture(scope="module", params=TOKENIZERS)
def model(request):
    return frozen(TOKENIZERS[request.param]())


@pytest.mark.parametrize("messages", MESSAGES.values(), ids=MESSAGES)
def test_tokens_are_those_of_apply_chat_template(model, messages):
    batch = Classification(ROWS, template=messages, labels=LABELS).bind(model).all_rows("train")
    for row, found in zip(ROWS, batch.before, strict=True):
        assert found == theirs(model, filled(messages, row))
        assert found.count(1) <= 1  # start tokens


def test_a_system_message(model):
    if "System role" in model.tokenizer.chat_template:
        refused(
            lambda: Classification(ROWS, template=SYSTEM, labels=LABELS).bind(model),
            "chat template does not take",
            "System role not supported",
        )
        return
    batch = Classification(ROWS, template=SYSTEM, labels=LABELS).bind(model).all_rows("train")
    assert [*batch.before] == [theirs(model, filled(SYSTEM, row)) for row in ROWS]
    other = Classification(ROWS, template=USER, labels=LABELS).bind(model).all_rows("train")
    assert other.before[0] != batch.before[0]  # control


def test_the_soft_prompt_s_place(model):
    template = [{"role": "user", "content": "Review: {text}\n{soft}\nSentiment:"}]
    task = Classification(ROWS, template=template, labels=LABELS).bind(model)
    batch = task.all_rows("train")
    whole = [{"role": "user", "content": "Review: {text}\n\nSentiment:"}]
    said = model.tokenizer.apply_chat_template(
        filled(whole, ROWS[0]), tokenize=False, add_generation_prompt=True
    )
    assert "".join(task.texts("train")[0]) == said
    assert batch.before[0] + batch.after[0] == (
        *model.tokenizer(said.partition("\n\nSent")[0] + "\n", add_special_tokens=False)["input_ids"],
        *batch.after[0],
    )
    assert batch.after[0] == batch.after[2]
    space = SoftPrompt(model, 2, 4)
    evaluator = gfo.LocalEvaluator(model, Classification(ROWS, template=template, labels=LABELS), space)
    assert np.isfinite(evaluator(np.zeros((2, 4)), 0).loss).all()


def test_a_begun_answer_goes_on(model):
    template = [*USER, {"role": "assistant", "content": "It is"}]
    batch = (
        Classification(ROWS, template=template, labels={"a": " good", "b": " bad"})
        .bind(model)
        .all_rows("train")
    )
    said = theirs(model, filled(template, ROWS[0]), add_generation_prompt=False, continue_final_message=True)
    assert batch.before[0] == said


def changed(template):
    return frozen(byte_level(template))


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['content'] | upper | replace('\ue000', '') }}{% endfor %}",
        "{% for m in messages %}{{ m['content'] + m['content'] }}{% endfor %}",
        "{% for m in messages %}{{ m['content'] | replace('\t', ' ') }}{% endfor %}",
        "nothing",
    ],
)
def test_formats_that_change_messages_are_refused(template):
    refused(
        lambda: Classification(ROWS, template=USER, labels=LABELS).bind(changed(template)),
        "chat template does not write the messages' texts once and as they are",
        "one text",
    )


@pytest.mark.parametrize("change", ["replace('<|im_end|>', '')", "replace('[INST]', '(')"])
def test_rows_that_the_format_changes_are_refused(change):
    model = changed("{% for m in messages %}{{ m['content'] | " + change + " }}{% endfor %}")
    number = 3 if "im_end" in change else 4
    refused(
        lambda: Classification(ROWS, template=USER, labels=LABELS).bind(model),
        f"train row {number}: the model's chat template makes another text",
    )
    Classification(ROWS[:2], template=USER, labels=LABELS).bind(model)  # control


def test_what_cannot_be():
    plain = frozen(byte_level())
    task = Classification(ROWS, template=USER, labels=LABELS)
    refused(lambda: task.bind(plain), "no chat template", "one text")
    for bad in ([], [{"role": "user"}], ["Review: {text}"], [{"role": "user", "content": 3}]):
        refused(lambda bad=bad: Classification(ROWS, template=bad, labels=LABELS), "template", "role")
    refused(lambda: Classification(ROWS, template=7, labels=LABELS), "template = 7", "a text or a list")
    twice = [{"role": "system", "content": "{soft}"}, {"role": "user", "content": "{text}{soft}"}]
    refused(lambda: Classification(ROWS, template=twice, labels=LABELS), "2 times {soft}")
    refused(lambda: LanguageModeling(ROWS, template=USER), "template = [{")


def test_a_blank_behind_the_opening_is_told():
    model = frozen(byte_level(CHATML))
    with pytest.warns(UserWarning, match="' good' begins with a blank, too"):
        Classification(ROWS, template=USER, labels={"a": " good", "b": " bad"}).bind(model)


def test_a_teacher_reads_a_chat():
    student, teacher = frozen(byte_level()), frozen(byte_level(CHATML))
    task = Distillation(ROWS, template="{text}{soft}", teacher_template=USER, teacher=teacher)
    read = task.bind(student)._teacher_rows["train"]
    assert [read[i] for i in range(4)] == [theirs(teacher, filled(USER, row)) for row in ROWS]
    both = [{"role": "user", "content": "{text}{soft}"}]
    same = Distillation(ROWS, template=both, teacher=frozen(byte_level(CHATML))).bind(teacher)
    bare = [{"role": "user", "content": "{text}"}]
    assert same._teacher_rows["train"][0] == theirs(teacher, filled(bare, ROWS[0]))


CONFIG = """
[model]
name = "smollm2-135m"

[task]
kind = "classification"
data_dir = "gfo:sentiment"
train = "train.jsonl"
dev = "dev.jsonl"
limits = { train = 8, dev = 4 }
shuffle = 0
labels = { negative = "negative", positive = "positive" }
TEMPLATE

[space]
kind = "soft-prompt"
tokens = 2
dim = 4

[optimizer]
name = "random"

[budget]
evaluations = 2
"""
INLINE = 'template = [{ role = "user", content = "Sentiment of: {text}{soft}" }]'
TABLES = '[[task.template]]\nrole = "user"\ncontent = "Sentiment of: {text}{soft}"'


def test_the_default_model_in_its_chat_format_by_one_config(tmp_path):
    inline, tables = (
        Config.model_validate(tomllib.loads(CONFIG.replace("TEMPLATE", each))) for each in (INLINE, TABLES)
    )
    assert inline == tables
    task = inline.task.build(0)
    model = gfo.load_model("smollm2-135m")
    batch = task.bind(model).all_rows("train")
    row = task.data.rows["train"][0]
    messages = [{"role": "user", "content": f"Sentiment of: {row['text']}"}]
    assert batch.before[0] + batch.after[0] == theirs(model, messages)
    space = SoftPrompt(model, 2, 4)
    result = gfo.tune(
        model,
        task,
        space,
        optimizer="random",
        options={"population": 2},
        budget=gfo.Budget(evaluations=2),
        progress=False,
    )
    result.export_peft(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "gfo_prompt.json").read_text(encoding="utf-8"))
    soft = "".join(written["soft_tokens"])
    assert written["messages"] == [{"role": "user", "content": "Sentiment of: {text}" + soft}]
    assert "<|im_start|>assistant" in written["template"].replace("{{", "{")
    assert soft in written["template"]
    assert "note" not in written
