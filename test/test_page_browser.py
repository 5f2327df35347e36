"""The operator page in a headless Chromium, on the running simulated graph, at two sizes."""

from __future__ import annotations

import pytest
from browser import CHROMIUM, Browser
from node_harness import Graph
from page_browser import SIZES, OperatorPageBrowser, add_older_episodes, use_every_control
from page_graph import start_graph_with_page
from page_robot import LOCAL, ScriptedRobot
from vla_ros.msg import PolicyStatus

from vla.page.episodes import EpisodeShelf
from vla.page.server import PageServer
from vla.page.shown import policy_values
from vla_nodes.page.serving import ServerThread

SHOWN = {
    "alive": True,
    "silence": 0.1,
    "policy": policy_values(PolicyStatus(), ""),
    "checkpoint": "",
    "answers": [],
    "limits": [],
    "stages": [],
    "diagnostics": [],
    "recording": {"episode": "", "message": ""},
}
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


@pytest.mark.nodes
def test_every_control_works_and_all_is_to_be_seen_at_both_sizes(tmp_path, checkpoint):
    with Graph(use_sim_time=True) as graph:
        add_older_episodes(tmp_path / "bags")
        _, url = start_graph_with_page(graph, checkpoint, tmp_path / "bags")
        with Browser(tmp_path) as browser:
            shown = OperatorPageBrowser(browser, url)
            for width, height in SIZES.values():
                shown.resize(width, height)
                shown.until("state && state.alive", "graph")
                shown.require_usable()
            # At both sizes: tools/page_pictures.py, with the shipped policy.
            use_every_control(shown, "")
            # A refused video or adapter is an answer; scripts and styles must give no errors.
            errors = [e for e in browser.events if e.get("method") == "Runtime.exceptionThrown"]
            assert not errors


# How long the page took to say so [ms], less what a busy machine kept its timers waiting.
TOLD_AFTER = """
new Promise((resolve) => {
  let [late, before] = [0, performance.now()];
  setInterval(() => {
    const now = performance.now();
    late = Math.max(late, now - before - 20);
    before = now;
    if (!document.getElementById("lost").hidden) resolve(performance.now() - heardAt - 2 * late);
  }, 20);
})
"""


@pytest.mark.slow
def test_the_page_says_within_a_second_that_the_link_is_gone_and_comes_back(tmp_path, contract):
    shelf = EpisodeShelf(tmp_path / "bags")
    server, robot = ServerThread(), ScriptedRobot()
    robot.shown = SHOWN | {
        "answers": [{"prompt": "<img src=x>", "text": "<b>no</b>", "seconds": 1}]
    }
    failures: list[Exception] = []

    def made() -> PageServer:
        return PageServer(robot, LOCAL, shelf, 60.0, 10.0, failures.append)

    port = server.start(made(), 0)
    with Browser(tmp_path) as browser:
        page = OperatorPageBrowser(browser, f"http://127.0.0.1:{port}/")
        page.until("state && state.alive", "graph")
        assert browser.text("answers") == "<img src=x>: <b>no</b> (1.00 s)"
        assert browser.value("document.querySelectorAll('#answers img, #answers b').length") == 0
        page.take_control()
        # Enter presses a button; the space bar stops, also where a button has the focus.
        browser.value("document.getElementById('resume').focus()")
        page.press("Enter")
        page.replies("resume:")
        page.press("Space")
        page.replies("emergency stop:")
        browser.value("document.getElementById('text').focus()")
        page.press("Space")
        assert browser.value("document.getElementById('text').value") == " "
        assert [command.name for command in robot.done] == ["resume", "emergency_stop"]
        caption = "document.getElementById('camera-front').nextSibling.textContent"
        robot.blind.add("front")
        page.until(f"{caption}.startsWith('front: no new image for ')", "word of an old image")
        assert browser.value("document.getElementById('camera-front').className") == "frozen"
        assert browser.value("document.getElementById('camera-wrist').className") == ""
        robot.blind.clear()
        page.until(f"{caption} === 'front: not calibrated, no path'", "new image")
        robot.shown = robot.shown | {"alive": False, "silence": 0.9}
        page.until("!document.getElementById('lost').hidden", "warning")
        assert "the controller is silent for 0.9 s" in browser.text("lost")
        robot.shown = robot.shown | {"alive": True}
        page.until("document.getElementById('lost').hidden", "end of the warning")
        server.stop()
        assert browser.value(TOLD_AFTER) < 1000
        assert "link to the robot is gone" in browser.text("lost")
        assert browser.value("document.getElementById('resume').disabled")
        server = ServerThread()
        server.start(made(), port)
        page.until("document.getElementById('lost').hidden && state.alive", "link")
    server.stop()
    shelf.close()
    assert not failures
