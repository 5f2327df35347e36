"""A robot's connection to a server of policies."""

from __future__ import annotations

import ssl
import threading
from typing import Any

from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI, WebSocketException
from websockets.sync.client import ClientConnection, connect

from vla.core.shown import brief
from vla.core.text import one_line
from vla.serving.wire import WireError, pack, unpack

MOST_BYTES = 32 * 2**20  # of an answer
CLOSE_TIMEOUT = 0.2  # for the other side's farewell [s]


class LinkError(ValueError):
    """Why there is no answer, in one sentence: the server is away, or refuses."""


class ServerLink:
    """Sends requests one at a time. A connection that was lost is made again by the next request.

    Safe between threads.
    """

    def __init__(self, address: str, timeout: float = 2.0, token: str = "", authority: str = ""):
        """address: ws://HOST:PORT or wss://HOST:PORT. timeout: to connect, and for an answer [s].

        authority: PEM file of the certificates to trust, "" for the system's. Raises LinkError
        where it can't be read.
        """
        self.address, self._timeout = address, timeout
        self._headers = {"Authorization": f"Api-Key {token}"} if token else {}
        self._context: ssl.SSLContext | None = None
        if address.startswith("wss://"):
            try:
                self._context = ssl.create_default_context(cafile=authority or None)
            except (OSError, ssl.SSLError) as error:
                raise LinkError(f"{authority} holds no certificates ({error})") from None
        self._connection: ClientConnection | None = None
        self._metadata: dict[str, Any] = {}
        self._lock = threading.Lock()

    def metadata(self) -> dict[str, Any]:
        """What the server says of itself when a connection is made. Raises LinkError."""
        with self._lock:
            self._connected()
            return self._metadata

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request. Raises LinkError."""
        content = pack(request)
        with self._lock:
            try:
                connection = self._connected()
                connection.send(content)
                answer = connection.recv(self._timeout)
            except (OSError, WebSocketException) as error:
                self._drop()
                raise LinkError(self._lost(error)) from None
            if isinstance(answer, str):
                raise LinkError(f"the server {self.address} refuses: {one_line(answer)}")
            return self._read(answer)

    def close(self) -> None:
        """Ends the connection."""
        with self._lock:
            self._drop()

    def _connected(self) -> ClientConnection:
        if self._connection is not None:
            return self._connection
        try:
            connection = connect(
                self.address,
                ssl=self._context,
                additional_headers=self._headers,
                compression=None,
                max_size=MOST_BYTES,
                open_timeout=self._timeout,
                close_timeout=CLOSE_TIMEOUT,
                ping_interval=None,  # requests are the signs of life
                proxy=None,
            )
        except InvalidURI:
            raise LinkError(f"{brief(self.address)} is no address: give ws://HOST:PORT") from None
        except InvalidStatus as error:
            why = error.response.body.decode(errors="replace") if error.response.body else error
            raise LinkError(f"the server {self.address} refuses: {one_line(why)}") from None
        except (OSError, InvalidHandshake, WebSocketException) as error:
            raise LinkError(self._lost(error)) from None
        self._connection = connection
        try:
            self._metadata = self._read(connection.recv(self._timeout))
        except (OSError, WebSocketException, LinkError) as error:
            self._drop()
            raise LinkError(self._lost(error)) from None
        return connection

    def _read(self, content: bytes | str) -> dict[str, Any]:
        try:
            values = unpack(content) if isinstance(content, bytes) else None
        except WireError:
            values = None
        if not isinstance(values, dict):
            self._drop()
            raise LinkError(f"the server {self.address} sends no answers: is it 'vla serve'?")
        return values

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _lost(self, error: Exception) -> str:
        late = isinstance(error, TimeoutError)
        why = f"no answer for {self._timeout:g} s" if late else one_line(error)
        return f"the server {self.address} is away ({why}): is 'vla serve' running there?"
