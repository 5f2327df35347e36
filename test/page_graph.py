"""The simulated robot's graph with recorder and operator page, for tests, pictures and figures."""

from __future__ import annotations

import re
from pathlib import Path

from node_harness import Graph, NodeProcess

from vla.core.resources import shared_file


def start_page(graph: Graph, bags: Path) -> tuple[NodeProcess, str]:
    """Starts the page beside a simulated robot; returns it with its URL. bags: the recorder's."""
    calibrated = shared_file("config/robots/sim_panda.yaml")
    page = graph.start(
        "page", parameters_file=calibrated, directory=str(bags), port=0, use_sim_time=True
    )
    return page, url_of(graph, page)


def url_of(graph: Graph, page: NodeProcess) -> str:
    """Where a page is, from its log."""
    graph.wait(lambda: "the page is at" in page.output, "page", 90.0)
    return re.search(r"the page is at (\S+)/", page.output)[1]


def start_graph_with_page(
    graph: Graph, checkpoint: Path, bags: Path
) -> tuple[dict[str, NodeProcess], str]:
    """Starts all nodes, which are active then; returns them by name, and the URL of the page."""
    nodes = graph.start_with_policy(checkpoint)
    nodes["recorder"] = graph.start("recorder", directory=str(bags), use_sim_time=True)
    nodes["page"], url = start_page(graph, bags)
    graph.wait_state("recorder", "active", 90.0)
    return nodes, url
