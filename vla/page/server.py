"""The web server of the operator page.

    server = PageServer(robot, access, shelf, idle_limit=60.0, image_rate=10.0)
    runner = await server.start(port=8080)      # in an event loop
    await runner.cleanup()

A browser gets the page, then everything that it shows over one websocket, and sends commands as
requests of their own: POST /api/NAME with JSON. It proves who it is by the key that the websocket
gave it, in the header X-Viewer, which no other site can set.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from aiohttp import WSMsgType, web

from vla.bags.writer import BagError
from vla.core.resources import shared_file
from vla.core.text import one_line
from vla.page.access import COOKIE, Access, AccessError
from vla.page.commands import (
    FIELDS,
    FOR_EVERYBODY,
    CommandAnswer,
    CommandRefusedError,
    PageCommand,
    read_command,
)
from vla.page.control import ControlLease
from vla.page.episodes import EpisodeShelf
from vla.page.viewers import CameraPicture, Link, Viewer, Viewers, hello, packed
from vla.playback.footage import PlaybackError

# State is sent this often, so that a browser knows within a second that the link is gone [s].
STATE_PERIOD = 0.2
MOST_BODY = 65536
MOST_VIEWERS = 50
LONGEST_KEY = 100
# Why a connection is closed, as numbers of WebSocket: the server ends, what came is not read, and
# the same viewer has opened another.
GOING_AWAY, UNWANTED, REPLACED = 1001, 1008, 4001
# Longest wait for browsers when a connection, or the server, ends [s].
SHUTDOWN_TIMEOUT = 1.0
VIEWER_HEADER = "X-Viewer"
# An open websocket that nobody answers at the other end is closed after this [s].
HEARTBEAT = 10.0
FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer, with which the form of the token would have no origin.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class WatchedGraph(Protocol):
    """What the server needs of a running graph."""

    def about(self) -> dict[str, Any]:
        """What does not change while the server runs: cameras and names."""

    def state(self) -> dict[str, Any]:
        """What the page shows now."""

    def picture(self, camera: str) -> CameraPicture | None:
        """The newest image of a camera; None where there is no new one. May take a while."""

    async def carry_out(self, command: PageCommand) -> CommandAnswer:
        """Has the graph do what a viewer asked for."""


class PageServer:
    """Serves one robot to many viewers. All methods but start() run in its event loop."""

    def __init__(
        self,
        robot: WatchedGraph,
        access: Access,
        shelf: EpisodeShelf,
        idle_limit: float,
        image_rate: float,
        report: Callable[[Exception], None],
    ):
        """idle_limit: see ControlLease [s]. image_rate: most images of each camera a second.

        report: gets what went wrong although it should not; the server goes on.
        """
        self._robot, self._access, self._shelf = robot, access, shelf
        self._report = report
        self._lease = ControlLease(idle_limit)
        self._viewers = Viewers()
        self._image_period = 1.0 / image_rate
        self._tasks: list[asyncio.Task] = []
        self._closing: set[asyncio.Task] = set()
        # Of their own, so that a video that is being made does not hold images up.
        self._eyes = ThreadPoolExecutor(1, "page pictures")

    def application(self) -> web.Application:
        """All that is served."""
        application = web.Application(client_max_size=MOST_BODY, middlewares=[self._guard])
        for path in FILES:
            application.router.add_get(path, self._file)
        application.router.add_post("/login", self._login)
        application.router.add_get("/live", self._live)
        application.router.add_get("/api/episodes", self._episodes)
        application.router.add_get("/video/{name}", self._video)
        application.router.add_post("/api/{name}", self._command)
        application.on_startup.append(self._begin)
        application.on_shutdown.append(self._end)
        return application

    async def start(self, port: int) -> web.AppRunner:
        """Listens. Raises AccessError or OSError where that is not possible."""
        tls = self._access.tls()
        runner = web.AppRunner(
            self.application(),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=SHUTDOWN_TIMEOUT,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self._access.address, port, ssl_context=tls).start()
        except BaseException:
            await runner.cleanup()
            raise
        return runner

    async def _begin(self, _: web.Application) -> None:
        self._tasks = [
            asyncio.create_task(self._repeat(self._send_state, STATE_PERIOD)),
            asyncio.create_task(self._repeat(self._send_pictures, self._image_period)),
        ]

    async def _end(self, _: web.Application) -> None:
        for task in self._tasks:
            task.cancel()
        self._eyes.shutdown(wait=False, cancel_futures=True)
        closing = [asyncio.create_task(link.close(GOING_AWAY)) for link in self._viewers.links]
        if closing:
            # A viewer that takes nothing must not hold up the end.
            await asyncio.wait(closing, timeout=SHUTDOWN_TIMEOUT)

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Refuses what does not come from the page itself, or from somebody without the token."""
        try:
            self._access.require_own_site(request.headers)
            if request.path == "/login" or self._access.knows(
                request.headers.get("Authorization", ""), request.cookies.get(COOKIE, "")
            ):
                response = await handler(request)
            else:
                response = self._ask_for_token(request)
        except AccessError as error:
            response = _refusal(403, str(error))
        except web.HTTPException as error:
            response = _refusal(error.status, error.reason)
        except Exception as error:
            self._report(error)
            response = _refusal(500, f"it failed: {one_line(error)}")
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    def _ask_for_token(self, request: web.Request) -> web.Response:
        if request.method == "GET" and request.path == "/":
            page = _shipped("login.html").read_text()
            return web.Response(status=401, text=page, content_type="text/html")
        return _refusal(401, "the token is missing or wrong: open the page and give it there")

    async def _login(self, request: web.Request) -> web.Response:
        given = (await request.post()).get("token", "")
        if not self._access.token or not isinstance(given, str):
            raise web.HTTPNotFound()
        if not self._access.is_token(given.strip()):
            raise AccessError("that is not the token")
        response = web.Response(status=303, headers={"Location": "/"})
        response.set_cookie(
            COOKIE,
            self._access.session,
            httponly=True,
            samesite="Strict",
            secure=self._access.certificate is not None,
        )
        return response

    async def _file(self, request: web.Request) -> web.Response:
        name, kind = FILES[request.path]
        return web.Response(text=_shipped(name).read_text(), content_type=kind)

    # What is watched

    async def _live(self, request: web.Request) -> web.StreamResponse:
        if len(self._viewers.links) >= MOST_VIEWERS:
            return _refusal(503, f"{MOST_VIEWERS} viewers watch already")
        connection = web.WebSocketResponse(
            timeout=SHUTDOWN_TIMEOUT,
            heartbeat=HEARTBEAT,
            max_msg_size=4096,
            compress=False,
        )
        connection.headers.update(HEADERS)
        await connection.prepare(request)
        link = Link(connection)
        viewer, earlier = self._viewers.join(request.query.get("key", "")[:LONGEST_KEY], link)
        if earlier is not None:
            self._closing.add(closing := asyncio.create_task(earlier.close(REPLACED)))
            closing.add_done_callback(self._closing.discard)
        self._lease.come_back(viewer.number)
        about = self._robot.about() | {"image_period": self._image_period}
        link.offer("hello", hello(viewer, about))
        sending = asyncio.create_task(link.send())
        try:
            # Viewers say what they have shown, and no more: commands are requests of their own.
            async for message in connection:
                if message.type is not WSMsgType.TEXT or not link.shown(message.data):
                    await connection.close(code=UNWANTED, message=b"not what was sent")
        finally:
            sending.cancel()
            # Else the same browser has connected again.
            if viewer.link is link:
                viewer.link = None
                self._lease.leave(viewer.number)
        return connection

    async def _repeat(self, work: Callable[[], Awaitable[None]], period: float) -> None:
        """Does something once a period while anybody watches."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + period
            if self._viewers.links:
                try:
                    await work()
                except Exception as error:
                    self._report(error)
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def _send_state(self) -> None:
        state = {
            "type": "state",
            "viewers": len(self._viewers.links),
            "operator": self._lease.holder,
        } | self._robot.state()
        self._viewers.offer("state", json.dumps(state, allow_nan=False))

    async def _send_pictures(self) -> None:
        loop = asyncio.get_running_loop()
        for camera in self._robot.about()["cameras"]:
            # Off the loop, which answers commands meanwhile.
            picture = await loop.run_in_executor(self._eyes, self._robot.picture, camera)
            if picture is not None:
                self._viewers.offer(camera, packed(picture))

    async def _episodes(self, request: web.Request) -> web.Response:
        before = request.query.get("before", "")[:LONGEST_KEY]
        return web.json_response(await asyncio.to_thread(self._shelf.listed, before))

    async def _video(self, request: web.Request) -> web.StreamResponse:
        try:
            path = await asyncio.to_thread(self._shelf.video, request.match_info["name"])
        except (BagError, PlaybackError) as error:
            return _refusal(404, str(error))
        return web.FileResponse(path, headers={"Content-Type": "video/mp4"})

    # What is commanded

    async def _command(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        viewer = self._viewers.find(request.headers.get(VIEWER_HEADER, ""))
        if name in ("take", "give"):
            return self._pass_control(name, viewer)
        if name not in FIELDS:
            raise web.HTTPNotFound()
        if name in FOR_EVERYBODY:
            # Whatever else is in the request, it is not a reason to go on moving.
            return await self._carried_out(PageCommand(name))
        # Who has control when all of it has come counts: it may come slowly.
        await request.read()
        if viewer is None or not self._lease.use(viewer.number):
            return _refusal(409, "take control first")
        try:
            command = read_command(name, await request.text())
        except (CommandRefusedError, UnicodeDecodeError, LookupError) as error:
            return _refusal(400, one_line(error))
        return await self._carried_out(command)

    def _pass_control(self, name: str, viewer: Viewer | None) -> web.Response:
        if viewer is None:
            return _refusal(409, "only a viewer whose page is open can have control")
        if name == "give":
            self._lease.give(viewer.number)
            return _answered(CommandAnswer(True))
        problem = self._lease.take(viewer.number)
        return _refusal(409, problem) if problem else _answered(CommandAnswer(True))

    async def _carried_out(self, command: PageCommand) -> web.Response:
        # A viewer who leaves must not take the command back half-way.
        return _answered(await asyncio.shield(self._robot.carry_out(command)))


def _shipped(name: str) -> Path:
    return shared_file(f"config/page/{name}")


def _answered(answer: CommandAnswer) -> web.Response:
    return web.json_response({"success": answer.success, "message": answer.message})


def _refusal(status: int, message: str) -> web.Response:
    return web.json_response({"success": False, "message": message}, status=status)
