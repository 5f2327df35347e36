"""Bags to LeRobot data sets: the samples of the bags, a report that is true, bad bags refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bag_files import BEGIN, MILLISECOND, write_demonstration

from vla.bags.conversion import contract_of_bags, convert_bags, find_bags
from vla.bags.episodes import BagEpisodes
from vla.contract.embodiment import load_contract
from vla.contract.normalization import read_norm_stats
from vla.core.resources import contract_path
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.dataset import LeRobotEpisodes
from vla.training.batches import Mixture
from vla.training.config import RobotData
from vla.training.data import measure_statistics
from vla.training.sources import open_robot
from vla_cli.parser import main

CONTRACT = load_contract(contract_path("sim_panda"))
GENERATOR = np.random.default_rng(0)
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bags(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bags")
    subtasks = [
        {"name": "reach", "receive_time": 0, "stamp": BEGIN},
        {"name": "grasp", "receive_time": 0, "stamp": BEGIN + 1020 * MILLISECOND},
    ]
    custom = {
        "episode_id": "a", "checkpoint_id": "abc", "subtasks": json.dumps(subtasks),
        "drops": json.dumps({"/robot/joint_states": 3}),
    }  # fmt: skip
    write_demonstration(folder / "a", CONTRACT, custom=custom)
    said = ((0.95, "put it down", "act"),)
    write_demonstration(folder / "b", CONTRACT, 2.0, compressed=True, instructions=said)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("storage", ["image", "video"])
def test_the_data_set_has_the_samples_of_the_bags(bags, tmp_path, storage, workers):
    report = convert_bags(find_bags([bags]), tmp_path / "set", CONTRACT, storage, workers=workers)
    assert [episode.frames for episode in report.kept] == [29, 19] and not report.refused
    expected = BagEpisodes(bags, CONTRACT)
    data = LeRobotEpisodes(tmp_path / "set", None, CONTRACT)
    assert len(data) == len(expected) == 48
    assert data.episode_ends.tolist() == expected.episode_ends.tolist() == [29, 48]
    np.testing.assert_array_equal(data.states(), expected.states())
    np.testing.assert_array_equal(data.actions(), expected.actions())
    for index in range(len(data)):
        own, other = data.sample(index, GENERATOR), expected.sample(index, GENERATOR)
        np.testing.assert_array_equal(own.actions, other.actions)
        assert own.instruction == other.instruction
        for name, image in other.images.items():
            worst = np.abs(own.images[name].astype(int) - image).max()
            assert worst <= (0 if storage == "image" else 3), "grey is not changed by 4:2:0"


@pytest.mark.slow
def test_statistics_are_those_that_training_measures(bags, tmp_path):
    convert_bags(find_bags([bags]), tmp_path / "set", CONTRACT)
    names = {"state": CONTRACT.state_names, "action": CONTRACT.action_names}
    stored = read_norm_stats(tmp_path / "set/meta/norm_stats.json", names)
    data = LeRobotEpisodes(tmp_path / "set", None, CONTRACT)
    measured = measure_statistics(Mixture([data], [1.0]), CONTRACT)
    for vector, entry in measured.items():
        assert stored[vector].kinds == entry.kinds
        for name in ("q01", "q99", "mean", "std", "min", "max", "count"):
            np.testing.assert_allclose(getattr(stored[vector], name), getattr(entry, name))


@pytest.mark.slow
def test_the_report_says_what_was_in_the_bags(bags, tmp_path, capsys):
    assert main(["data", "convert", str(bags), str(tmp_path / "set"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    report = json.loads((tmp_path / "set/meta/conversion.json").read_text())
    assert printed == report
    assert report["contract_id"] == CONTRACT.contract_id and report["frames"] == 48
    front, joints = report["streams"]["camera_front"], report["streams"]["fingers"]
    assert front["messages"] == 100 and front["rate_hz"] == pytest.approx(20.0)
    assert joints["rate_hz"] == pytest.approx(100.0) and joints["offset_p95_ms"] == 0.0
    assert joints["dropped"] == 3 and front["gaps"] == 0
    first, second = report["kept"]
    assert first["episode_id"] == "a" and first["checkpoint_id"] == "abc"
    assert first["outcome"] == "success" and first["episode_index"] == 0
    assert first["subtasks"] == [{"name": "reach", "frame": 0}, {"name": "grasp", "frame": 11}]
    assert second["instructions"] == ["pick up the cup", "put it down"]


def test_offsets_and_gaps_are_measured(tmp_path):
    delays = {"camera/wrist/image_raw": 13, "joint_states": 4}
    silent = {"end_effector_pose": (1.0, 1.05)}
    write_demonstration(tmp_path / "late", CONTRACT, 2.0, silent, delays=delays)
    report = convert_bags([tmp_path / "late"], tmp_path / "set", CONTRACT).summary()
    wrist, pose = report["streams"]["camera_wrist"], report["streams"]["pose"]
    assert wrist["offset_p50_ms"] == wrist["offset_p95_ms"] == 37.0, "13 ms late: the one before"
    assert report["streams"]["fingers"]["offset_p50_ms"] == 6.0
    assert pose["gaps"] == 1 and pose["missing"] == 5 and pose["longest_gap_ms"] == 60.0
    assert pose["offset_p50_ms"] == 0.0


@pytest.mark.slow
def test_bad_bags_are_refused_one_by_one_and_the_others_kept(tmp_path, capsys):
    bags = tmp_path / "bags"
    write_demonstration(bags / "a_good", CONTRACT)
    truncated = write_demonstration(bags / "b_truncated", CONTRACT)
    file = truncated / "b_truncated.mcap"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    write_demonstration(bags / "c_topic", CONTRACT, silent={"joint_states": (0.0, 9.0)})
    write_demonstration(bags / "d_nan", CONTRACT, bad_pose_at=1.0)
    write_demonstration(bags / "e_robot", replace(CONTRACT, base_frame="base"))
    write_demonstration(bags / "f_silent", CONTRACT, custom={"instruction": ""})
    write_demonstration(bags / "g_failed", CONTRACT, custom={"outcome": "failure"})
    (bags / "h_no_bag").mkdir()
    (bags / "h_no_bag/metadata.yaml").write_text("nothing: here\n")
    write_demonstration(bags / "i_good", CONTRACT, 2.0)
    assert main(["data", "convert", str(bags), str(tmp_path / "set")]) == 0
    report = json.loads((tmp_path / "set/meta/conversion.json").read_text())
    assert [Path(episode["bag"]).name for episode in report["kept"]] == ["a_good", "i_good"]
    reasons = {Path(entry["bag"]).name: entry["reason"] for entry in report["refused"]}
    for name, words in {
        "b_truncated": "truncated",
        "c_topic": "needs one topic 'joint_states', but has none",
        "d_nan": "pose is not finite",
        "e_robot": "base_frame: ours 'panda_link0', that of e_robot 'base'",
        "f_silent": "no instruction",
        "g_failed": "labelled as a failure",
        "h_no_bag": "is not the metadata of a rosbag2 bag",
    }.items():
        assert words in reasons[name] and name in reasons[name]
    assert "2 episodes kept, 7 refused" in capsys.readouterr().out
    assert len(LeRobotEpisodes(tmp_path / "set", None, CONTRACT)) == 48


@pytest.mark.slow
def test_without_a_good_bag_there_is_no_data_set_and_the_exit_status_says_so(tmp_path, capsys):
    bag = write_demonstration(tmp_path / "bag", CONTRACT, custom={"outcome": "failure"})
    assert main(["data", "convert", str(bag), str(tmp_path / "set")]) == 1
    assert "0 episodes kept, 1 refused" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]
    assert main(["data", "convert", str(bag), str(tmp_path / "set"), "--failures"]) == 0
    capsys.readouterr()
    assert main(["data", "convert", str(bag), str(tmp_path / "set")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["data", "convert", str(tmp_path / "no"), str(tmp_path / "other")]) == 2
    assert "no bags in" in capsys.readouterr().err


@pytest.mark.slow
def test_the_contract_is_that_of_the_bags_or_the_one_that_is_named(tmp_path):
    slow = replace(CONTRACT, rate=5.0)
    bag = write_demonstration(tmp_path / "own", slow)
    assert contract_of_bags([bag]) == slow
    plain = write_demonstration(tmp_path / "plain", CONTRACT, custom={"contract": ""})
    with pytest.raises(DatasetError, match="name one by --contract"):
        contract_of_bags([plain])
    command = ["data", "convert", str(plain), str(tmp_path / "set"), "--contract", "sim_panda"]
    assert main(command) == 0


@pytest.mark.slow
def test_an_interrupted_conversion_leaves_nothing(tmp_path):
    for name in ("a", "b", "c"):
        write_demonstration(tmp_path / "bags" / name, CONTRACT, 20.0)
    for number in (signal.SIGINT, signal.SIGTERM):
        command = [sys.executable, "-m", "vla_cli", "data", "convert", "bags", "set"]
        process = subprocess.Popen(
            command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment()
        )
        assert process.stderr.readline().startswith("kept:")
        process.send_signal(number)
        process.communicate(timeout=30)
        assert process.returncode == 130
        assert [path.name for path in tmp_path.iterdir()] == ["bags"]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}


@pytest.mark.slow
def test_ros_is_not_needed(bags, tmp_path):
    """Neither its Python packages nor its environment variables, in either direction."""
    program = """
        import sys

        class Blocked:
            def find_spec(self, name, path=None, target=None):
                package = name.partition(".")[0]
                ros = package.startswith(("rcl", "ros2", "rosidl", "ament", "launch", "vla_nodes"))
                if ros or package.endswith(("_msgs", "_interfaces")) or package == "vla_ros":
                    raise ImportError(f"{name} is blocked")

        sys.meta_path.insert(0, Blocked())
        from vla_cli.parser import main

        raise SystemExit(main(sys.argv[1:]))
    """
    plain = {
        name: value
        for name, value in environment().items()
        if not name.startswith(("AMENT", "ROS_", "COLCON")) and name != "LD_LIBRARY_PATH"
    }
    plain["PYTHONPATH"] = str(ROOT)
    for arguments in (
        ["data", "convert", str(bags), "set", "--workers", "1"],
        ["data", "export", "set", "back"],
    ):
        command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=plain, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert len(LeRobotEpisodes(tmp_path / "set", None, CONTRACT)) == 48


def test_a_training_configuration_reads_it_without_a_mapping(bags, tmp_path):
    convert_bags(find_bags([bags]), tmp_path / "set", CONTRACT, workers=1)
    data = open_robot(RobotData(str(tmp_path / "set"), "lerobot"), CONTRACT)
    assert isinstance(data, LeRobotEpisodes) and len(data) == 48
