#!/usr/bin/env python3
"""Makes the pictures of docs/page.md: the operator page on the simulated robot, at two sizes.

    python tools/page_pictures.py

Uses every control of the page with the shipped policy on the way. Needs Chromium.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test"))

from browser import Browser  # noqa: E402
from node_harness import Graph  # noqa: E402
from page_browser import SIZES, OperatorPageBrowser, use_every_control  # noqa: E402
from test_page_node import url_of  # noqa: E402


def main() -> None:
    """Writes docs/images/page_SIZE.png."""
    with tempfile.TemporaryDirectory() as folder, Graph(use_sim_time=True) as graph:
        graph.start_with_policy(ROOT / "checkpoints" / "nano")
        bags = str(Path(folder) / "bags")
        graph.start("recorder", directory=bags, use_sim_time=True)
        robot = ROOT / "config" / "robots" / "sim_panda.yaml"
        node = graph.start("page", parameters_file=robot, directory=bags, port=0, use_sim_time=True)
        url = url_of(graph, node)
        graph.wait_state("recorder", "active", 90.0)
        with Browser(Path(folder)) as browser:
            page = OperatorPageBrowser(browser, url)
            page.resize(*SIZES["wide"])
            page.until("state && state.alive", "graph")
            use_every_control(page, "")
            page.take_control()
            page.write("#text", "pick up the green can")
            page.click("input[value=think]")
            page.click("#instruct button")
            for name, size in SIZES.items():
                page.resize(*size)
                page.until("state.policy.state === 'executing'", "motion")
                page.until("document.querySelector('figcaption').textContent.includes('predicted')",
                           "path")  # fmt: skip
                page.require_usable()
                page.picture(ROOT / "docs" / "images" / f"page_{name}.png")


if __name__ == "__main__":
    main()
