"""An Endpoint against a scripted server: what it asks, what it makes of the answers, and what errors do."""

from __future__ import annotations

import json
import math
import threading
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from servers_scripted import MODELS, Scripted, sentiment, share

import gfo
from gfo.evaluation.endpoint import EndpointEvaluator
from gfo.evaluation.incomplete import paired_means
from gfo.testing import check_evaluator

ROWS = [{"text": f"film {i}", "label": "positive" if i % 2 else "negative"} for i in range(12)]
TEMPLATE = "Review: {text}\n{soft}\nSentiment:"
CHAT = [{"role": "system", "content": "{soft}"}, {"role": "user", "content": "Review: {text}"}]
LABELS = {"negative": " negative", "positive": " positive"}
SPACE = gfo.Words(["Judge.", "Be short.", "Think.", "Is it good?"], 2)
Z = np.array([[0, 0], [1, 2], [3, 4], [4, 1], [2, 2.0]])


def endpoint(server, cache=False, **options):
    return gfo.Endpoint(server.url, "small", **{"cache": cache, "timeout": 5.0, **options})


def task(template=TEMPLATE, rows=ROWS, **options):
    return gfo.Classification(rows, template=template, labels=LABELS, **options)


def losses_by_hand(prompts, soft=True):
    """Of candidates by the server's probabilities."""
    found = []
    for prompt in prompts:
        rows = []
        for row in ROWS:
            p = share(f"Review: {row['text']}\n{prompt}\nSentiment:")
            rows.append(-math.log(p if row["label"] == "positive" else 1 - p))
        found.append(np.mean(rows))
    return np.array(found)


def test_losses_of_label_words_are_those_of_the_servers_probabilities():
    with Scripted(sentiment()) as server:
        evaluator = EndpointEvaluator(endpoint(server), task(), SPACE)
        found = evaluator(Z, 0)
    np.testing.assert_allclose(found.loss, losses_by_hand([SPACE.text(z) for z in Z]), rtol=1e-12)
    assert np.ptp(found.loss) > 0.01
    assert found.rows.shape == (5, 12)
    assert found.cost.requests == 61  # and the first row of the check
    assert set(server.paths) == {"/v1/completions"}
    assert server.requests[0]["logprobs"] == 20
    assert found.values["characters"].tolist() == [len(SPACE.text(z)) for z in Z]


def test_a_model_that_would_end_at_once_is_asked_to_go_on():
    with Scripted(sentiment(), ends=True) as server:
        found = EndpointEvaluator(endpoint(server), task(), SPACE)(Z, 0)
    np.testing.assert_allclose(found.loss, losses_by_hand([SPACE.text(z) for z in Z]), rtol=1e-12)
    assert found.cost.requests == 2 * 61


def test_messages_stay_messages_and_blanks_of_words_do_not_count():
    words = {"positive": lambda text: 0.7, " positive": lambda text: 0.1, "Negative": lambda text: 0.2}
    labels = {"negative": "Negative", "positive": " positive"}
    rows = [{"text": "a {b}", "label": "positive"}, {"text": "c", "label": "negative"}]
    with Scripted(words) as server:
        chat = gfo.Classification(rows, template=CHAT, labels=labels)
        found = EndpointEvaluator(endpoint(server), chat, SPACE)(Z[1:2], 0)
    expected = [-math.log(0.8), -math.log(0.2)]
    np.testing.assert_allclose(found.rows[0], expected, rtol=1e-9)
    assert server.requests[-1]["messages"][0] == {"role": "system", "content": "Judge. Be short."}
    assert {"role": "user", "content": "Review: a {b}"} in [body["messages"][1] for body in server.requests]


def test_a_word_of_several_tokens_is_read_token_by_token_and_one_that_is_not_listed_has_the_bound():
    words = {
        " pos": lambda text: 0.5 if text.endswith(":") else 0,
        " no": lambda text: 0.25 if text.endswith(":") else 0,
        "itive": lambda text: 0.5 if text.endswith(" pos") else 0,
        "x": lambda text: 0.125 if text.endswith(" pos") else 0,
    }
    rows = [{"text": "a", "label": "positive"}, {"text": "b", "label": "negative"}]
    with Scripted(words, tokens=lambda text: len(text.replace("positive", "pos itive").split())) as server:
        evaluator = EndpointEvaluator(endpoint(server), task(rows=rows), SPACE)
        with pytest.warns(gfo.GfoWarning, match="3 of 6 words were not among the 20 likeliest"):
            found = evaluator(Z[:1], 0)
    scores = np.array([math.log(0.25), math.log(0.25)])  # the smallest listed; " pos" and then "itive"
    p = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(found.rows[0], [-math.log(p[1]), -math.log(p[0])])
    assert sum(body["prompt"].endswith(" pos") for body in server.requests) == 2 + 1


@pytest.mark.parametrize(("tokens", "expected"), [(1, 0.25), (2, 0.25 * 0.01), (0, 0.25 * 0.01)])
def test_a_word_of_one_token_is_not_read_in_parts(tokens, expected):
    """Where " positive" is one token that is not listed it has the bound, though " pos" is listed.

    Controls: a word of two tokens, and a server that does not count tokens.
    """
    words = {
        " pos": lambda text: 0.5 if text.endswith(":") else 0,
        " negative": lambda text: 0.25 if text.endswith(":") else 0,
        "itive": lambda text: 0.005 if text.endswith(" pos") else 0,
        "x": lambda text: 0.9 if text.endswith(" pos") else 0,
    }
    rows = [{"text": "a", "label": "positive"}]

    def count(text):
        return tokens and len(text.split()) + (tokens - 1) * text.endswith("positive")

    with Scripted(words, tokens=count) as server, warnings.catch_warnings():
        warnings.simplefilter("ignore", gfo.GfoWarning)
        evaluator = EndpointEvaluator(endpoint(server), task(rows=rows), SPACE)
        found = evaluator(Z[:2], 0)
        assert sum(body["prompt"].endswith(" positive") for body in server.requests) == 1  # asked once
    np.testing.assert_allclose(found.rows[0], -math.log(expected / (expected + 0.25)), rtol=1e-9)


def test_options_are_read_off_a_server_that_echoes_prompts():
    rows = [{"q": "one or two", "options": ["red apple", "green pear"], "label": 0}]
    rows.append({"q": "three or four", "options": ["blue", "grey"], "label": 1})
    choice = gfo.MultipleChoice(rows, template="{soft} {q}")
    with Scripted(echo=True) as server:
        found = EndpointEvaluator(endpoint(server), choice, SPACE)(Z[1:2], 0)
    scores = np.array(
        [sum(math.log(share(f" {w}")) for w in option.split()) for option in rows[0]["options"]]
    )
    assert found.rows[0, 0] == pytest.approx(np.logaddexp.reduce(scores) - scores[0])
    rows = [{"q": "one or two", "options": ["x" * 40, "green pear"], "label": 0}]
    choice = gfo.MultipleChoice(rows, template="{soft} {q}")
    said = r"no log-probabilities of a prompt's.*gfo.Classification of the"
    with Scripted(sentiment()) as server, pytest.raises(gfo.GfoError, match=said):
        EndpointEvaluator(endpoint(server), choice, SPACE)


def test_generated_answers_with_their_lengths_and_a_weighted_task():
    rows = [{"text": f"t{i}", "target": "yes" if i else "no"} for i in range(4)]
    made = gfo.Generation(rows, template=CHAT, max_tokens=7, stop=["\n", "END"])
    weighted = gfo.Weighted([(made, 1.0), (task(), 2.0)])
    with Scripted(sentiment(), lambda text: "yes it\nis") as server:
        evaluator = EndpointEvaluator(endpoint(server), made, SPACE)
        scores = evaluator.score(Z[:2], "train")
        assert evaluator.answers(Z[:1], evaluator.task.all_rows("train"))[0][0] == ("yes", " it", "\nis")
        joint = EndpointEvaluator(endpoint(server), weighted, SPACE)(Z, 0)
    assert scores.metrics["answer_tokens"].tolist() == [2.0, 2.0]
    assert scores.metrics["exact_match"].tolist() == [0.0, 0.0]
    asked = server.requests[0]
    assert (asked["max_tokens"], asked["stop"], asked["temperature"]) == (7, ["\n", "END"], 0.0)
    expected = 1.0 + 2 * losses_by_hand([SPACE.text(z) for z in Z])
    np.testing.assert_allclose(joint.loss, expected, rtol=1e-12)


def test_the_contract_of_evaluators(tmp_path):
    with Scripted(sentiment()) as server:
        made = task(dev=[{"text": "play", "label": "positive"}])
        check_evaluator(
            lambda: EndpointEvaluator(endpoint(server, tmp_path / "a"), made, SPACE),
            Z,
            splits=("train", "dev"),
        )


def test_thirteen_percent_of_errors_lose_no_candidate(tmp_path, monkeypatch):
    """429 with Retry-After, 500, 503, answers that do not come and connections that are cut."""
    monkeypatch.setattr("gfo.models.server.sending.FIRST_WAIT", 0.02)
    rows = [{"text": f"film {i}", "label": "positive" if i % 2 else "negative"} for i in range(16)]
    z = np.array([[i, j] for i in range(5) for j in range(5)], dtype=float)
    with Scripted(sentiment(), errors=0.13, stalled=3.0) as server:
        model = endpoint(server, tmp_path / "cache", timeout=2.5)
        found = EndpointEvaluator(model, task(rows=rows), SPACE)(z, 0)
    needed = 16 * len({SPACE.text(point) for point in z})
    assert np.isfinite(found.rows).all()
    assert needed < len(server.requests) <= 1.2 * needed
    assert model.spent.requests == len(server.requests)
    assert model.spent.failed == 0
    assert server.most > 1


def test_many_requests_are_under_way_at_a_time_and_a_second_run_asks_nothing(tmp_path):
    """1,024 requests at 16 at a time take 64 waits, one at a time 1,024."""
    rows = [{"text": f"film {i}", "label": "positive" if i % 2 else "negative"} for i in range(64)]
    z = np.array([[i, j] for i in range(1, 5) for j in range(1, 5)], dtype=float)
    z[0] = 0  # of the check
    with Scripted(sentiment(), slow=0.02) as server:
        for _ in range(2):
            model = endpoint(server, tmp_path / "cache")
            found = EndpointEvaluator(model, task(rows=rows), SPACE)(z, 0)
            assert len(server.requests) == 1024 == 64 * len({SPACE.text(point) for point in z})
        assert 4 < server.most <= 16  # a busy machine does not fill all places
    assert model.spent.requests == 0
    assert model.spent.cached == 1024 + 1
    assert found.cost.forward_tokens == 0


def test_one_request_at_a_time_and_so_many_a_minute():
    with Scripted(sentiment()) as server:
        model = endpoint(server, concurrency=1, requests_per_minute=6000)
        EndpointEvaluator(model, task(), SPACE)(Z, 0)
        assert server.most == 1


class Patient(BaseHTTPRequestHandler):
    """Waits for more on a connection, as llama.cpp's server does, which has few threads."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args):
        pass


@pytest.mark.filterwarnings("ignore:server")
@pytest.mark.parametrize("kept", [False, True])
def test_a_server_of_one_thread_is_not_kept_by_idle_connections(kept, monkeypatch):
    """The control keeps connections, as it would where they are encrypted: others wait in vain."""
    monkeypatch.setattr("gfo.models.server.sending._encrypted", lambda url: kept)
    with HTTPServer(("127.0.0.1", 0), Patient) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        model = gfo.Endpoint(url, "m", cache=False, concurrency=4, timeout=1.5, tries=1)
        replies = model.ask([model.request(f"{i}") for i in range(12)])
        server.shutdown()
        thread.join()
    assert (replies.count(None) > 0) == kept
    assert model.spent.failed == replies.count(None)


@pytest.mark.filterwarnings("ignore:server")
def test_a_request_that_fails_for_good_loses_its_row_alone():
    with Scripted(sentiment()) as server:
        whole = EndpointEvaluator(endpoint(server), task(), SPACE)(Z, 0)
        server.refuse = lambda text: "film 3\nJudge" in text
        found = EndpointEvaluator(endpoint(server), task(), SPACE)(Z, 0)
        scores = EndpointEvaluator(endpoint(server), task(), SPACE).score(Z, "train")
    assert np.isnan(found.rows).sum() == 1
    assert np.isnan(found.rows[1, 3])
    others = [0, 2, 3, 4]
    np.testing.assert_allclose(found.loss[others], whole.loss[others])
    assert np.isfinite(found.loss[1])
    left = np.delete(whole.rows, 3, axis=1)
    lacking = whole.rows[others, 3].mean() + (left[1] - left[others].mean(axis=0)).mean()
    assert found.loss[1] == pytest.approx((left[1].sum() + lacking) / 12)
    assert np.isfinite(scores.metrics["macro_f1"]).all()


def test_paired_means():
    rows = np.array([[1.0, 5.0, 3.0], [2.0, 6.0, 4.0]])
    assert paired_means(rows).tolist() == [3.0, 4.0]
    rows[1, 1] = np.nan  # an easy way to look good, were it the mean of what is left
    first, second = paired_means(rows)
    assert second - first == pytest.approx(1.0)
    assert np.isnan(paired_means(np.array([[1.0, 2.0], [np.nan, np.nan]]))[1])


def test_a_server_that_is_gone_ends_the_run_and_it_goes_on_later(tmp_path, monkeypatch):
    monkeypatch.setattr("gfo.models.server.sending.FIRST_WAIT", 0.01)
    budget, options = gfo.Budget(evaluations=16), {"population": 4}
    settings = {"optimizer": "ga", "options": options, "progress": False, "budget": budget}
    with Scripted(sentiment()) as server:
        whole = gfo.tune(endpoint(server), task(), SPACE, **settings)
        model = endpoint(server, tmp_path / "cache", tries=2)

        class Down(gfo.Callback):
            def step(self, run):
                server.errors = 1.0 if len(run.history) >= 2 else 0.0

        with pytest.raises(gfo.GfoError, match=r"server: none of .* requests to .* was answered"):
            gfo.tune(model, task(), SPACE, out=tmp_path / "run", callbacks=[Down()], **settings)
        server.errors = 0.0
        found = gfo.tune(model, task(), SPACE, out=tmp_path / "run", resume=True, **settings)
    np.testing.assert_array_equal(found.z, whole.z)
    assert [step.loss for step in found.history] == [step.loss for step in whole.history]
    assert found.cost.requests > 0


def test_budgets_of_requests_and_money(tmp_path):
    settings = {"optimizer": "1+1-ea", "progress": False}
    with Scripted(sentiment()) as server:
        model = endpoint(server, prices=(1000.0, 2000.0))
        found = gfo.tune(model, task(), SPACE, budget=gfo.Budget(requests=60), **settings)
        assert "of 60 requests spent" in found.stopped
        assert f"{found.cost.requests} requests" in str(found)
        model = endpoint(server, prices=(1000.0, 2000.0))
        found = gfo.tune(model, task(), SPACE, budget=gfo.Budget(dollars=0.3), **settings)
        assert "$0.3 spent" in found.stopped
        assert found.cost.dollars == pytest.approx(
            (model.spent.prompt_tokens * 1000 + model.spent.completion_tokens * 2000) / 1e6
        )
        with pytest.raises(gfo.GfoError, match=r"dollars = 1.*no prices; give it prices"):
            gfo.tune(endpoint(server), task(), SPACE, budget=gfo.Budget(dollars=1.0), **settings)
    with pytest.raises(gfo.GfoError, match=r"requests = 5 is of a gfo.Endpoint; limit evaluations"):
        gfo.tune(gfo.testing.tiny_model(), task(), SPACE, budget=gfo.Budget(requests=5), **settings)


KEY = "sk-secret-1234567890"


def test_the_key_is_nowhere(tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.setenv("MY_KEY", KEY)
    with Scripted(sentiment(), key=KEY, errors=0.1) as server:
        model = endpoint(server, tmp_path / "cache", key="MY_KEY")
        out = tmp_path / "run"
        gfo.tune(
            model,
            task(),
            SPACE,
            optimizer="ga",
            budget=gfo.Budget(evaluations=8),
            progress=False,
            out=out,
            options={"population": 4},
        )
        monkeypatch.setenv("MY_KEY", "sk-wrong-999")
        with pytest.raises(gfo.GfoError) as error:
            EndpointEvaluator(model, task(), SPACE)
    assert "MY_KEY" in str(error.value)
    assert "sk-" not in str(error.value)
    held = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    written = capsys.readouterr()
    assert all(
        KEY not in text for text in (caplog.text, written.out, written.err, repr(model), str(vars(model)))
    )
    assert b"sk-" not in held
    assert len(held) > 10_000


def wrong(**options):
    return lambda server: EndpointEvaluator(endpoint(server, **options), task(), SPACE)


@pytest.mark.parametrize(
    ("how", "make", "said"),
    [
        ({"key": "k"}, wrong(key="UNSET_KEY"), r"refuses the key, none, as UNSET_KEY is not set"),
        (
            {},
            lambda s: EndpointEvaluator(gfo.Endpoint(s.url, "huge", cache=False), task(), SPACE),
            "it has small, large",
        ),
        ({"logprobs": False}, wrong(), r"without log-probabilities.*take gfo.Generation.*'exact_match'"),
        ({"completions": False}, wrong(), r"404: Not Found; .*or write the template as messages"),
        ({}, lambda s: gfo.Endpoint("127.0.0.1:8000/v1", "m"), "is no address; write it as 'http"),
        ({}, lambda s: gfo.Endpoint("http://me:pw@host/v1", "m"), "url has a user.*environment variable"),
        ({}, lambda s: gfo.Endpoint("http://host/v1?key=1", "m"), "url has a user.*environment variable"),
        ({}, wrong(key=KEY), "^Endpoint: key is no name of an environment variable"),
        ({}, wrong(concurrency=0), "concurrency = 0 must be at least 1"),
        ({}, wrong(timeout=-1.0), "timeout = -1.0 must be a positive number"),
        ({}, wrong(prices=(1.0,)), r"prices = \[1.0\]; give dollars"),
        ({}, lambda s: EndpointEvaluator(endpoint(s), task("{text}:"), SPACE), r"no \{soft\}; write"),
        ({}, lambda s: EndpointEvaluator(endpoint(s), task(normalize="mean"), SPACE), "counts tokens"),
        ({}, lambda s: EndpointEvaluator(endpoint(s), task(max_length=9), SPACE), "max_length counts tokens"),
        (
            {},
            lambda s: gfo.tune(
                endpoint(s),
                task(),
                gfo.SoftPrompt(gfo.testing.tiny_model()),
                budget=gfo.Budget(evaluations=9),
            ),
            "SoftPrompt changes a model's numbers.*gfo.Words or gfo.Texts",
        ),
        (
            {},
            lambda s: EndpointEvaluator(
                endpoint(s), task(rows=[{"text": "a\ue0f0", "label": "positive"}]), SPACE
            ),
            "train row 1: it holds U",
        ),
    ],
)
def test_bad_input_is_one_line(how, make, said):
    with Scripted(sentiment(), **how) as server, pytest.raises(gfo.GfoError, match=said) as error:
        make(server)
    assert len(str(error.value).splitlines()) == 1
    assert "sk-" not in str(error.value)


def test_no_server(monkeypatch):
    monkeypatch.setattr("gfo.models.server.sending.FIRST_WAIT", 0.01)
    model = gfo.Endpoint("http://127.0.0.1:9/v1", "m", cache=False)
    with pytest.raises(
        gfo.GfoError, match=r"url = http://127.0.0.1:9/v1: no server answers there \(ConnectError"
    ):
        EndpointEvaluator(model, task(), SPACE)


def test_a_cache_that_is_none(tmp_path):
    (tmp_path / "cache").write_text("not a database, whatever else it is" * 99)
    with (
        Scripted(sentiment()) as server,
        pytest.raises(gfo.GfoError, match=r"cache: .*delete it, or name"),
    ):
        EndpointEvaluator(endpoint(server, tmp_path / "cache"), task(), SPACE)


def test_in_a_running_loop():
    """As in notebooks, where a loop runs already."""
    import asyncio

    with Scripted(sentiment()) as server:

        async def cell():
            return EndpointEvaluator(endpoint(server), task(), SPACE)(Z, 0).loss

        found = asyncio.run(cell())
        np.testing.assert_allclose(found, losses_by_hand([SPACE.text(z) for z in Z]), rtol=1e-12)


def test_a_config_tunes_and_resumes(tmp_path, capsys):
    from gfo.config import load_config

    with Scripted(sentiment()) as server:
        lines = [
            "[model]", f'url = "{server.url}"', 'name = "small"', f'cache = "{tmp_path / "cache"}"',
            "[task]", 'data_dir = "gfo:sentiment"', 'train = "train.jsonl"', 'dev = "dev.jsonl"',
            "limits = {train = 8, dev = 4}", r'template = "{text}\n{soft}:"',
            'labels = {negative = " negative", positive = " positive"}',
            "[space]", 'kind = "words"', 'words = ["a", "b", "c"]', "places = 3",
            "[optimizer]", 'name = "ga"', "options = {population = 4}", "[budget]", "evaluations = 12",
        ]  # fmt: skip
        path = tmp_path / "c.toml"
        path.write_text("\n".join(lines))
        found = load_config(path).run(tmp_path / "run", progress=False)
        more = load_config(tmp_path / "run" / "config.json", ["budget.evaluations=20", "model.tries=3"])
        later = more.run(tmp_path / "run", resume=True, progress=False)
    assert later.cost.candidates > found.cost.candidates
    assert later.history[1].loss == found.history[1].loss
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert record["config"]["model"] == {"name": "small", "top": 20, "body": {}}
    assert record["cost"]["requests"] == later.cost.requests


def test_models_are_named():
    with Scripted() as server:
        assert endpoint(server).models() == list(MODELS)


def test_a_slow_answer_is_no_end():
    with Scripted(sentiment(), slow=0.05) as server:
        assert np.isfinite(EndpointEvaluator(endpoint(server), task(), SPACE)(Z[:1], 0).loss).all()
