"""Data sets of other rates: frames thinned out, motions added up, stamps that tell the rate."""

import json
from dataclasses import replace

import numpy as np
import pytest
from foreign_datasets import BRIDGE, GENERATOR, MAPPING, PANDA, panda, run_config
from lerobot_files import (
    LENGTHS,
    STATES,
    actions_of,
    grey_of,
    replace_column,
    write_v2,
    write_v3,
)
from scipy.spatial.transform import Rotation

from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.dataset import LeRobotEpisodes
from vla.datasets.step_actions import joined_steps, state_motions
from vla.training.sources import open_data
from vla_cli.parser import main


def test_a_set_of_three_times_the_rate_is_thinned_out_with_its_motion_added_up():
    """0.1 m/s is 0.01 m a step of 10 Hz, whatever the rate that it was recorded at."""
    data = open_data(run_config("rate-of-the-data"), PANDA).robot.datasets[0].dataset
    assert len(data) == 4 and data.episode_ends.tolist() == [2, 4]
    np.testing.assert_allclose(data.actions()[:, 0], 0.01, rtol=1e-5)
    np.testing.assert_allclose(data.states()[:2, 0], [0.3, 0.31], rtol=1e-5)
    assert [data.sample(row, GENERATOR).source.split()[-1] for row in range(4)] == ["0", "3"] * 2
    chunk = data.sample(0, GENERATOR).actions
    np.testing.assert_allclose(chunk[:3, 0], [0.01, 0.01, 0.0], rtol=1e-5)
    # Beside a set of the contract's own rate, the same motion is the same action.
    plain = panda("gripper-range", gripper_range=(0, 100))
    np.testing.assert_allclose(plain.actions()[:4, :6], data.actions()[:, :6], rtol=1e-5)


def test_every_stored_frame_has_a_motion_label(tmp_path):
    """Annotation counts frames as they are stored, whatever training thins out."""
    folder = write_v2(tmp_path / "set", images=True, fps=10)
    arguments = ["data", "annotate", str(folder), "--contract", "widowx_bridge", "--mapping"]
    (tmp_path / "map.yaml").write_text("cameras: {front: camera}")
    assert main([*arguments, str(tmp_path / "map.yaml")]) == 0
    labels = json.loads((folder / "meta/annotations.json").read_text())
    (first, *_) = labels["data/chunk-000/episode_000001.parquet"].values()
    assert len(first["features"]["move_primitive"]) == LENGTHS[1]
    data = LeRobotEpisodes(folder, MAPPING, BRIDGE)
    sample = data.sample(int(data.episode_ends[0]) + 1, GENERATOR)
    assert sample.motion == first["features"]["move_primitive"][2]


@pytest.mark.parametrize("fps", [4.0, 7.0, 12.0])
def test_other_rates_are_refused(tmp_path, fps):
    folder = write_v2(tmp_path / "set", images=True, fps=fps)
    says = rf"has {fps:g} frames a second, contract 'widowx_bridge' has 5 Hz"
    with pytest.raises(DatasetError, match=says):
        LeRobotEpisodes(folder, MAPPING, BRIDGE)


@pytest.mark.parametrize("write", [write_v2, write_v3])
def test_thinned_frames_keep_their_images_states_and_instructions(tmp_path, write):
    folder = write(tmp_path / "set", fps=10)
    data = LeRobotEpisodes(folder, MAPPING, BRIDGE)
    steps = [length // 2 for length in LENGTHS]
    assert len(data) == sum(steps)
    row = 0
    for episode, count in enumerate(steps):
        actions = actions_of(episode)
        for step in range(count):
            sample, frame = data.sample(row, GENERATOR), 2 * step
            np.testing.assert_allclose(sample.state, STATES[episode][frame], rtol=1e-6)
            assert abs(float(sample.images["front"].mean()) - grey_of(episode, frame)) < 2
            together = actions[frame : frame + 2, :6].sum(axis=0)
            np.testing.assert_allclose(sample.actions[0, :6], together, rtol=1e-5)
            assert sample.actions[0, 6] == actions[frame + 1, 6], "the gripper of the last step"
            row += 1


def test_motion_between_states_spans_the_whole_step(tmp_path):
    folder = write_v2(tmp_path / "set", images=True, fps=10)
    data = LeRobotEpisodes(folder, replace(MAPPING, relabel=True), BRIDGE)
    motions = [states[2::2, :6] - states[:-2:2, :6] for states in STATES]
    np.testing.assert_allclose(data.actions()[:, :6], np.concatenate(motions), atol=1e-6)


def test_offsets_from_a_row_s_own_state_do_not_add_up(tmp_path):
    folder = write_v2(tmp_path / "set", images=True, fps=10)
    data = LeRobotEpisodes(folder, replace(MAPPING, minus_state=True), BRIDGE)
    count = len(STATES[0]) // 2
    offsets = (actions_of(0)[:, :6] - STATES[0][:, :6])[::2][:count]
    np.testing.assert_allclose(data.actions()[:count, :6], offsets, atol=1e-6)
    np.testing.assert_array_equal(data.actions()[:count, 6], actions_of(0)[1::2, 6])


def test_turns_follow_one_another_and_do_not_add_up():
    generator = np.random.default_rng(3)
    actions = np.hstack([generator.normal(0, 0.6, (9, 6)), np.arange(9)[:, None]])
    joined = joined_steps(actions, 4, "delta")
    assert len(joined) == 2 and joined[:, 6].tolist() == [3, 7]
    for row, first in enumerate((0, 4)):
        pose = Rotation.identity()
        for step in range(first, first + 4):
            pose = Rotation.from_rotvec(actions[step, 3:6]) * pose
        np.testing.assert_allclose(Rotation.from_rotvec(joined[row, 3:6]).as_matrix(),
                                   pose.as_matrix(), atol=1e-9)  # fmt: skip
    added = actions[:8].reshape(2, 4, 7).sum(axis=1)
    np.testing.assert_allclose(joined[:, :3], added[:, :3])
    assert np.abs(joined[:, 3:6] - added[:, 3:6]).max() > 0.1
    np.testing.assert_allclose(joined_steps(actions, 4, "delta_euler")[:, :6], added[:, :6])


def test_motions_of_states_are_what_leads_from_one_to_the_next():
    generator = np.random.default_rng(4)
    turns = Rotation.from_rotvec(generator.normal(0, 1, (6, 3)))
    columns = turns.as_matrix()[:, :, :2].transpose(0, 2, 1).reshape(6, 6)
    states = np.hstack([generator.normal(0, 1, (6, 3)), columns, np.full((6, 1), 0.08)])
    motions = state_motions(states, PANDA.state_names, "delta", every=2)
    np.testing.assert_allclose(states[:-2, :3] + motions[:, :3], states[2:, :3])
    reached = Rotation.from_rotvec(motions[:, 3:]) * turns[:-2]
    np.testing.assert_allclose(reached.as_matrix(), turns[2:].as_matrix(), atol=1e-9)


@pytest.mark.parametrize(
    ("times", "says"),
    [
        (np.arange(12) / 15, r"0\.06667 s apart, 15 frames a second, but .* says fps 5"),
        (np.arange(12) / 5 - 2.0 * (np.arange(12) > 6), r"goes from 1\.2 s to -0\.6 s at frame 7"),
        (np.arange(12) / 5 + 3.0 * (np.arange(12) > 6), "take 5.2 s, with 1 gaps"),
        (np.full(12, 1.7e9, np.float32), "the time goes from"),
        (np.where(np.arange(12) == 3, np.nan, 1.0), "NaN or infinity"),
        (["0"] * 12, "holds string"),
    ],
)
def test_timestamps_tell_the_rate(tmp_path, times, says):
    folder = write_v2(tmp_path / "set", images=True)
    path = folder / "data/chunk-000/episode_000001.parquet"
    replace_column(path, "timestamp", list(times))
    with pytest.raises(DatasetError, match=f"episode 1.*{says}"):
        LeRobotEpisodes(folder, MAPPING, BRIDGE)
