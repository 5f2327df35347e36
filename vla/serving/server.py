"""A policy behind openpi's WebSocket protocol, for several robots at once.

The first frame of a connection is the server's metadata. Then each frame of the client is a request
and each frame of the server its answer, in order: MessagePack, or a text that says why there is
none. `GET /healthz` answers without a connection. openpi's protocol has no more; docs/serving.md
lists what requests and answers hold.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HandshakeRequest
from websockets.http11 import Response as HandshakeResponse

from vla.serving.engine import Engine
from vla.serving.policy import Answer, RobotSession
from vla.serving.requests import RequestError, read_request
from vla.serving.scheduling import no_room
from vla.serving.wire import WireError, pack, unpack

HEALTH = "/healthz"
# A robot that answers no ping for so long is gone [s].
PING_PERIOD, PING_TIMEOUT = 5.0, 10.0
# Requests of one connection that may wait for their answers; then it is read no further.
MOST_AHEAD = 8


class ServingError(ValueError):
    """A server that can't be started so, in one sentence."""


@dataclass(frozen=True)
class ServerAccess:
    """Where a server listens, and who may connect."""

    host: str = "127.0.0.1"
    port: int = 0  # 0 for any free one
    token: str = ""  # that clients must have; "" where none is asked for
    certificate: str = ""  # PEM files of TLS; "" for none
    key: str = ""
    most_connections: int = 16
    most_bytes: int = 32 * 2**20  # of a frame

    def context(self) -> ssl.SSLContext | None:
        """TLS, where there is a certificate.

        Raises ServingError where others than this machine could connect without TLS or a token, or
        where the certificate can't be used.
        """
        if bool(self.certificate) != bool(self.key):
            raise ServingError("TLS needs both --certificate and --key")
        if not _is_loopback(self.host) and not (self.token and self.certificate):
            raise ServingError(
                f"{self.host} can be reached from other machines: give --token-file, --certificate "
                "and --key, or listen at 127.0.0.1"
            )
        if not self.certificate:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise ServingError(
                f"{self.certificate} and {self.key} are no certificate and its key ({error})"
            ) from None
        return context


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class PolicyServer:
    """Serves an engine from start() to close(), in a thread of its own."""

    def __init__(self, engine: Engine, access: ServerAccess | None = None):
        """Raises ServingError."""
        self.address = ""  # what clients connect to, from start() on
        self.engine, self.access = engine, access or ServerAccess()
        self._context = self.access.context()
        self._metadata = pack(engine.policy.metadata())
        self._open = 0
        self._loop = asyncio.new_event_loop()
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listens. Raises OSError where the address can't be used."""
        self._server = self._loop.run_until_complete(self._listen())
        host, port = next(iter(self._server.sockets)).getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        self.address = f"{'wss' if self._context else 'ws'}://{host}:{port}"
        self._thread = threading.Thread(target=self._loop.run_forever, name="server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends all connections and the engine."""
        self.engine.close()
        if self._thread is None or self._server is None:
            return
        asyncio.run_coroutine_threadsafe(self._end(self._server), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> Server:
        access = self.access
        return await serve(
            self._serve_robot,
            access.host,
            access.port,
            ssl=self._context,
            # Pages of a browser on this machine send an Origin: they are no robots.
            origins=[None],
            compression=None,
            max_size=access.most_bytes,
            ping_interval=PING_PERIOD,
            ping_timeout=PING_TIMEOUT,
            process_request=self._look_at_handshake,
        )

    @staticmethod
    async def _end(server: Server) -> None:
        server.close()
        await server.wait_closed()

    def _look_at_handshake(
        self, connection: ServerConnection, request: HandshakeRequest
    ) -> HandshakeResponse | None:
        """An answer instead of a connection, or None."""
        if request.path == HEALTH:
            return connection.respond(HTTPStatus.OK, "OK\n")
        given = request.headers.get("Authorization", "").removeprefix("Api-Key ").encode()
        if self.access.token and not hmac.compare_digest(given, self.access.token.encode()):
            why = "the token is missing or wrong: send the header 'Authorization: Api-Key TOKEN'\n"
            return connection.respond(HTTPStatus.UNAUTHORIZED, why)
        if why := no_room(self._open, self.access.most_connections):
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, why + "\n")
        return None

    async def _serve_robot(self, connection: ServerConnection) -> None:
        self._open += 1
        session = RobotSession(self.engine.policy)
        answers: asyncio.Queue[asyncio.Future[bytes | str]] = asyncio.Queue(MOST_AHEAD)
        sender = asyncio.create_task(_send_in_order(connection, answers))
        try:
            await connection.send(self._metadata)
            async for message in connection:
                answer = self._loop.create_future()
                await self._take(session, message, answer)
                await answers.put(answer)
        except ConnectionClosed:
            pass
        finally:
            sender.cancel()
            self.engine.forget(session)
            self._open -= 1

    async def _take(
        self, session: RobotSession, message: bytes | str, answer: asyncio.Future[bytes | str]
    ) -> None:
        """Has the engine fill `answer`, or fills it with why not."""
        policy = self.engine.policy

        def reply(result: Answer | RequestError) -> None:
            content = str(result) if isinstance(result, RequestError) else pack(result)
            with suppress(RuntimeError):  # The loop has ended.
                self._loop.call_soon_threadsafe(_fill, answer, content)

        def read() -> None:
            if isinstance(message, str):
                raise RequestError("the frame is a text: send MessagePack as a binary frame")
            values = unpack(message)
            now = time.monotonic()
            request = read_request(values, policy.contract, policy.features, now)
            self.engine.submit(session, request, reply)

        try:
            # Images are decoded and resized there.
            await asyncio.to_thread(read)
        except (WireError, RequestError) as error:
            _fill(answer, str(error))


def _fill(answer: asyncio.Future[bytes | str], content: bytes | str) -> None:
    if not answer.done():
        answer.set_result(content)


async def _send_in_order(
    connection: ServerConnection, answers: asyncio.Queue[asyncio.Future[bytes | str]]
) -> None:
    with suppress(ConnectionClosed):
        while True:
            await connection.send(await (await answers.get()))
