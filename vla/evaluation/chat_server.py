"""A checkpoint as a chat model behind OpenAI's interface, for harnesses of benchmarks."""

from __future__ import annotations

import json
import socket
import threading
import time
import traceback
import uuid
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from vla.core.text import one_line
from vla.evaluation.chat_requests import MOST_BYTES, ChatError, read_chat_request
from vla.policies.parts import ReasoningPart

COMPLETIONS, MODELS = "/v1/chat/completions", "/v1/models"
SILENCE = 60.0  # after which a client that sends nothing more is left [s]
# After a refusal: the longest pause [s] of what the client still sends, and how often it is read.
LINGERING, MOST_READS_ON = 1.0, 256


class ChatHTTPServer(ThreadingHTTPServer):
    """Answers one question at a time; others wait. Serves GET /v1/models and completions."""

    daemon_threads = True
    # Harnesses ask for many answers at once.
    request_queue_size = 256

    def __init__(self, part: ReasoningPart, name: str, host: str = "127.0.0.1", port: int = 0):
        """name: that clients call the model by. port: 0 for any free one. Raises OSError."""
        self.part, self.name, self.created = part, name, int(time.time())
        self.lock = threading.Lock()
        super().__init__((host, port), _Handler)

    @property
    def address(self) -> str:
        """What clients take as their base URL."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}/v1"

    def models(self) -> dict[str, Any]:
        """The list of models, which has one."""
        entry = {"id": self.name, "object": "model", "created": self.created, "owned_by": "vla_ros"}
        return {"object": "list", "data": [entry]}

    def complete(self, body: bytes) -> dict[str, Any]:
        """The answer to a request's body. Raises ChatError."""
        asked = read_chat_request(body)
        if asked.model != self.name:
            raise ChatError(
                f"there is no model {asked.model!r}; this is {self.name!r}", 404, "model"
            )
        with self.lock:
            answer = self.part.chat(asked.images, asked.turns, asked.max_tokens)
        used = (answer.prompt_tokens, answer.answer_tokens)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": answer.text},
            "finish_reason": "stop" if answer.is_whole else "length",
            "logprobs": None,
        }
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.name,
            "choices": [choice],
            "usage": {
                "prompt_tokens": used[0],
                "completion_tokens": used[1],
                "total_tokens": sum(used),
            },
        }


class _Handler(BaseHTTPRequestHandler):
    server: ChatHTTPServer
    protocol_version = "HTTP/1.1"
    timeout = SILENCE

    def do_GET(self) -> None:
        """Lists the models, or shows the one."""
        listed = self.server.models()
        if self.path == MODELS:
            self._send(200, listed)
        elif self.path == f"{MODELS}/{self.server.name}":
            self._send(200, listed["data"][0])
        else:
            self._refuse(self._unknown())

    def do_POST(self) -> None:
        """Answers a question."""
        try:
            self._send(200, self.server.complete(self._body()))
        except ChatError as error:
            self._refuse(error)
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception as error:
            traceback.print_exc()
            self._refuse(ChatError(f"{type(error).__name__}: {one_line(error)}", 500))

    def _unknown(self) -> ChatError:
        served = f"GET {MODELS} and POST {COMPLETIONS}"
        return ChatError(f"{self.command} {self.path[:100]!r} is none of {served}", 404)

    def _body(self) -> bytes:
        """The request's body; the connection ends after an error, with what was not read of it."""
        self.close_connection = True
        if self.path != COMPLETIONS:
            raise self._unknown()
        if self.headers.get_content_type() != "application/json":
            raise ChatError("the Content-Type must be application/json", 415)
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise ChatError("the request needs a Content-Length", 411)
        if len(length) > 12 or int(length) > MOST_BYTES:
            raise ChatError(f"the body has more than {MOST_BYTES} bytes; send smaller images", 413)
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ChatError("the body is shorter than its Content-Length")
        self.close_connection = self.headers.get("Connection", "").lower() == "close"
        return body

    def _refuse(self, error: ChatError) -> None:
        kind = "server_error" if error.status >= 500 else "invalid_request_error"
        told = {"message": str(error), "type": kind, "param": error.parameter, "code": None}
        self._send(error.status, {"error": told})
        if self.close_connection:
            self._read_on()

    def _read_on(self) -> None:
        """Takes what a client still sends: closed at once, the connection would lose the answer."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(LINGERING)
            for _ in range(MOST_READS_ON):
                if not self.connection.recv(1 << 16):
                    break

    def _send(self, status: int, values: dict[str, Any]) -> None:
        content = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing: a benchmark asks many thousand questions."""
