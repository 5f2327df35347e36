"""Scenes to ask about: what the images show is what their truth says, and making them resumes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_questions import check_answer

from vla.control.robots import panda
from vla.core.rotations import quaternion_to_matrix
from vla.datasets.frames import DatasetError
from vla.envs.tabletop import relations
from vla.envs.tabletop.questions import drawer_state
from vla.envs.tabletop.scene_conversations import COMMAND_QUESTION, SceneConversations, export_llava
from vla.envs.tabletop.scenes import (
    FIRST_SCENE_SEED,
    SEEN_PIXELS,
    SceneCamera,
    SceneConfig,
    SceneTruth,
    make_scene,
    make_scene_shard,
    make_scenes,
    read_scene_shard,
)
from vla_cli.parser import main

CONFIG = SceneConfig(scenes=14, scenes_per_shard=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, contract):
    folder = tmp_path_factory.mktemp("scenes")
    made = [make_scene_shard((index, str(folder), contract, CONFIG)) for index in range(2)]
    assert made == [8, 6]
    return folder


@pytest.mark.slow
def test_shards_hold_images_and_truth(folder, contract):
    seeds = []
    for index, count in enumerate((8, 6)):
        for camera in ("front", "wrist"):
            images, scenes = read_scene_shard(folder / f"shard-{index:05d}", contract, camera)
            assert images.shape == (count, 96, 96, 3) and images.dtype == np.uint8
            assert len({image.tobytes() for image in images}) == count
        for scene in scenes:
            assert 2 <= len(scene.objects) <= 4 and set(scene.landmarks) == {"bowl", "plate"}
            assert set(scene.seen) == {"front", "wrist"}
            front = scene.seen["front"]
            assert set(front) == {*scene.objects, "bowl", "plate"}
            assert min(front[name] for name in scene.objects) >= SEEN_PIXELS
        seeds += [scene.seed for scene in scenes]
    assert seeds == [FIRST_SCENE_SEED + number for number in range(14)]


@pytest.mark.slow
def test_what_is_there_is_kept_and_workers_make_the_same(folder, contract, tmp_path):
    assert make_scenes(folder, contract, CONFIG, workers=1) == 0
    done = []
    few = SceneConfig(scenes=2, scenes_per_shard=8)
    assert make_scenes(tmp_path, contract, few, 1, lambda *counts: done.append(counts)) == 2
    assert done == [(1, 1)]
    images, scenes = read_scene_shard(tmp_path / "shard-00000", contract, "front")
    others, truth = read_scene_shard(folder / "shard-00000", contract, "front")
    np.testing.assert_array_equal(images, others[:2])
    assert scenes == truth[:2]


def test_counted_pixels_are_those_that_change_when_the_thing_is_gone(simulator, contract):
    camera = SceneCamera(simulator, contract)
    simulator.reset(1, "pick")
    counted, before = camera.pixels("front"), simulator.render("front").astype(int)
    for name, item in simulator.scene_objects.items():
        kept = simulator.qpos
        address = simulator.model.joint(item.body).qposadr[0]
        moved = kept.copy()
        moved[address : address + 3] = -2.0, 0.0, -0.6
        simulator.set_qpos(moved)
        changed = (np.abs(simulator.render("front") - before).max(axis=2) > 12).sum()
        assert counted[name] == pytest.approx(changed, abs=12, rel=0.3)
        assert camera.pixels("front")[name] == 0
        simulator.set_qpos(kept)
    camera.close()


def test_arms_strike_many_poses_and_touch_nothing(simulator, contract):
    camera = SceneCamera(simulator, contract)
    tools, widths = [], []
    for seed in range(12):
        make_scene(camera, seed, "pick", home_share=0.0)
        tools.append(simulator.end_effector_pose()[0])
        widths.append(simulator.gripper_width)
        robot = np.array(
            ["panda" in simulator.model.body(i).name for i in range(simulator.model.nbody)]
        )
        contact = simulator.data.contact
        across = robot[simulator.model.geom_bodyid[contact.geom]].sum(axis=1) == 1
        assert not (contact.dist[across] < -0.001).any()
    camera.close()
    assert np.ptp(tools, axis=0).min() > 0.15 and np.ptp(widths) > 0.05


def test_upright_joints_bring_the_tool_there(simulator):
    generator = np.random.default_rng(0)
    simulator.reset(0, "pick")
    for _ in range(20):
        place = generator.uniform([0.3, -0.35, 0.03], [0.66, 0.35, 0.42])
        yaw = generator.uniform(-1.0, 1.0)
        configuration = simulator.qpos
        configuration[:7] = panda.upright_joints(place, yaw)
        simulator.set_qpos(configuration)
        position, quaternion = simulator.end_effector_pose()
        matrix = quaternion_to_matrix(quaternion)
        np.testing.assert_allclose(position, place, atol=1e-6)
        np.testing.assert_allclose(matrix[:, 2], [0, 0, -1], atol=1e-6)
        assert np.arctan2(matrix[1, 0], matrix[0, 0]) == pytest.approx(yaw, abs=1e-6)
    with pytest.raises(ValueError, match=r"does not reach \[2\.0, 0\.0, 0\.1\]"):
        panda.upright_joints(np.array([2.0, 0.0, 0.1]), 0.0)
    with pytest.raises(ValueError, match="joints do not allow"):
        panda.upright_joints(np.array([-0.5, 0.01, 0.1]), 2.0)


def test_things_that_can_barely_be_seen_are_not_spoken_of():
    places = {"red can": [0.5, 0.0], "blue can": [0.5, -0.2]}
    bowl = {"bowl": [0.4, 0.0], "plate": [0.4, -0.2]}
    clear = {"red can": 40, "blue can": 30, "bowl": 90, "plate": 3}
    cameras = {
        "front": clear,
        "wrist": clear | {"blue can": 0},
        "side": clear | {"blue can": 5},
        "back": dict.fromkeys(clear, 0),
    }
    scene = SceneTruth(1, places, bowl, 0.0, cameras)
    assert list(scene.visible("front").objects) == ["red can", "blue can"]
    assert list(scene.visible("front").landmarks) == ["bowl"]
    assert list(scene.visible("wrist").objects) == ["red can"]
    assert scene.visible("side") is None and scene.visible("back") is None


def test_conversations_are_true(folder, contract):
    talks = SceneConversations(folder, contract, "front")
    scenes = [
        scene
        for index in range(2)
        for scene in read_scene_shard(folder / f"shard-{index:05d}", contract, "front")[1]
    ]
    assert len(talks) == len(scenes) == 14
    command = COMMAND_QUESTION.split("{")[0]
    for index, scene in enumerate(scenes):
        talk = talks.sample(index, np.random.default_rng(index))
        again = talks.sample(index, np.random.default_rng(index))
        assert talk.turns == again.turns and talk.images[0].shape == (96, 96, 3)
        for question, answer in talk.turns:
            if not question.startswith(command):
                opening = 0.1 if scene.drawer_opening >= 0.05 else 0.0
                check_answer(question, answer, scene.visible("front"), opening)
        seen = scene.visible("front")
        places = seen.objects | seen.landmarks
        state = drawer_state(scene.drawer_opening)
        assert [name for name in talk.things if "drawer" in name] == [f"drawer {state}"] * bool(
            state
        )
        things = [name for name in talk.things if "drawer" not in name]
        assert len(things) == len(places)
        for named in things:
            name = next(name for name in places if f"{named} ".startswith(f"{name} "))
            sides = {relations.side(places[name]), relations.depth(places[name])} - {None}
            assert set(named.removeprefix(name).split()) == sides, named


def test_damaged_and_missing_shards_are_named(folder, contract, tmp_path):
    with pytest.raises(DatasetError, match=r"no shards in .*; make them with: vla scenes"):
        SceneConversations(tmp_path, contract, "front")
    (tmp_path / "shard-00000").mkdir()
    (tmp_path / "shard-00000" / "scenes.json").write_text("{")
    with pytest.raises(DatasetError, match="shard-00000 is damaged"):
        read_scene_shard(tmp_path / "shard-00000", contract, "front")


def test_export_is_what_llava_reads(folder, contract, tmp_path):
    from PIL import Image

    talks = SceneConversations(folder, contract, "front")
    path = export_llava(talks, tmp_path / "llava")
    entries = json.loads(path.read_text())
    assert len(entries) == 14
    for entry in entries:
        assert Image.open(path.parent / entry["image"]).size == (96, 96)
        turns = entry["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert [turn["value"].startswith("<image>\n") for turn in turns].count(True) == 1
    with pytest.raises(FileExistsError):
        export_llava(talks, tmp_path / "llava")


@pytest.mark.slow
def test_scenes_command(folder, contract, tmp_path, capsys):
    out, llava = tmp_path / "scenes", tmp_path / "llava"
    command = ["scenes", "--out", str(out), "--count", "2", "--workers", "1"]
    assert main([*command, "--llava", str(llava)]) == 0
    assert "2 scenes to ask about" in capsys.readouterr().out
    assert (llava / "conversations.json").is_file()
    assert main([*command, "--llava", str(llava)]) == 2
    assert "is there already; name a new folder" in capsys.readouterr().err
    assert main(["scenes", "--count", "0"]) == 2
    assert "--count takes a number from 1 on, got 0" in capsys.readouterr().err
    assert main(["scenes", "--out", str(out), "--contract", "fr9"]) == 2
    assert "there is no contract 'fr9'" in capsys.readouterr().err
