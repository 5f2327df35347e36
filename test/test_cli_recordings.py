"""`vla record list`, `show`, `video` and `open` on the command line."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest
from foreign_bags import write_foreign_bag
from lerobot_files import write_v3

from vla.bags.reader import read_metadata
from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla_cli import main

CONTRACT = load_contract(contract_path("sim_panda"))
CUSTOM = {"instruction": "stack the cups", "outcome": "success"}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with a bag in output/bags, which is the current one."""
    monkeypatch.chdir(tmp_path)
    write_foreign_bag(tmp_path / "output/bags/first", CONTRACT, custom=CUSTOM, seconds=0.5)
    return tmp_path


def test_bags_are_listed_shown_and_written_as_video_by_name(here, capsys):
    assert main(["record", "list"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == [
        "episode", "instruction", "outcome", "length", "frames", "size", "marks",
    ]  # fmt: skip
    assert " ".join(row.split()).startswith("output/bags/first stack the cups success 0.5 s 10 ")
    assert main(["record", "show", "first"]) == 0
    out = capsys.readouterr().out
    assert "stack the cups" in out and "sensor_msgs/msg/JointState" in out
    assert (here / "output/first.png").is_file()
    assert main(["record", "video", "output/bags/first"]) == 0
    assert (here / "output/first.mp4").stat().st_size > 1000
    assert capsys.readouterr().out.splitlines() == ["output/first.mp4"]


def test_what_cannot_be_read_is_named_in_the_list(here, capsys):
    damaged = here / "output/bags/second"
    damaged.mkdir()
    (damaged / "second.mcap").write_bytes(b"no bag")
    assert main(["record", "list"]) == 0
    assert "output/bags/second: " in capsys.readouterr().out
    for command in (["show", "second"], ["video", "second"], ["show", "third"]):
        assert main(["record", *command]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "Traceback" not in error


def test_an_episode_of_a_data_set(here, capsys):
    folder = write_v3(here / "mine")
    assert main(["record", "list", "mine"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "mine:0", "mine:1", "mine:2",
    ]  # fmt: skip
    assert main(["record", "show", "mine:2"]) == 0
    assert (here / "output/mine_2.png").is_file()
    assert main(["record", "open", f"{folder}:2", "--with", "foxglove"]) == 2
    assert "was not written by 'vla data convert'" in capsys.readouterr().err


def test_foxglove_is_started_on_the_files_of_the_bag(here, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(here / "bin"))
    command = ["record", "open", "first", "--with", "foxglove"]
    assert main(command) == 2
    assert "apt install ./foxglove" in capsys.readouterr().err
    viewer = here / "bin/foxglove-studio"
    viewer.parent.mkdir()
    viewer.write_text(f'#!{sys.executable}\nimport sys\nopen("opened", "w").write(sys.argv[1])\n')
    viewer.chmod(stat.S_IRWXU)
    assert main(command) == 0
    (file,) = read_metadata("output/bags/first").files
    assert (here / "opened").read_text() == str(file)


def test_without_rerun_the_way_to_install_it_is_said(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    assert main(["record", "open", "first", "--with", "rerun"]) == 2
    assert "pip install rerun-sdk" in capsys.readouterr().err
    assert not (here / "output/first.rrd").exists()


def test_rerun_gets_the_episode(here, capsys):
    pytest.importorskip("rerun")
    assert main(["record", "open", "first", "--with", "rerun", "--write-only"]) == 0
    assert capsys.readouterr().out.splitlines() == ["output/first.rrd"]
    content = (here / "output/first.rrd").read_bytes()
    for name in (b"/cameras/camera/front", b"/end_effector_pose", b"/joint_states", b"/words"):
        assert name in content
