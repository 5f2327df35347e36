"""`vla record` as processes, against a real recorder over DDS."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from node_harness import ROOT, Graph
from recorded_robot import Robot, started

from vla.bags.reader import read_metadata, validate_bag

pytestmark = pytest.mark.nodes
START_UP = 90.0


def test_record_from_the_command_line(tmp_path):
    with Graph() as graph:
        started(graph, tmp_path, ring_buffer=30.0)
        robot = Robot(graph)

        def record(*arguments, status=0):
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "scripts" / "vla"), "record", *arguments],
                env=graph.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            graph.wait(lambda: robot.send() or process.poll() is not None, "its end", START_UP)
            out, error = process.communicate()
            assert process.returncode == status, error
            return out if status == 0 else error

        assert "no episode is being recorded" in record("stop", status=1)
        started_ = record("start", "--instruction", "stack the cups", "--note", "by hand")
        bag = Path(started_.split()[-1])
        assert "grasp" in record("mark", "grasp")
        assert "messages in" in record("stop", "--outcome", "success")
        assert record("label", "failure", "--note", "fell over").startswith(bag.name)
        metadata = read_metadata(bag).custom_data
        assert metadata["instruction"] == "stack the cups"
        assert (metadata["outcome"], metadata["note"]) == ("failure", "by hand\nfell over")
        assert json.loads(metadata["subtasks"])[0]["name"] == "grasp"
        saved = record("save-recent", "--seconds", "1", "--outcome", "success")
        assert validate_bag(saved.split(":")[0]).duration <= 1.0
        record("start")
        assert "discarded" in record("discard")
        assert len(list(tmp_path.iterdir())) == 2
