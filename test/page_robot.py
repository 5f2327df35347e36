"""The operator page's server with a robot of the test's own, over real HTTP and websockets."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from PIL import Image as PillowImage

from vla.page.access import Access, make_access
from vla.page.commands import CommandAnswer, PageCommand
from vla.page.episodes import EpisodeShelf
from vla.page.server import PageServer
from vla.page.viewers import CameraPicture


def _black() -> bytes:
    stream = io.BytesIO()
    PillowImage.new("RGB", (96, 96)).save(stream, "JPEG")
    return stream.getvalue()


CAMERAS = ["front", "wrist"]
LOCAL = make_access("127.0.0.1", [], "", "", "")
JPEG = _black()


class ScriptedRobot:
    """Has a new picture whenever it is asked, and notes what it was told to do."""

    def __init__(self) -> None:
        self.done: list[PageCommand] = []
        self.pictures = 0
        self.shown: dict[str, Any] = {"alive": True}
        # Cameras that send nothing.
        self.blind: set[str] = set()
        self.answer = CommandAnswer(True, "done")
        # What the next calls raise.
        self.raises: list[Exception] = []

    def about(self) -> dict[str, Any]:
        return {"cameras": CAMERAS, "robot": "test", "namespace": "/"}

    def state(self) -> dict[str, Any]:
        return self.shown

    def picture(self, camera: str) -> CameraPicture | None:
        if camera in self.blind:
            return None
        self.pictures += 1
        return CameraPicture(camera, JPEG, 96, 96, float(self.pictures))

    async def carry_out(self, command: PageCommand) -> CommandAnswer:
        self.done.append(command)
        return self.answer


@dataclass(frozen=True)
class Reply:
    """What came for a GET."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class PageClient:
    """One browser without a screen."""

    def __init__(self, session: aiohttp.ClientSession, url: str):
        self.session, self.url = session, url
        self.socket: aiohttp.ClientWebSocketResponse | None = None
        self.number, self.key = 0, ""

    async def open(self, key: str = "", **headers: str) -> PageClient:
        """Connects, as a new viewer or as the one with that key."""
        self.socket = await self.session.ws_connect(
            f"{self.url}/live?key={key}", headers=headers, ssl=False, autoping=True
        )
        about = await self.message("hello")
        self.number, self.key = about["number"], about["key"]
        return self

    async def newest(self, wanted: str) -> Any:
        """The next text of a type, or header of a camera's picture, which it does not confirm."""
        while True:
            name, found = await self._next()
            if name == wanted:
                return found

    async def message(self, wanted: str) -> Any:
        """The same; it confirms each, as a browser does that has shown them."""
        assert self.socket is not None
        while True:
            name, found = await self._next()
            if name != "hello":
                await self.socket.send_str(name)
            if name == wanted:
                return found

    async def _next(self) -> tuple[str, Any]:
        assert self.socket is not None
        received = await self.socket.receive(20.0)
        if received.type is aiohttp.WSMsgType.TEXT:
            found = json.loads(received.data)
            return found["type"], found
        if received.type is aiohttp.WSMsgType.BINARY:
            (length,) = struct.unpack(">I", received.data[:4])
            found = json.loads(received.data[4 : 4 + length])
            return found["camera"], found
        raise ConnectionError(f"{received.type.name}, {received.data}")

    async def send(self, command: str, body: Any = None, **headers: str) -> tuple[int, dict]:
        """Sends a command; returns the status and the answer."""
        data = body if isinstance(body, str | bytes) else json.dumps(body or {})
        headers = {"X-Viewer": self.key, "Content-Type": "application/json"} | headers
        address = f"{self.url}/api/{command}"
        async with self.session.post(address, data=data, headers=headers, ssl=False) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str, **headers: str) -> Reply:
        """Gets a path."""
        async with self.session.get(self.url + path, headers=headers, ssl=False) as answer:
            return Reply(answer.status, answer.headers, await answer.read())


@asynccontextmanager
async def served(
    shelf: EpisodeShelf,
    access: Access = LOCAL,
    robot: ScriptedRobot | None = None,
    idle_limit: float = 60.0,
) -> AsyncIterator[tuple[PageClient, ScriptedRobot]]:
    """A running server; gives one client, whose session others may share."""
    robot = robot or ScriptedRobot()
    failures: list[Exception] = []
    server = PageServer(robot, access, shelf, idle_limit, 50.0, failures.append)
    runner = await server.start(0)
    port = runner.addresses[0][1]
    try:
        # Cookies that a browser would send to an address, too.
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=jar) as session:
            yield PageClient(session, f"{access.scheme}://127.0.0.1:{port}"), robot
    finally:
        await runner.cleanup()
    assert failures == robot.raises


def run(work) -> None:
    """Runs a test's coroutine, for at most a minute."""
    asyncio.run(asyncio.wait_for(work, 60.0))


def self_signed(folder: Path) -> tuple[str, str]:
    """Paths of a certificate for 127.0.0.1 and of its key, made by OpenSSL's command."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-subj", "/CN=127.0.0.1", "-days", "2",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return str(certificate), str(key)
