"""`run`: the whole main program of a node, from joining the graph to the end of its process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

import rclpy
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor

from vla.core.processes import wait_asleep
from vla_nodes.core.log import error_text, traceback_text
from vla_nodes.core.node import FINALIZED, ManagedNode
from vla_nodes.core.shared_memory import join_graph
from vla_nodes.core.timed_end import end_after

EXIT_PATIENCE = 3.0
END_PATIENCE = 2  # for cleaning up [s]
# What a process sent last is lost where it ends before the reader looks. Nothing tells that a
# service's answer has arrived, and on a busy machine that takes some tenths of a second [s].
ANSWER_TIME = 1.0


def run(node_class: Callable[[], ManagedNode], arguments: list[str] | None = None) -> int:
    """Runs one node until SIGINT, SIGTERM or a shutdown by others, and ends the process.

    Returns only where the node cannot be made: 1, the exit status. The executor has its own thread;
    the main thread waits for signals, so that the graph still exists while the node deactivates and
    cleans up. After that the process ends at once: to take the interpreter apart, with torch and
    MuJoCo in it, takes many seconds on a busy machine, and frees nothing that the system would not.
    """
    wait_asleep()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    join_graph(arguments)
    try:
        node = node_class()
    except Exception as error:
        print(f"cannot start: {error_text(error)}", file=sys.stderr)
        print(traceback_text(error), file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    node.ended = stop
    if node.settings["end_with_launcher"]:
        threading.Thread(
            target=_end_with_reader, args=(node, sys.stdout.fileno()), name="launcher", daemon=True
        ).start()
    many = node.THREADS > 1
    executor = MultiThreadedExecutor(node.THREADS) if many else SingleThreadedExecutor()
    executor.add_node(node)
    executor.create_task(node.autostart)
    spinning = threading.Thread(
        target=_spin, args=(executor, node, stop), name="executor", daemon=True
    )
    spinning.start()
    stop.wait()
    if rclpy.ok():
        # Work for the executor, so that it wakes and sees that it is to stop.
        executor.create_task(lambda: None)
    spinning.join(EXIT_PATIENCE)
    if spinning.is_alive():
        node.get_logger().warning("still busy at the end; exiting without cleaning up")
    else:
        if rclpy.ok():
            node.rest()
        if node.state == FINALIZED:
            time.sleep(ANSWER_TIME)  # whoever asked for the shutdown waits for its answer
        # Bags are closed and the arm holds: what is left takes the node off the graph.
        with contextlib.suppress(OSError):
            end_after(END_PATIENCE)
        if rclpy.ok():
            node.close()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    _leave()


def _leave() -> NoReturn:
    """Ends the process with status 0 once all that was printed and logged has been written."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # whoever read it may have gone
            stream.flush()
    ctypes.CDLL(None).fflush(None)  # the log file is one of C's streams
    os._exit(0)


def _end_with_reader(node: ManagedNode, descriptor: int) -> None:
    """Waits until nothing reads what is written to `descriptor`, then has the process end.

    A launcher holds the other end of each node's standard output. The system closes that when the
    launcher ends, however it ends; a node that starts only afterwards finds it closed.
    """
    watched = select.poll()
    watched.register(descriptor, 0)  # no event but that the other end was closed
    watched.poll()
    node.get_logger().warning("nobody reads standard output any more: the launcher has gone")
    node.ended.set()


def _spin(executor, node: ManagedNode, stop: threading.Event) -> None:
    many = isinstance(executor, MultiThreadedExecutor)
    while not stop.is_set():
        try:
            if many:
                executor.spin_once()
            else:
                _run_next(executor, node)
        except ExternalShutdownException:
            break
        except Exception as error:
            node.report_failure(error)
    stop.set()


def _run_next(executor: SingleThreadedExecutor, node: ManagedNode) -> None:
    """Waits for the next callback and runs it, as spin_once does, under the node's lock."""
    task, _, _ = executor.wait_for_ready_callbacks()
    with node.callback_lock:
        task()
    if task.exception() is not None:
        raise task.exception()
