"""The adapter services of a model node: `load_adapter` and `revert_adapter`, below the node's name.

A callback only leaves the request; the worker's thread changes the model, between two computations.
Half of the policy is changed here. The controller (adapter_server.py) asks both halves, and takes
back what one of them has done when the other one fails, for which `revert_adapter` is there.
"""

from __future__ import annotations

import time
from collections import deque

from rclpy.task import Future
from vla_ros.srv import LoadAdapter

from vla_nodes.core.node import FINALIZED, UNCONFIGURED

# Requests that may wait; the controller sends one, and one to take it back.
MOST_REQUESTS = 8


class AdapterLoader:
    """Puts adapters into the model of a node, and out again."""

    def __init__(self, node):
        """Creates the services. node: a ModelNode; its worker calls serve()."""
        self._node = node
        self._requests: deque[tuple[str | None, Future]] = deque()
        # What the last request to load found, alone in a tuple; None before the first.
        self._found: tuple | None = None
        for name, callback in (("load", self._on_load), ("revert", self._on_revert)):
            node.create_service(LoadAdapter, f"~/{name}_adapter", callback)

    async def _on_load(self, request, response):
        return await self._ask_worker(request.path)

    async def _on_revert(self, request, response):
        return await self._ask_worker(None)

    async def _ask_worker(self, path: str | None) -> LoadAdapter.Response:
        """path: folder to load, "" to drop what is loaded, None to go back by one request."""
        if self._node.state in (UNCONFIGURED, FINALIZED):
            return LoadAdapter.Response(message=self._not_configured())
        if len(self._requests) >= MOST_REQUESTS:
            return LoadAdapter.Response(
                message=f"busy: {MOST_REQUESTS} requests for an adapter wait already",
                checkpoint_id=self._node.model.checkpoint_id,
            )
        future = Future(executor=self._node.executor)
        self._requests.append((path, future))
        self._node.wake()
        return await future

    def serve(self) -> None:
        """Does what was asked for; to be called in the thread that runs the model."""
        while self._requests:
            path, future = self._requests.popleft()
            try:
                message = self._revert() if path is None else self._load(path)
                response = LoadAdapter.Response(success=True, message=message)
            except Exception as error:
                # Not only a CheckpointError: memory may be short, a disk may fail. The caller gets
                # the reason; the model is as it was.
                response = LoadAdapter.Response(message=" ".join(str(error).split()))
                self._node.get_logger().warning(f"no other adapter: {response.message}")
            response.checkpoint_id = self._node.model.checkpoint_id
            self._node.answer(future, response)

    def close(self) -> None:
        """Refuses what still waits, as the model is about to go."""
        while self._requests:
            response = LoadAdapter.Response(message=self._not_configured())
            self._node.answer(self._requests.popleft()[1], response)
        self._found = None

    def _load(self, path: str) -> str:
        # Noted first, so that going back changes nothing after a request that failed.
        self._found = (self._node.model.adapter,)
        self._put(self._node.model.open_adapter(path) if path else None)
        return f"loaded {path}" if path else "dropped the adapter"

    def _revert(self) -> str:
        if self._found is None:
            return "no adapter was asked for since the model was loaded"
        self._put(self._found[0])
        return "went back to what was loaded before"

    def _put(self, adapter) -> None:
        model = self._node.model
        if _id(adapter) == _id(model.adapter):
            return
        before = model.checkpoint_id
        started = time.monotonic()
        model.set_adapter(adapter)
        # Text and latent actions of other weights are worth nothing to these.
        self._node.flush()
        self._node.show_checkpoint()
        self._node.get_logger().info(
            f"checkpoint {model.checkpoint_id} instead of {before}, after "
            f"{time.monotonic() - started:.2f} s"
        )

    def _not_configured(self) -> str:
        return f"{self._node.get_name()} has no model: configure the node first"


def _id(adapter) -> str:
    return adapter.adapter_id if adapter is not None else ""
