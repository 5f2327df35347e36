"""The node `page` beside the simulated robot, over HTTP: instructions, stops, recording."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from node_harness import Graph, NodeProcess
from page_graph import start_graph_with_page, start_page
from page_robot import PageClient

pytestmark = pytest.mark.nodes


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


async def operate(url: str, end_controller: Callable[[], None]) -> None:
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
        nodes, url = start_graph_with_page(graph, checkpoint, tmp_path / "bags")

        def end_controller() -> None:
            nodes["controller"].kill()
            graph.processes.remove(nodes["controller"])

        asyncio.run(asyncio.wait_for(operate(url, end_controller), 300.0))
        assert nodes["page"].stop(signal.SIGINT) == 0
        assert "Traceback" not in nodes["page"].output


async def record(url: str, bags: Path, change_disk: Callable[[], None]) -> None:
    """Recordings that cannot be, and one that goes on."""
    async with aiohttp.ClientSession() as session:
        page = await PageClient(session, url).open()
        assert (await page.send("take"))[0] == 200
        # The page may hear of the recorder's services later than the test of its state.
        while not (begun := (await page.send("record_start"))[1])["success"]:
            await page.message("state")
        assert (await page.send("record_stop"))[1]["success"]
        name = begun["message"].removeprefix("recording ")
        shutil.rmtree(bags / name)
        for which in (name, ""):
            label = {"episode": which, "outcome": "failure"}
            _, refused = await page.send("record_label", label)
            assert not refused["success"] and f"no episode '{name}'" in refused["message"]
        assert (await page.get("/api/episodes")).json()["count"] == 0
        assert (await page.get(f"/video/{name}")).status == 404
        change_disk()
        _, refused = await page.send("record_start")
        assert not refused["success"] and "cannot create the folder" in refused["message"]
        change_disk()
        assert (await page.send("record_start"))[1]["success"]


async def come_back(url: str, end_recorder: Callable[[], None]) -> None:
    """What a page shows that was started again while an episode is recorded."""
    async with aiohttp.ClientSession() as session:
        page = await PageClient(session, url).open("the key of the page before")
        while not (await page.message("state"))["recording"]["episode"]:
            pass
        assert (await page.send("record_stop"))[0] == 409, "control does not outlive the page"
        end_recorder()
        while "the recorder is silent" not in (await page.message("state"))["recording"]["message"]:
            pass


def test_bad_disks_and_nodes_that_die_are_told(tmp_path):
    with Graph(use_sim_time=True) as graph:
        graph.start("sim")
        bags, file = tmp_path / "bags", tmp_path / "file"
        file.touch()
        recorder = graph.start("recorder", directory=str(bags), use_sim_time=True)
        page, url = start_page(graph, bags)
        graph.wait_state("recorder", "active", 90.0)
        folders = iter([file / "bags", bags])

        def change_disk() -> None:
            graph.set_parameters("recorder", directory=str(next(folders)))

        def end(node: NodeProcess) -> None:
            node.kill()
            graph.processes.remove(node)

        asyncio.run(asyncio.wait_for(record(url, bags, change_disk), 120.0))
        assert "Traceback" not in page.output
        end(page)
        _, url = start_page(graph, bags)
        asyncio.run(asyncio.wait_for(come_back(url, lambda: end(recorder)), 120.0))
