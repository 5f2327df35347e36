#!/usr/bin/env python3
"""Makes the pictures of docs/page.md: the operator page on the simulated robot, at two sizes.

    python tools/page_pictures.py

Uses every control of the page with the shipped policy on the way, at both. Needs Chromium.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test"))

from browser import Browser  # noqa: E402
from node_harness import Graph  # noqa: E402
from page_browser import (  # noqa: E402
    SIZES,
    OperatorPageBrowser,
    add_older_episodes,
    use_every_control,
)
from page_graph import start_graph_with_page  # noqa: E402


def main() -> None:
    """Writes docs/images/page_SIZE.png."""
    with tempfile.TemporaryDirectory() as folder, Graph(use_sim_time=True) as graph:
        bags = Path(folder) / "bags"
        add_older_episodes(bags)
        _, url = start_graph_with_page(graph, ROOT / "checkpoints" / "nano", bags)
        with Browser(Path(folder)) as browser:
            page = OperatorPageBrowser(browser, url)
            for name, size in SIZES.items():
                page.resize(*size)
                page.until("state && state.alive", "graph")
                page.require_usable()
                use_every_control(page, "")
                page.take_control()
                page.write("#text", "pick up the green can")
                page.click("input[value=think]")
                page.click("#instruct button")
                page.until(
                    "state.policy.state === 'executing'"
                    " && state.stages.some(({ stage }) => stage === 'action expert')"
                    " && document.querySelector('figcaption').textContent.includes('predicted')",
                    "motion with its path and all delays",
                )
                page.picture(ROOT / "docs" / "images" / f"page_{name}.png")
                print(f"every control was used at {size[0]} x {size[1]} pixels")


if __name__ == "__main__":
    main()
