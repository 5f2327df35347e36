"""The page's server in a thread of its own, so that a slow browser never delays the node."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

from aiohttp import web

from vla.page.server import PageServer

# Longest wait for the server to begin, and to end [s].
PATIENCE = 10.0


class ServerThread:
    """Runs a server from start() to stop()."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="page server", daemon=True)
        self._runner: web.AppRunner | None = None

    def start(self, server: PageServer, port: int) -> int:
        """Begins to serve; returns the port. Raises AccessError or OSError where it cannot."""
        self._thread.start()
        try:
            runner = self._runner = self._wait(server.start(port))
        except BaseException:
            self.stop()
            raise
        return runner.addresses[0][1]

    def stop(self) -> None:
        """Ends all connections, and the thread."""
        if not self._thread.is_alive():
            return
        try:
            if self._runner is not None:
                self._wait(self._runner.cleanup())
        finally:
            self._runner = None
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(PATIENCE)

    def _wait(self, work):
        future: Future = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(PATIENCE)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()
