"""Asks a model behind an OpenAI-compatible endpoint, and retries.

Busy or failing servers (429, 5xx), timeouts and broken connections are retried after a pause that
doubles and varies, and is at least what Retry-After asks for; a server that asks one request to
wait makes all of them wait. Any other refusal is final.
"""

from __future__ import annotations

import asyncio
import base64
import email.utils
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

from vla.core.files import read_json_text
from vla.core.text import one_line

RESPONSE_FORMATS = ("json_schema", "json_object", "none")
# The same for every episode: the key, the address or the model is wrong.
_HOPELESS = (401, 403, 404)
_BUSY = (408, 409, 425, 429)
_LONGEST_REASON = 300
_TOKEN_COUNTS = ("prompt_tokens", "completion_tokens")


class EndpointError(RuntimeError):
    """A request without a reply. hopeless: no other request would get one either."""

    def __init__(self, message: str, hopeless: bool = False):
        super().__init__(message)
        self.hopeless = hopeless


@dataclass(frozen=True)
class EndpointConfig:
    """Where the model is, and how to ask it."""

    base_url: str  # such as "http://localhost:8000/v1"
    model: str
    api_key: str = field(default="", repr=False)  # "" sends none
    timeout: float = 120.0  # for a whole reply [s]
    attempts: int = 5  # for an episode, unusable replies included
    first_pause: float = 1.0  # between attempts [s]; doubles with each
    longest_pause: float = 120.0  # a server that asks for more is given up [s]
    temperature: float = 0.4
    max_tokens: int = 2000
    response_format: str = "json_schema"  # one of RESPONSE_FORMATS


@dataclass(frozen=True)
class Completion:
    """A reply."""

    text: str
    input_tokens: int  # as the server counts them, 0 where it does not
    output_tokens: int  # the same
    cut_off: bool  # whether max_tokens ended it


class Endpoint:
    """One endpoint, shared by tasks of an event loop; must be closed. schema: of its replies."""

    def __init__(self, config: EndpointConfig, connections: int, schema: Mapping[str, Any]):
        self.config, self._schema = config, schema
        headers = {"Authorization": f"Bearer {config.api_key}"} if config.api_key else {}
        self._client = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(config.timeout),
            limits=httpx2.Limits(max_connections=connections),
        )
        self._url = config.base_url.rstrip("/") + "/chat/completions"
        self._busy_until = 0.0

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.aclose()

    async def complete(self, messages: Sequence[dict[str, Any]], attempts: int) -> Completion:
        """The reply to a conversation. Raises EndpointError after the last attempt."""
        for attempt in range(1, attempts + 1):
            await asyncio.sleep(max(0.0, self._busy_until - time.monotonic()))
            try:
                return await self._request(messages)
            except _TryAgainError as problem:
                if attempt == attempts:
                    tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
                    raise EndpointError(f"{problem}, after {tries}") from problem
                if problem.wait > self.config.longest_pause:
                    raise EndpointError(
                        f"{problem}, and asks to wait for {problem.wait:.0f} s; at most "
                        f"{self.config.longest_pause:.0f} s are allowed"
                    ) from problem
                if problem.wait:
                    self._busy_until = max(self._busy_until, time.monotonic() + problem.wait)
                await asyncio.sleep(max(problem.wait, self._pause(attempt)))
        raise AssertionError("complete needs at least one attempt")

    def _pause(self, attempt: int) -> float:
        doubled = self.config.first_pause * 2 ** (attempt - 1)
        # Varied, so that requests which failed together do not return together.
        return min(doubled, self.config.longest_pause) * random.uniform(0.5, 1.0)

    async def _request(self, messages: Sequence[dict[str, Any]]) -> Completion:
        body = request_body(self.config, messages, self._schema)
        timeout = self.config.timeout
        try:
            # The client's own timeout is for each read; a reply that trickles in would never end.
            response = await asyncio.wait_for(self._client.post(self._url, json=body), timeout)
        except (asyncio.TimeoutError, httpx2.TimeoutException) as error:
            raise _TryAgainError(f"no reply within {timeout:g} s") from error
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            raise EndpointError(f"{self.config.base_url}: {error}", hopeless=True) from error
        except httpx2.TransportError as error:
            reason = str(error) or type(error).__name__
            raise _TryAgainError(f"no connection to {self.config.base_url} ({reason})") from error
        except httpx2.HTTPError as error:
            raise _TryAgainError(f"no reply that can be read ({error})") from error
        if response.status_code != 200:
            raise self._refusal(response)
        return _completion(response)

    def _refusal(self, response: httpx2.Response) -> Exception:
        """The error for a status other than 200."""
        status = response.status_code
        said = " ".join(response.text.split())
        if self.config.api_key:
            # Servers repeat a wrong key in their answer, which must not reach a log.
            said = said.replace(self.config.api_key, "***")
        said = said[:_LONGEST_REASON]
        message = f"the server answered {status}" + (f": {said}" if said else "")
        if status in _BUSY or status >= 500:
            return _TryAgainError(message, retry_after(response.headers.get("retry-after", "")))
        return EndpointError(message, hopeless=status in _HOPELESS)


class _TryAgainError(Exception):
    """A failure that another attempt may fix. wait: what the server asks for [s]."""

    def __init__(self, message: str, wait: float = 0.0):
        super().__init__(message)
        self.wait = wait


def request_body(
    config: EndpointConfig, messages: Sequence[dict[str, Any]], schema: Mapping[str, Any]
) -> dict[str, Any]:
    """The JSON of a request. schema: of the reply."""
    body = {
        "model": config.model,
        "messages": list(messages),
        "temperature": config.temperature,
        "max_tokens": config.max_tokens,
    }
    if config.response_format == "json_schema":
        named = {"name": "reply", "strict": True, "schema": schema}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    elif config.response_format == "json_object":
        body["response_format"] = {"type": "json_object"}
    return body


def user_message(*parts: str | bytes) -> dict[str, Any]:
    """A message of texts and JPEG images, in their order."""
    content: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
        else:
            url = "data:image/jpeg;base64," + base64.b64encode(part).decode()
            content.append({"type": "image_url", "image_url": {"url": url}})
    return {"role": "user", "content": content}


def retry_after(value: str) -> float:
    """Seconds that a Retry-After header asks for, as a number or as a date; 0 where it is none."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def _completion(response: httpx2.Response) -> Completion:
    """Raises _TryAgainError where an answer is not as the interface has it."""
    try:
        value = read_json_text(response.text, "the server's answer", _TryAgainError, finite=False)
        choice = value["choices"][0]
        text = choice["message"].get("content")
        usage = value.get("usage") or {}
        asked, replied = (int(usage.get(name) or 0) for name in _TOKEN_COUNTS)
        refusal = choice["message"].get("refusal")
    except _TryAgainError:
        raise
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        said = one_line(repr(error))
        raise _TryAgainError(f"the server's answer is no chat completion ({said})") from error
    if not isinstance(text, str):
        raise _TryAgainError(f"the model did not answer ({one_line(refusal or 'no text')})")
    return Completion(text, asked, replied, cut_off=choice.get("finish_reason") == "length")
