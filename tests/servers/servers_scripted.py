"""A server that answers as it is told, with errors now and then: what an Endpoint meets in practice."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
import threading
import time

from pytest_httpserver import HTTPServer
from werkzeug.wrappers import Response

MODELS = ("small", "large")


def text_in(body):
    """What a request asks with, as one text."""
    if "messages" in body:
        return "\n".join(message["content"] for message in body["messages"])
    return body["prompt"]


def share(text):
    """A number from .05 to .95 that a text stands for."""
    digest = hashlib.sha256(text.encode()).digest()
    return 0.05 + 0.9 * int.from_bytes(digest[:4], "big") / 2**32


class Scripted:
    """An OpenAI-compatible server of one thread a request.

    Args:
        words: what it may say next -> a function of the request's text that gives its probability.
        written: a function of the request's text that gives what it writes.
        errors: the share of requests that fail.
        logprobs: whether it gives them.
        chat: whether it has chats, and completions.
        echo: whether it gives the log-probabilities of the prompt's tokens, each of which is one word.
        key: what it wants.
        ends: whether what it says next is the end, of which it gives nothing, as llama.cpp's does.
        slow: seconds of each answer.

    Attributes:
        requests: bodies, in their order; failed ones too.
        most: the most requests that were under way at a time.
        paths: of the requests.
    """

    def __init__(
        self,
        words=None,
        written=None,
        *,
        errors=0.0,
        logprobs=True,
        completions=True,
        echo=False,
        ends=False,
        tokens=lambda text: len(text.split()),
        key=None,
        slow=0.0,
        stalled=1.0,
        seed=0,
    ):
        self.words, self.written = words or {}, written or (lambda text: "yes")
        self.tokens = tokens
        self.errors, self.logprobs, self.completions, self.echo = errors, logprobs, completions, echo
        self.key, self.slow, self.stalled, self.ends = key, slow, stalled, ends
        self.requests, self.paths, self.headers, self.most, self._now = [], [], [], 0, 0
        self._draw, self._lock = random.Random(seed), threading.Lock()
        self.refuse = lambda text: False
        self.server = HTTPServer(host="127.0.0.1", port=0, threaded=True)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request

    def __enter__(self):
        self.server.start()
        for path in ("models", "completions", "chat/completions"):
            self.server.expect_request(f"/v1/{path}").respond_with_handler(self.answer)
        return self

    def __exit__(self, *args):
        self.server.clear()
        self.server.stop()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.port}/v1"

    def answer(self, request):
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            said = f"Incorrect API key: {request.headers.get('Authorization', '')}"
            return reply({"error": {"message": said}}, 401)
        if request.path.endswith("models"):
            return reply({"data": [{"id": name} for name in MODELS]})
        if request.path == "/v1/completions" and not self.completions:
            return reply({"detail": "Not Found"}, 404)
        body = json.loads(request.data)
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            self.requests.append(body)
            self.paths.append(request.path)
            self.headers.append(dict(request.headers))
            fault = self._draw.choice(("429", "503", "500", "stall", "cut")) if self._fails() else None
        try:
            time.sleep(self.slow)
            return self._failed(fault) if fault else self._answered(body, "chat" in request.path)
        finally:
            with self._lock:
                self._now -= 1

    def _fails(self):
        return self._draw.random() < self.errors

    def _failed(self, fault):
        if fault == "429":
            return Response("slow down", 429, {"Retry-After": "0.05"})
        if fault == "stall":
            time.sleep(self.stalled)
            return Response("late", 500)
        if fault == "cut":
            return Response("{", 200, {"Content-Length": "1000"})
        return reply({"error": {"message": "overloaded"}}, int(fault))

    def _answered(self, body, chat):
        text = text_in(body)
        if self.refuse(text):
            return reply({"error": {"message": "the text is too long"}}, 400)
        said = self.written(text)
        usage = {"prompt_tokens": self.tokens(text), "completion_tokens": len(said.split())}
        choice = {"message": {"role": "assistant", "content": said}} if chat else {"text": said}
        choice["logprobs"] = self._logprobs(body, text, chat)
        return reply({"choices": [choice], "usage": usage})

    def _logprobs(self, body, text, chat):
        if not (self.logprobs and body.get("logprobs")) or (self.ends and not body.get("ignore_eos")):
            return None
        if body.get("echo") and self.echo:
            tokens = [f" {word}" if i else word for i, word in enumerate(text.split(" "))]
            values = [None, *(math.log(share(word)) for word in tokens[1:])]
            return {"tokens": [*tokens, " end"], "token_logprobs": [*values, -1.0]}
        top = body["top_logprobs"] if chat else body["logprobs"]
        listed = [(word, math.log(chance(text))) for word, chance in self.words.items() if chance(text)]
        listed = sorted(listed, key=lambda pair: -pair[1])[:top]
        if not chat:
            return {"tokens": ["x"], "token_logprobs": [-1.0], "top_logprobs": [dict(listed)]}
        tops = [{"token": word, "logprob": value} for word, value in listed]
        return {"content": [{"token": "x", "logprob": -1.0, "top_logprobs": tops}]}


def reply(values, status=200):
    return Response(json.dumps(values), status, content_type="application/json")


def sentiment():
    """Words of a server that says positive more surely the more often a text has "good"."""
    return {
        " positive": lambda text: 0.9 * share(text),
        " negative": lambda text: 0.9 * (1 - share(text)),
        " the": lambda text: 0.05,
    }
