"""The recorder's benchmarks run, for a time that says nothing about how good it is."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from node_harness import ROOT

pytestmark = pytest.mark.nodes


def figures_of(script: str, *arguments: str, folder) -> dict:
    output = folder / "figures.json"
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    command += ["--directory", str(folder / "bags"), "--json", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert output.is_file(), done.stderr
    return json.loads(output.read_text())


def test_recording_accounts_for_every_message(tmp_path):
    figures = figures_of("recording.py", "--seconds", "2", folder=tmp_path)
    topics = figures["topics"]
    assert len(topics) == 8 and topics["/joint_states"]["published"] > 1000
    assert all(t["recorded"] + t["missing"] == t["published"] for t in topics.values())
    assert figures["missing"] < 0.05 * figures["published"] and figures["repeated"] == 0
    assert figures["megabytes_per_second"] > 20 and figures["gigabytes"] > 0.05
    assert 0 < figures["recorder_cpu_percent_of_one_core"] < 200
    assert not list((tmp_path / "bags").glob("episode_*"))


def test_killed_recorders_leave_bags_that_open(tmp_path):
    figures = figures_of("recorder_kills.py", "--kills", "2", folder=tmp_path)
    assert figures["kills"] == len(figures["rounds"]) == 2
    assert figures["opened_by"]["ours"] == 2 and not figures["failures"]
    assert figures["rounds"][1]["messages"] > 0
