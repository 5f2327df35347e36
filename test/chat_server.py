"""A chat completions server on 127.0.0.1, which answers as a test tells it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GOOD = {
    "caption": "A wooden table with a red can and a white plate.",
    "question_answers": [
        {"question": f"How many {thing} are there?", "answer": "There is one."}
        for thing in ("cans", "plates", "tables")
    ],
    "command_rewrites": [
        {"question": f"{verb} the drink.", "answer": "I will pick up the can."}
        for verb in ("Grab", "Fetch", "Lift")
    ],
    "contexts": [
        {"question": f"I am {state}.", "answer": "I will pick up the can."}
        for state in ("thirsty", "in need of a drink")
    ],
}


@dataclass
class Reply:
    """content: of the model, as text or to be made JSON. delay: before anything is sent [s].

    drop: closes the connection without an answer. trickle: seconds between the bytes of the body.
    """

    content: object = field(default_factory=lambda: GOOD)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    delay: float = 0.0
    drop: bool = False
    trickle: float = 0.0
    finish_reason: str = "stop"

    def encoded(self) -> bytes:
        if self.body is not None:
            return self.body.encode()
        text = self.content if isinstance(self.content, str) else json.dumps(self.content)
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        usage = {"prompt_tokens": 1000, "completion_tokens": 200}
        return json.dumps({"choices": [choice], "usage": usage}).encode()


@dataclass
class ChatServer:
    """answer(request, number) is asked for each reply; requests: what came, in order."""

    answer: Callable[[dict, int], Reply]
    url: str = ""
    requests: list[dict] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, request: dict, headers: dict[str, str]) -> int:
        with self._lock:
            self.requests.append(request)
            self.headers.append(headers)
            self.times.append(time.monotonic())
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            return len(self.requests) - 1

    def end(self) -> None:
        with self._lock:
            self._now -= 1


@contextlib.contextmanager
def chat_server(answer: Callable[[dict, int], Reply]) -> Iterator[ChatServer]:
    """Serves until the block ends."""
    state = ChatServer(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            number = state.begin(request, {"path": self.path, **dict(self.headers)})
            try:
                self._send(state.answer(request, number))
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                state.end()

        def _send(self, reply: Reply) -> None:
            time.sleep(reply.delay)
            if reply.drop:
                self.close_connection = True
                return
            body = reply.encoded()
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if not reply.trickle:
                self.wfile.write(body)
                return
            for index in range(len(body)):
                self.wfile.write(body[index : index + 1])
                self.wfile.flush()
                time.sleep(reply.trickle)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def instruction_in(request: dict, known: tuple[str, ...]) -> str:
    """Which of some instructions a request is about."""
    text = request["messages"][1]["content"][-1]["text"]
    return next(one for one in known if one in text)
