"""The browsers that watch: each gets the newest of everything, and never waits for another."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import struct
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

# Those that are remembered after they left, so that they keep their numbers.
MOST_REMEMBERED = 200


@dataclass(frozen=True)
class CameraPicture:
    """One frame of a camera, encoded once for all viewers."""

    camera: str
    jpeg: bytes
    width: int  # [px]
    height: int  # [px]
    stamp: float  # by the robot's clock [s]
    # The predicted path: right, down and opening of each point, as shares of the image.
    path: list[list[float]] = field(default_factory=list)
    calibrated: bool = False  # whether a path could be drawn


def packed(picture: CameraPicture) -> bytes:
    """A picture as one binary message: length of the header, header as JSON, JPEG."""
    header = json.dumps(
        {
            "camera": picture.camera,
            "width": picture.width,
            "height": picture.height,
            "stamp": picture.stamp,
            "path": picture.path,
            "calibrated": picture.calibrated,
        }
    ).encode()
    return struct.pack(">I", len(header)) + header + picture.jpeg


class Link:
    """A connection to a browser, which has at most one message of each topic on the way.

    The browser says which it has shown; what comes meanwhile takes the place of what waits. So one
    that is slow, by its link or its processor, shows new images and no old ones.
    """

    def __init__(self, socket: web.WebSocketResponse):
        """socket: open."""
        self._socket = socket
        self._waiting: dict[str, str | bytes] = {}
        self._on_the_way: set[str] = set()
        self._ready = asyncio.Event()

    def offer(self, topic: str, message: str | bytes) -> None:
        """Hands over a message, in place of one of the same topic that was not sent yet."""
        self._waiting[topic] = message
        self._ready.set()

    def shown(self, topic: str) -> bool:
        """Notes that the browser has shown what was sent; False where nothing was."""
        if topic not in self._on_the_way:
            return False
        self._on_the_way.remove(topic)
        self._ready.set()
        return True

    async def send(self) -> None:
        """Sends what is offered until the connection is gone."""
        with contextlib.suppress(ConnectionError):
            while True:
                await self._ready.wait()
                self._ready.clear()
                for topic in [each for each in self._waiting if each not in self._on_the_way]:
                    message = self._waiting.pop(topic)
                    self._on_the_way.add(topic)
                    if isinstance(message, str):
                        await self._socket.send_str(message)
                    else:
                        await self._socket.send_bytes(message)

    async def close(self, code: int) -> None:
        """Ends the connection, with the reason as WebSocket knows it."""
        await self._socket.close(code=code)


@dataclass
class Viewer:
    """One browser."""

    number: int  # shown to people
    key: str  # known to this browser alone, proves who it is
    link: Link | None = None  # None while it is not connected


class Viewers:
    """Those that are connected, and those that may come back."""

    def __init__(self) -> None:
        self._by_key: OrderedDict[str, Viewer] = OrderedDict()
        self._numbers = 0

    @property
    def links(self) -> list[Link]:
        """The connections of all that are connected."""
        return [viewer.link for viewer in self._by_key.values() if viewer.link is not None]

    def find(self, key: str) -> Viewer | None:
        """The connected viewer with that key."""
        viewer = self._by_key.get(key)
        return viewer if viewer is not None and viewer.link is not None else None

    def join(self, key: str, link: Link) -> tuple[Viewer, Link | None]:
        """The viewer of a connection: the one with that key, or else a new one.

        Also returns its earlier connection, which may not have noticed that it is broken.
        """
        viewer = self._by_key.get(key)
        if viewer is None:
            self._numbers += 1
            viewer = Viewer(self._numbers, secrets.token_urlsafe(24))
            self._by_key[viewer.key] = viewer
        self._by_key.move_to_end(viewer.key)
        earlier, viewer.link = viewer.link, link
        self._forget()
        return viewer, earlier

    def offer(self, topic: str, message: str | bytes) -> None:
        """Offers a message to all."""
        for link in self.links:
            link.offer(topic, message)

    def _forget(self) -> None:
        gone = [key for key, viewer in self._by_key.items() if viewer.link is None]
        for key in gone[: max(0, len(gone) - MOST_REMEMBERED)]:
            del self._by_key[key]


def hello(viewer: Viewer, about: dict[str, Any]) -> str:
    """The first message to a viewer: who it is, and what does not change."""
    return json.dumps({"type": "hello", "number": viewer.number, "key": viewer.key} | about)
