"""The node `page` beside the simulated robot, over HTTP: instructions, stops, recording."""

from __future__ import annotations

import asyncio
import re
import signal

import aiohttp
import pytest
from node_harness import Graph
from page_robot import PageClient

from vla.core.resources import shared_file

pytestmark = pytest.mark.nodes


def url_of(graph: Graph, node) -> str:
    """Where the page is, from its log."""
    graph.wait(lambda: "the page is at" in node.output, "page", 90.0)
    return re.search(r"the page is at (\S+)/", node.output)[1]


def test_strangers_are_kept_out_at_configure():
    with Graph() as graph:
        node = graph.start("page", autostart=False, address="0.0.0.0", port=0)
        graph.wait_state("page", "unconfigured", 90.0)
        assert not graph.transition("page", "configure")
        assert "others could reach the page and move the robot: give 'token_file'" in node.output
        graph.set_parameters("page", address="127.0.0.1")
        for _ in range(2):
            node.forget_output()
            assert graph.transition("page", "configure")
            assert graph.transition("page", "activate")
            assert "the page is at http://127.0.0.1:" in node.output
            assert graph.transition("page", "deactivate")
            assert graph.transition("page", "cleanup")
        assert node.stop(signal.SIGTERM) == 0
        assert "Traceback" not in node.output


async def operate(url: str, end_controller) -> None:
    """What an operator does, over HTTP."""
    async with aiohttp.ClientSession() as session:
        page = PageClient(session, url)
        await page.open()

        async def until(condition) -> dict:
            while not condition(state := await page.message("state")):
                pass
            return state

        await until(lambda state: state["alive"])
        assert (await page.send("instruct", {"text": "pick up the can"}))[0] == 409
        assert (await page.send("take"))[0] == 200
        note = {"note": "by the page"}
        # The page may hear of the recorder's services later than the test of its state.
        while not (await page.send("record_start", note))[1]["success"]:
            await page.message("state")
        await until(lambda state: state["recording"]["episode"])
        told = await page.send("instruct", {"text": "pick up the <b>can</b>"})
        assert told[1]["success"], told
        state = await until(lambda state: state["policy"]["state"] == "executing")
        assert state["policy"]["instruction"] == "pick up the <b>can</b>"
        assert state["policy"]["mode"] == ""  # what the policy makes of it
        seen = {}
        while len(seen) < 2:
            for camera in ("front", "wrist"):
                picture = await page.message(camera)
                assert len(picture["path"]) == 0 or picture["calibrated"]
                if len(picture["path"]) > 1:
                    seen[camera] = picture["path"]
        assert (await page.send("stop"))[1]["success"]
        await until(lambda state: state["policy"]["state"] == "stopped")
        assert (await page.send("resume"))[1]["success"]
        await until(lambda state: state["policy"]["state"] == "executing")
        assert (await page.send("emergency_stop"))[1]["success"]
        await until(lambda state: state["policy"]["state"] == "emergency stopped")
        status, refused = await page.send("instruct", {"text": "pick up the can"})
        assert status == 200 and not refused["success"] and "emergency" in refused["message"]
        assert (await page.send("reset_emergency_stop"))[1]["success"]
        stopped = await page.send("record_stop", {"outcome": "success"})
        assert stopped[1]["success"], stopped
        listed = (await page.get("/api/episodes")).json()
        assert [each["outcome"] for each in listed["episodes"]] == ["success"]
        name = listed["episodes"][0]["name"]
        assert (await page.get(f"/video/{name}")).status == 200
        state = await until(lambda state: len(state["stages"]) > 3)
        assert {"controller", "page", "sim"} <= {each["node"] for each in state["diagnostics"]}
        end_controller()
        await until(lambda state: not state["alive"])
        _, missing = await page.send("resume")
        assert not missing["success"]


def test_an_operator_instructs_stops_and_records(tmp_path, checkpoint):
    with Graph(use_sim_time=True) as graph:
        nodes = graph.start_with_policy(checkpoint)
        bags = str(tmp_path / "bags")
        graph.start("recorder", directory=bags, use_sim_time=True)
        page = graph.start(
            "page",
            parameters_file=shared_file("config/robots/sim_panda.yaml"),
            directory=bags,
            port=0,
            use_sim_time=True,
        )
        url = url_of(graph, page)
        graph.wait_state("recorder", "active", 90.0)

        def end_controller() -> None:
            nodes["controller"].kill()
            graph.processes.remove(nodes["controller"])

        asyncio.run(asyncio.wait_for(operate(url, end_controller), 300.0))
        assert page.stop(signal.SIGINT) == 0
        assert "Traceback" not in page.output
