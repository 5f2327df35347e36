"""LeRobot data sets of both versions, frame by frame, and what is wrong with broken ones."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import yaml
from lerobot_files import (
    LENGTHS,
    STATES,
    TASKS,
    actions_of,
    grey_of,
    replace_column,
    write_v2,
    write_v3,
    write_video,
)
from scipy.spatial.transform import Rotation

from vla.contract.dimensions import STATE_LAYOUTS, Dimension
from vla.contract.embodiment import contract_from_dict, load_contract
from vla.core.resources import contract_path, given_or_shared
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.dataset import (
    LeRobotEpisodes,
    LeRobotMapping,
    binarize_gripper,
    chunk_with_padding,
    read_mapping,
)
from vla.datasets.step_actions import pose_offsets, state_motions

CONTRACT = load_contract(contract_path("widowx_bridge"))
MAPPING = LeRobotMapping(cameras={"front": "camera"})
GENERATOR = np.random.default_rng(0)
WRITERS = pytest.mark.parametrize("write", [write_v2, write_v3])


@WRITERS
@pytest.mark.parametrize("images", [False, True])
def test_every_frame_is_what_was_written(tmp_path, write, images):
    data = LeRobotEpisodes(write(tmp_path / "set", images), MAPPING, CONTRACT)
    assert len(data) == sum(LENGTHS)
    np.testing.assert_allclose(data.states(), np.concatenate(STATES))
    actions = [actions_of(episode) for episode in range(3)]
    np.testing.assert_allclose(data.actions(), np.concatenate(actions))
    places = [(episode, frame) for episode in range(3) for frame in range(LENGTHS[episode])]
    # Out of order, as training reads it.
    for index in np.random.default_rng(1).permutation(len(data)):
        episode, frame = places[index]
        sample = data.sample(int(index), GENERATOR)
        assert sample.images["front"].shape == (224, 224, 3)
        assert abs(float(sample.images["front"].mean()) - grey_of(episode, frame)) < 2
        np.testing.assert_allclose(sample.state, STATES[episode][frame])
        rest = actions[episode][frame:]
        np.testing.assert_allclose(sample.actions[: len(rest)], rest)
        assert (sample.actions[len(rest) :, :6] == 0).all(), "no motion past the end"
        assert (sample.actions[len(rest) :, 6] == actions[episode][-1, 6]).all()
        assert sample.instruction == TASKS[episode] and f"episode {episode}" in sample.source
        assert sample.motion is None and sample.annotation is None


def test_both_versions_give_the_same_samples_also_in_another_process(tmp_path):
    first = LeRobotEpisodes(write_v2(tmp_path / "v2"), MAPPING, CONTRACT)
    first.sample(3, GENERATOR)
    second = pickle.loads(pickle.dumps(first))
    third = LeRobotEpisodes(write_v3(tmp_path / "v3"), MAPPING, CONTRACT)
    for index in (0, 8, 20):
        one, two, three = (d.sample(index, GENERATOR) for d in (first, second, third))
        np.testing.assert_array_equal(one.images["front"], two.images["front"])
        np.testing.assert_array_equal(one.actions, three.actions)


def test_a_camera_that_the_data_lacks_is_black(tmp_path):
    values = CONTRACT.to_dict()
    values["cameras"].append(values["cameras"][0] | {"name": "wrist"})
    data = LeRobotEpisodes(write_v2(tmp_path / "set"), MAPPING, contract_from_dict(values))
    images = data.sample(0, GENERATOR).images
    assert not images["wrist"].any() and images["front"].any()


def test_actions_may_be_relabelled_and_grippers_turned(tmp_path):
    mapping = LeRobotMapping({"front": "camera"}, gripper="closed", relabel=True, drop_first=1)
    data = LeRobotEpisodes(write_v2(tmp_path / "set"), mapping, CONTRACT)
    assert len(data) == sum(LENGTHS) - 2 * 3, "the first and the last step of each episode"
    motions = [np.diff(states[1:, :6], axis=0) for states in STATES]
    np.testing.assert_allclose(data.actions()[:, :6], np.concatenate(motions), atol=1e-5)
    np.testing.assert_allclose(data.actions()[:5, 6], 1 - actions_of(0)[1:6, 6])
    assert abs(data.sample(0, GENERATOR).images["front"].mean() - grey_of(0, 1)) < 2


def test_actions_may_be_offsets_of_a_pose_from_the_state_of_their_own_row(tmp_path):
    mapping = LeRobotMapping({}, minus_state=True, drop_first=1)
    data = LeRobotEpisodes(write_v2(tmp_path / "set"), mapping, CONTRACT)
    offsets = [actions_of(episode)[1:, :6] - STATES[episode][1:, :6] for episode in range(3)]
    np.testing.assert_allclose(data.actions()[:, :6], np.concatenate(offsets), atol=1e-6)
    np.testing.assert_allclose(data.actions()[:6, 6], actions_of(0)[1:, 6])
    # Each row of a chunk from its own row's state, not from that of the first.
    np.testing.assert_allclose(data.sample(2, GENERATOR).actions[:4, :6], offsets[0][2:], atol=1e-6)
    with pytest.raises(ValueError, match="choose one"):
        LeRobotMapping({}, relabel=True, minus_state=True)


@pytest.mark.parametrize("layout", STATE_LAYOUTS)
@pytest.mark.parametrize("representation", ["delta", "delta_euler"])
def test_offsets_between_poses_are_motions_between_their_states(layout, representation):
    generator = np.random.default_rng(5)
    angles = generator.uniform([-1.4, -1.4, 1.8], [1.4, 1.4, 4.5], (8, 3))
    turns, places = Rotation.from_euler("xyz", angles), generator.normal(size=(8, 3))
    states = np.zeros((8, len(layout)))
    states[:, :3] = places
    if "roll" in layout:
        states[:, 3:6] = angles
    elif "qx" in layout:
        states[:, 3:7] = turns.as_quat()
    else:
        states[:, 3:9] = turns.as_matrix()[:, :, :2].transpose(0, 2, 1).reshape(8, 6)
    poses = np.hstack([places, angles - [0, 0, 2 * np.pi]])
    found = pose_offsets(poses[1:], states[:-1], layout, representation)
    np.testing.assert_allclose(found, state_motions(states, layout, representation), atol=1e-6)


def test_columns_may_be_picked(tmp_path):
    mapping = LeRobotMapping({}, state_columns=(7, 6, 5, 4, 3, 2, 1, 0))
    data = LeRobotEpisodes(write_v2(tmp_path / "set"), mapping, CONTRACT)
    np.testing.assert_allclose(data.states()[0], STATES[0][0][::-1])


def test_annotations_are_those_of_the_episode(tmp_path):
    pairs = [{"question": "lift it", "answer": "Pick up the can."}]
    motions = ["up"] + [None] * (LENGTHS[1] - 2)
    entry = {"features": {"move_primitive": motions}, "alt_instruction": {"CR": pairs}}
    (tmp_path / "it.json").write_text(json.dumps({"x": {"1": entry}}))
    data = LeRobotEpisodes(write_v2(tmp_path / "set"), MAPPING, CONTRACT, tmp_path / "it.json")
    first = data.sample(LENGTHS[0], GENERATOR)
    assert first.motion == "up" and first.annotation.command_rewrites == (
        ("lift it", "Pick up the can."),
    )
    assert data.sample(LENGTHS[0] + 1, GENERATOR).motion is None
    assert data.sample(0, GENERATOR).annotation is None


def test_annotations_of_other_episodes_are_refused(tmp_path):
    def refuses(message: str, labels: dict) -> None:
        (tmp_path / "it.json").write_text(json.dumps(labels))
        with pytest.raises(DatasetError, match=message):
            LeRobotEpisodes(folder, MAPPING, CONTRACT, tmp_path / "it.json")

    folder = write_v2(tmp_path / "set")
    entry = {"features": {"move_primitive": ["up"] * LENGTHS[0]}}
    refuses("episode 1 has 7 motion labels, but 12 frames in .*episode_000001", {"x": {"1": entry}})
    refuses(
        "episode 0 stands under y and another file path", {"x": {"0": entry}, "y": {"0": entry}}
    )


def test_grippers_take_the_next_definite_value():
    values = np.array([1.0, 0.5, 0.02, 0.3, 0.6, 0.99, 0.7])
    assert binarize_gripper(values).tolist() == [1, 0, 0, 1, 1, 1, 1]
    assert binarize_gripper(np.array([0.5, 0.4])).tolist() == [0, 0]


def test_chunks_are_padded_with_rest():
    actions = np.array([[0.1, 1.0], [0.2, 0.0], [0.3, 0.0]])
    expected = [[0.2, 0.0], [0.3, 0.0], [0.0, 0.0]]
    contract = replace(CONTRACT, horizon=3, action_names=("x", "gripper"))
    np.testing.assert_allclose(chunk_with_padding(actions, 1, contract), expected)
    actions[-1, 1] = 1.0
    np.testing.assert_allclose(chunk_with_padding(actions, 2, contract)[:, 1], [1, 1, 1])
    joints = (Dimension("elbow", "joint_position"), Dimension("wrist", "joint_velocity"))
    contract = replace(contract, action_dimensions=joints)
    padded = chunk_with_padding(actions, 2, contract)
    np.testing.assert_allclose(padded, [[0.3, 1.0], [0.3, 0.0], [0.3, 0.0]])


# What is wrong is named


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda f: (f / "meta" / "info.json").unlink(),
            r"info\.json.*give the folder of a LeRobot",
        ),
        (lambda f: (f / "meta" / "info.json").write_text("{"), r"info\.json is not valid JSON"),
        (
            lambda f: (f / "meta" / "info.json").write_text("{}"),
            "is LeRobot None; v2.1 and v3.0 can be read",
        ),
        (lambda f: (f / "meta" / "episodes.jsonl").write_text(""), "has no episodes"),
        (lambda f: (f / "meta" / "episodes.jsonl").write_text("{"), "line 1 is not valid JSON"),
        (lambda f: cut(f / "data/chunk-000/episode_000001.parquet"), "000001.*cannot be read"),
        (lambda f: rows(f, 4), r"episode_000001.*, episode 1: 4 of 12 rows"),
        (lambda f: nan(f), "episode 1: action holds NaN or infinity; leave the episode out"),
        (lambda f: narrow(f), "episode 1: observation.state has 3 columns"),
    ],
)
def test_a_broken_data_set_is_refused(tmp_path, spoil, says):
    folder = write_v2(tmp_path / "set")
    spoil(folder)
    with pytest.raises(DatasetError, match=says):
        LeRobotEpisodes(folder, MAPPING, CONTRACT)


def cut(path):
    path.write_bytes(path.read_bytes()[:200])


def rows(folder, count):
    path = folder / "data/chunk-000/episode_000001.parquet"
    parquet.write_table(parquet.read_table(path).slice(0, count), path)


def nan(folder):
    values = actions_of(1)
    values[3, 2] = np.nan
    replace_column(folder / "data/chunk-000/episode_000001.parquet", "action", values.tolist())


def narrow(folder):
    path = folder / "data/chunk-000/episode_000001.parquet"
    replace_column(path, "observation.state", STATES[1][:, :3].tolist())


def test_rows_of_no_episode_are_passed_over(tmp_path):
    folder = write_v3(tmp_path / "set")
    path = folder / "data/chunk-000/file-001.parquet"
    table = parquet.read_table(path)
    column = table.column_names.index("episode_index")
    odd = pa.array([-1] * len(table), table.schema.field(column).type)
    parquet.write_table(table.set_column(column, "episode_index", odd), path)
    with pytest.raises(DatasetError, match="episode 2: none of the data files holds its rows"):
        LeRobotEpisodes(folder, MAPPING, CONTRACT)


def test_broken_videos_are_named_when_they_are_read(tmp_path):
    data = LeRobotEpisodes(write_v2(tmp_path / "set"), MAPPING, CONTRACT)
    path = tmp_path / "set/videos/chunk-000/camera/episode_000001.mp4"
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(DatasetError, match=r"episode_000001\.mp4 cannot be read"):
        data.sample(LENGTHS[0], GENERATOR)
    path.write_bytes(content)
    data.sample(LENGTHS[0] + 11, GENERATOR)
    write_video(path, [0] * 5, 5)
    with pytest.raises(DatasetError, match=r"has no frame at .* s: it is shorter"):
        LeRobotEpisodes(tmp_path / "set", MAPPING, CONTRACT).sample(LENGTHS[0] + 11, GENERATOR)


def test_unknown_versions_features_and_cameras_are_named(tmp_path):
    folder = write_v2(tmp_path / "set")
    with pytest.raises(DatasetError, match=r"has no feature image; it has: observation\.state"):
        LeRobotEpisodes(folder, LeRobotMapping({"front": "image"}), CONTRACT)
    with pytest.raises(DatasetError, match=r"cameras that the contract lacks: \['side'\]"):
        LeRobotEpisodes(folder, LeRobotMapping({"side": "camera"}), CONTRACT)
    path = folder / "meta" / "info.json"
    path.write_text(path.read_text().replace("v2.1", "v1.6"))
    with pytest.raises(DatasetError, match=r"is LeRobot v1\.6; v2\.1 and v3\.0 can be read"):
        LeRobotEpisodes(folder, MAPPING, CONTRACT)


def test_shipped_mappings_fit_their_contracts(tmp_path):
    shipped = {"bridge": "widowx_bridge", "fractal": "google_fractal", "la33k": "droid"}
    shipped["libero"] = "libero_instructvla"
    for data, contract in shipped.items():
        mapping = read_mapping(given_or_shared(f"config/data/{data}.yaml"))
        cameras = {camera.name for camera in load_contract(contract_path(contract)).cameras}
        assert mapping.cameras.keys() == cameras
    path = tmp_path / "mapping.yaml"
    for values, says in (
        ({"cameras": {}, "grip": 1}, "unknown entries: grip; known: gripper, "),
        ({"cameras": {}, "gripper": "up"}, "open, closed"),
    ):
        path.write_text(yaml.safe_dump(values))
        with pytest.raises(DatasetError, match=says):
            read_mapping(path)
