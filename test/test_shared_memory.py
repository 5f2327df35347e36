"""Shared memory that a killed process left half made keeps no node and no client from starting."""

import os
import threading
import time
from pathlib import Path

import pytest
from node_harness import Graph

from vla_nodes.core.shared_memory import UNFINISHED_AFTER, remove_half_made_segments

SHARED_MEMORY = Path("/dev/shm")
WHOLE = (2).to_bytes(4, "little") + bytes(96)
BEGUN = (1).to_bytes(4, "little") + bytes(96)


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_only_half_made_segments_are_removed(tmp_path):
    contents = {
        "fastrtps_port15161": b"",
        "fastrtps_port15163": bytes(100),
        "fastdds_0123456789abcdef": BEGUN,
        "fastrtps_port7000": WHOLE,
        "fastrtps_dadd29fd553fc27c": WHOLE,
        # Locks and semaphores are empty or begin with anything, and are no segments.
        "fastrtps_port15161_el": b"",
        "sem.fastrtps_port15161_mutex": bytes(32),
        "lttng-ust-wait-6": bytes(100),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        age(tmp_path / name, 10 * UNFINISHED_AFTER)
    removed = remove_half_made_segments(tmp_path)
    assert removed == ["fastdds_0123456789abcdef", "fastrtps_port15161", "fastrtps_port15163"]
    assert {path.name for path in tmp_path.iterdir()} == set(contents) - set(removed)


def test_a_segment_that_is_being_made_is_waited_for(tmp_path):
    path = tmp_path / "fastrtps_port15161"
    path.write_bytes(BEGUN)

    def finish():
        with path.open("r+b") as file:
            file.write(WHOLE)

    maker = threading.Timer(UNFINISHED_AFTER / 4, finish)
    maker.start()
    assert remove_half_made_segments(tmp_path) == []
    maker.join()
    assert path.read_bytes() == WHOLE


def test_one_that_was_just_begun_by_a_killed_process_goes_when_it_is_old(tmp_path):
    (tmp_path / "fastrtps_port15161").write_bytes(BEGUN)
    assert remove_half_made_segments(tmp_path) == ["fastrtps_port15161"]


def test_one_with_a_stamp_of_the_future_goes_too(tmp_path):
    path = tmp_path / "fastrtps_port15161"
    path.write_bytes(BEGUN)
    age(path, -3600)
    assert remove_half_made_segments(tmp_path) == [path.name]


def test_no_shared_memory_and_things_that_are_no_files(tmp_path):
    assert remove_half_made_segments(tmp_path / "none") == []
    (tmp_path / "fastrtps_port15161").mkdir()
    assert remove_half_made_segments(tmp_path) == []


@pytest.mark.nodes
@pytest.mark.parametrize("content", [b"", bytes(52400)], ids=["empty", "zeros"])
def test_a_node_starts_although_all_its_ports_are_half_made(content):
    with Graph() as graph:
        # The ports of a domain by DDS's definition, beyond the harness's own participant.
        first = 7400 + 250 * graph.domain
        for port in range(first + 10, first + 40):
            path = SHARED_MEMORY / f"fastrtps_port{port}"
            if not path.exists():
                path.write_bytes(content)
        node = graph.start("reasoning", autostart=False)
        graph.wait_state("reasoning", "unconfigured")
        assert "half made" in node.output
