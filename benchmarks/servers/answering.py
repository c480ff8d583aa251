"""A server that takes its time: it answers each completion with two words' log-probabilities."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any

MODEL = "two-words"
WORDS = {" negative": -0.6, " positive": -0.9}


class Handler(BaseHTTPRequestHandler):
    """Answers a request; `seconds` of each completion are the class's."""

    protocol_version = "HTTP/1.1"
    seconds = 0.0

    def do_GET(self) -> None:
        """The models."""
        self._reply({"data": [{"id": MODEL}]})

    def do_POST(self) -> None:
        """A completion."""
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.seconds)
        logprobs = {"tokens": [" negative"], "token_logprobs": [-0.6], "top_logprobs": [WORDS]}
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        self._reply({"choices": [{"text": " negative", "logprobs": logprobs}], "usage": usage})

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def _reply(self, values: dict[str, Any]) -> None:
        body = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """A thread a connection."""

    daemon_threads = True
    request_queue_size = 128


@contextlib.contextmanager
def answering(seconds: float) -> Iterator[str]:
    """The address of a server in a process of its own, which ends with the block, or with this process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(seconds, there), daemon=True)
    process.start()
    there.close()
    with here:
        yield f"http://127.0.0.1:{here.recv()}/v1"
    process.join()


def _serve(seconds: float, pipe: Connection) -> None:
    Handler.seconds = seconds
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pipe.send(server.server_port)
    with contextlib.suppress(EOFError):
        pipe.recv()  # nothing comes until the other end is closed
