"""What a client of OpenAI's chat completions asks for, as far as a greedy model can answer it."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from vla.core.shown import brief
from vla.core.text import one_line

MOST_BYTES = 100_000_000  # of a request's body
MOST_IMAGES = 16
MOST_PIXELS = 50_000_000  # of an image
MOST_CHARACTERS = 100_000  # of all texts
MOST_TOKENS, USUAL_TOKENS = 4096, 512  # of an answer
# Fields of a request that ask for what is done anyway, by their values.
DONE_ANYWAY: dict[str, tuple[Any, ...]] = {
    "stream": (False, None),
    "n": (1, None),
    "temperature": (0, None),
    "logprobs": (False, None),
    "tools": ([], None),
}


class ChatError(ValueError):
    """A request that can't be answered, in one sentence for the client."""

    def __init__(self, message: str, status: int = 400, parameter: str | None = None):
        """status: of HTTP. parameter: the field of the request that is wrong, if it is one."""
        super().__init__(message)
        self.status, self.parameter = status, parameter


@dataclass(frozen=True)
class ChatRequest:
    """A conversation that ends with a question."""

    model: str
    turns: tuple[tuple[str, str], ...]  # questions and answers, the last answer empty
    images: list[np.ndarray] = field(default_factory=list)  # uint8 [H, W, 3], of the first question
    max_tokens: int = USUAL_TOKENS  # of the answer


def read_chat_request(body: bytes) -> ChatRequest:
    """Reads the JSON body of a request. Raises ChatError.

    Texts of a message are joined by line breaks, and its images come first, as in training. A
    system message stands before the first question, since the model has one of its own.
    """
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ChatError(f"the body is no JSON ({one_line(error)})") from None
    if not isinstance(values, dict):
        raise ChatError("the body must be a JSON object")
    if not isinstance(values.get("model"), str):
        raise ChatError("model must be the served model's name", parameter="model")
    for name, accepted in DONE_ANYWAY.items():
        if values.get(name) not in accepted:
            raise ChatError(
                f"{name} {brief(values[name])} is not supported: answers are whole, one at a time "
                "and greedy; leave it out",
                parameter=name,
            )
    turns, images = _conversation(values.get("messages"))
    if sum(len(text) for turn in turns for text in turn) > MOST_CHARACTERS:
        raise ChatError(f"the texts have more than {MOST_CHARACTERS} characters; shorten them")
    return ChatRequest(values["model"], turns, images, _max_tokens(values))


def _max_tokens(values: dict[str, Any]) -> int:
    for name in ("max_completion_tokens", "max_tokens"):
        if (value := values.get(name)) is not None:
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ChatError(f"{name} must be a whole number from 1 on", parameter=name)
            return min(value, MOST_TOKENS)
    return USUAL_TOKENS


def _conversation(messages: Any) -> tuple[tuple[tuple[str, str], ...], list[np.ndarray]]:
    if not isinstance(messages, list) or not messages:
        raise ChatError("messages must be a list of at least one message", parameter="messages")
    system: list[str] = []
    questions: list[str] = []
    answers: list[str] = []
    images: list[np.ndarray] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise ChatError(f"{where} must have role and content", parameter="messages")
        role = message.get("role")
        text, shown = _content(message.get("content"), where)
        # After so many questions and answers, only these may follow.
        if role in ("system", "developer") and not questions and not shown:
            system.append(text)
        elif role == "user" and len(questions) == len(answers):
            if shown and questions:
                raise ChatError(
                    f"{where} has images: all of them must be in the first user message",
                    parameter="messages",
                )
            images += shown
            questions.append(text)
        elif role == "assistant" and len(questions) > len(answers) and not shown:
            answers.append(text)
        else:
            raise ChatError(
                f"{where} has the role {brief(role)} where it can't be: a system message may come "
                "first, then user and assistant take turns, and only users have images",
                parameter="messages",
            )
    if len(questions) == len(answers):
        raise ChatError("the last message must be a user's", parameter="messages")
    questions[0] = "\n".join([*system, questions[0]])
    return tuple(zip(questions, [*answers, ""], strict=True)), images


def _content(content: Any, where: str) -> tuple[str, list[np.ndarray]]:
    """Text and images of a message."""
    if isinstance(content, str):
        return _whole(content, where), []
    if not isinstance(content, list):
        raise ChatError(f"{where}: content must be text or a list of parts", parameter="messages")
    texts: list[str] = []
    images: list[np.ndarray] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(_whole(part["text"], where))
        elif kind == "image_url" and len(images) == MOST_IMAGES:
            raise ChatError(f"{where} has more than {MOST_IMAGES} images", parameter="messages")
        elif kind == "image_url":
            entry = part.get("image_url")
            images.append(_image(entry.get("url") if isinstance(entry, dict) else entry, where))
        else:
            raise ChatError(
                f"{where} has a part of type {brief(kind)}; possible are text and image_url",
                parameter="messages",
            )
    return "\n".join(texts), images


def _whole(text: str, where: str) -> str:
    """The text, which must have a form in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ChatError(f"{where} has half a surrogate pair", parameter="messages") from None
    return text


def _image(url: Any, where: str) -> np.ndarray:
    """The image uint8 [H, W, 3] of a data URI."""
    head, comma, data = url.partition(",") if isinstance(url, str) else ("", "", "")
    if not (head.startswith("data:image/") and head.endswith(";base64") and comma):
        raise ChatError(
            f"{where}: an image must be a data URI, data:image/png;base64,..., and nothing is "
            "fetched",
            parameter="messages",
        )
    try:
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                size = f"{opened.width} x {opened.height}"
                raise ChatError(f"{where}: an image has {size} pixels; make it smaller")
            return np.asarray(opened.convert("RGB"))
    except ChatError:
        raise
    except Exception as error:
        # Decoders raise anything on damaged bytes.
        raise ChatError(
            f"{where}: an image can't be read ({one_line(error)})", parameter="messages"
        ) from None
