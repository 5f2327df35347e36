"""How a node's process ends: with its launcher, at a signal, and without a trace in the graph."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from node_harness import ROOT, Graph, NodeProcess

pytestmark = pytest.mark.nodes


def start_with_pipe(graph: Graph, end_with_launcher: bool) -> tuple[NodeProcess, int]:
    """The node as a launcher starts it, and the end of its standard output that one reads."""
    reader, writer = os.pipe()
    words = ["-p", "autostart:=false", "-p", f"end_with_launcher:={end_with_launcher}"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts/perception"), "--ros-args", *words],
        stdout=writer,
        stderr=subprocess.DEVNULL,
        env=graph.environment,
    )
    os.close(writer)
    graph.processes.append(NodeProcess("perception", process, Path(os.devnull)))
    return graph.processes[-1], reader


def left(graph: Graph) -> bool:
    return "perception" not in graph.node.get_node_names()


@pytest.mark.parametrize("started", [True, False])
def test_a_launched_node_ends_when_its_launcher_has_gone(started):
    with Graph() as graph:
        node, reader = start_with_pipe(graph, end_with_launcher=True)
        if started:
            graph.wait_state("perception", "unconfigured")
        os.close(reader)
        graph.wait(lambda: not node.running, "end of the node", alive=False)
        assert node.process.returncode == 0
        graph.wait(lambda: left(graph), "graph without the node", alive=False)


def test_a_node_that_was_started_by_hand_needs_no_reader():
    with Graph() as graph:
        node, reader = start_with_pipe(graph, end_with_launcher=False)
        graph.wait_state("perception", "unconfigured")
        os.close(reader)
        assert graph.transition("perception", "shutdown")
        graph.wait(lambda: not node.running, "end of the node", alive=False)


def test_a_node_that_ends_leaves_the_graph_and_its_last_words(tmp_path, monkeypatch):
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path))
    with Graph() as graph:
        node = graph.start("perception")
        graph.wait_state("perception", "active")
        assert node.stop(signal.SIGINT) == 0
        # At once, and not when its lease of 20 s is over, as that of a node that was killed.
        graph.wait(lambda: left(graph), "graph without the node", 8.0, alive=False)
        assert "Traceback" not in node.output and "nanobind" not in node.output
        (log,) = tmp_path.glob(f"*_{node.process.pid}_*.log")
        assert "cleaned up" in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_that_is_interrupted_while_it_imports_ends_cleanly(tmp_path, number):
    """Its import of our messages waits for ever here."""
    (tmp_path / "vla_ros.py").write_text(
        "import os, time\nprint('importing', flush=True)\nwhile True: time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts/perception")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")


# A node whose cleanup never returns, and keeps Python's lock, as a deadlock in the middleware does.
STUCK = """\
import ctypes
from vla_nodes.core.node import ManagedNode
from vla_nodes.core.running import run

class Stuck(ManagedNode):
    def deactivate(self):
        print("rests", flush=True)

    def cleanup(self):
        ctypes.PyDLL(None).sleep(600)

run(lambda: Stuck("stuck"))
"""


def test_a_node_whose_cleanup_hangs_in_the_middleware_ends_all_the_same(tmp_path):
    script = tmp_path / "stuck"
    script.write_text(STUCK)
    with Graph() as graph:
        log = tmp_path / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, str(script)],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=graph.environment,
            )
        node = NodeProcess("stuck", process, log)
        graph.processes.append(node)
        graph.wait_state("stuck", "active")
        assert node.stop(signal.SIGINT, timeout=60.0) == 0
        assert "rests" in node.output and "cleaned up" not in node.output
