"""Data sets as people have them: at other rates, in other units, with other images and indices."""

import io
import json
import os
import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from fuzz.mutation import mutate_bytes, mutate_tree
from lerobot_files import (
    LENGTHS,
    STATES,
    actions_of,
    drop_column,
    grey_of,
    png,
    replace_column,
    write_v2,
    write_v3,
    write_video,
)
from PIL import Image
from scipy.spatial.transform import Rotation

from vla.cli.parser import main
from vla.contract import load_contract
from vla.data.dataset_check import check_lerobot
from vla.data.frames import DatasetError
from vla.data.image_check import require_images
from vla.data.images import decode_image
from vla.data.lerobot import LeRobotEpisodes, LeRobotMapping, read_mapping
from vla.data.lerobot_meta import path_in, read_description
from vla.data.plausible import check_gripper, check_motions, check_names, check_states
from vla.data.step_actions import joined_steps, state_motions
from vla.data.video import VideoFrames
from vla.findings import PROBLEM
from vla.resources import contract_path
from vla.training.config import RobotData, TrainConfig
from vla.training.sources import open_data, open_robot

DATA = Path(__file__).parent / "data"
PANDA, BRIDGE = (load_contract(contract_path(name)) for name in ("sim_panda", "widowx_bridge"))
MAPPING = LeRobotMapping({"front": "camera"})
NAN = float("nan")
GENERATOR = np.random.default_rng(0)


def panda(case: str, **mapping) -> LeRobotEpisodes:
    cameras = {name: f"observation.images.{name}" for name in ("front", "wrist")}
    return LeRobotEpisodes(DATA / case / "set", LeRobotMapping(cameras, **mapping), PANDA)


def run_config(case: str) -> TrainConfig:
    entry = RobotData(str(DATA / case / "set"), "lerobot", str(DATA / case / "mapping.yaml"))
    return TrainConfig(contract="sim_panda", robot=(entry,))


# Rate


def test_a_set_of_three_times_the_rate_is_thinned_out_with_its_motion_added_up():
    """0.1 m/s is 0.01 m a step of 10 Hz, whatever the rate that it was recorded at."""
    data = open_data(run_config("rate-of-the-data"), PANDA, {}, []).robot.datasets[0].dataset
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


def edit_info(folder: Path, **values) -> None:
    path = folder / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


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


# Gripper and units


@pytest.mark.parametrize("more", [{}, {"binarize": True}, {"gripper": "closed"}])
def test_a_gripper_from_0_to_100_is_refused_with_the_line_that_mends_it(more):
    with pytest.raises(DatasetError, match=r"goes from 3 to 100.*'gripper_range: \[0, 100\]'"):
        panda("gripper-range", **more)
    data = panda("gripper-range", gripper_range=(0, 100), **more)
    opened = 0.0 if more.get("gripper") else 1.0
    assert data.actions()[0, 6] == opened and data.actions()[:, 6].min() >= 0
    assert abs(data.actions()[-1, 6] - (1 - opened)) < 0.04


def test_training_refuses_it_before_anything_is_written(tmp_path, capsys):
    case = DATA / "gripper-range"
    config = tmp_path / "train.yaml"
    config.write_text(
        "{stage: action, preset: nano, contract: sim_panda, lora: {experts: [action], rank: 4}, "
        f"robot: [{{path: {case}/set, kind: lerobot, mapping: {case}/mapping.yaml}}], "
        f"output: {tmp_path}/run, steps: 2, batch_size: 2}}"
    )
    assert main(["train", "--config", str(config)]) == 2
    said = capsys.readouterr().err
    assert "gripper-range/set: the gripper of action goes from 3 to 100" in said
    assert not (tmp_path / "run").exists()
    assert main(["data", "check", "--config", str(config), "--json", str(tmp_path / "f.json")]) == 1
    (judged,) = json.loads((tmp_path / "f.json").read_text())["sets"]
    (finding,) = (f for f in judged["findings"] if f["level"] == PROBLEM)
    assert finding["area"] == "gripper" and "gripper_range: [0, 100]" in finding["cure"]


def wave(low: float, high: float, length: int = 80) -> np.ndarray:
    """Fingers that open and close slowly."""
    return low + (high - low) * (0.5 - 0.5 * np.cos(np.arange(length) * 2 * np.pi / 20))


@pytest.mark.parametrize(
    ("values", "said", "range_"),
    [
        (wave(0, 100), None, "[0, 100]"),
        (wave(3, 97), None, "[0, 100]"),
        (wave(-1, 1), None, "[-1, 1]"),
        (wave(0, 0.08), None, "[0, 0.08]"),
        (wave(0.01, 0.08), None, "[0, 0.08]"),
        (wave(0, 255), None, "[0, 255]"),
        (wave(0, 850), None, "[0, 850]"),
        (wave(0, 1), (0.0, 100.0), "[0, 1]"),
        (wave(0, 100), (0.0, 1.0), "[0, 100]"),
        (wave(-1, 1), (0.0, 1.0), "[-1, 1]"),
        (wave(0.55, 1), None, "[0.55, 1]"),
    ],
)
@pytest.mark.parametrize("opens", [True, False])
def test_gripper_ranges_are_told(values, said, range_, opens):
    (finding,) = check_gripper(values, said, opens, None, np.array([80]), "action")
    assert finding.level == PROBLEM and f"gripper_range: {range_}" in finding.cure
    low, high = map(float, range_.strip("[]").split(","))
    assert not check_gripper(values, (low, high), opens, None, np.array([80]), "action")


def test_inverted_grippers_are_told_by_their_fingers():
    told = (wave(0, 1) > 0.5).astype(float)
    fingers = np.roll(wave(0, 0.08), 3)
    ends = np.array([40, 80])
    assert not check_gripper(told, None, True, fingers, ends, "action")
    (finding,) = check_gripper(1 - told, None, True, fingers, ends, "action")
    assert finding.level == PROBLEM and "'gripper: closed'" in finding.cure
    assert not check_gripper(1 - told, None, False, fingers, ends, "action")


def arm(length: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """States and actions of a Panda that goes round in a circle and turns."""
    angle = np.arange(length + 1) * 0.1
    places = np.column_stack([0.4 + 0.1 * np.cos(angle), 0.1 * np.sin(angle), 0.3 + 0 * angle])
    turns = Rotation.from_rotvec(np.outer(0.5 * np.sin(angle), [0, 0, 1]))
    columns = turns.as_matrix()[:, :, :2].transpose(0, 2, 1).reshape(-1, 6)
    states = np.hstack([places, columns, np.full((length + 1, 1), 0.08)])
    motions = state_motions(states, PANDA.state_names, "delta")
    return states[:-1], np.hstack([motions, np.ones((length, 1))])


def scaled(values: np.ndarray, columns: slice, factor: float) -> np.ndarray:
    changed = values.copy()
    changed[:, columns] *= factor
    return changed


def test_units_are_told_by_their_numbers():
    states, actions = arm()
    ends = np.array([30, 60])

    def problems(states=states, actions=actions) -> str:
        found = check_states(states, PANDA, "s") + check_motions(states, actions, ends, PANDA, "a")
        return " / ".join(f"{f.message}; {f.cure}" for f in found if f.level == PROBLEM)

    assert problems() == ""
    assert problems(actions=scaled(actions, slice(0, 6), 0.5)) == "", "an arm may lag behind"
    assert "millimetres" in problems(states=scaled(states, slice(0, 3), 1000))
    assert "centimetres" in problems(states=scaled(states, slice(0, 3), 100))
    assert "action_scale" in problems(actions=scaled(actions, slice(0, 3), 1000))
    assert "action_scale" in problems(actions=scaled(actions, slice(0, 3), 20))
    assert "0.0175 for rx, ry and rz" in problems(actions=scaled(actions, slice(3, 6), 57.3))
    assert "no orientation" in problems(states=scaled(states, slice(3, 9), 57.3))
    assert "gripper_width" in problems(states=scaled(states, slice(9, 10), 1000))
    absolute = np.hstack([states[:, :3] + actions[:, :3], actions[:, 3:]])
    assert "relabel: true" in problems(actions=absolute)
    degrees = np.zeros((60, 8))
    degrees[:, 3:6] = np.arange(60)[:, None] * 3.0
    (finding,) = check_states(degrees, BRIDGE, "s")
    assert "degrees" in finding.cure and "state_scale" in finding.cure


def test_scales_of_the_mapping_mend_units(tmp_path):
    folder = write_v2(tmp_path / "set", images=True)
    for episode, path in enumerate(sorted(folder.glob("data/*/*.parquet"))):
        states = scaled(STATES[episode], slice(0, 3), 1e3)
        replace_column(path, "observation.state", states.tolist())
    with pytest.raises(DatasetError, match="are they millimetres"):
        LeRobotEpisodes(folder, MAPPING, BRIDGE)
    (tmp_path / "map.yaml").write_text(
        "cameras: {front: camera}\nstate_scale: [0.001, 0.001, 0.001, 1, 1, 1, 1, 1]\n"
    )
    data = LeRobotEpisodes(folder, read_mapping(tmp_path / "map.yaml"), BRIDGE)
    np.testing.assert_allclose(data.states(), np.concatenate(STATES), rtol=1e-5)
    with pytest.raises(DatasetError, match=r"has 2 factors for observation\.state; give 8"):
        LeRobotEpisodes(folder, replace(MAPPING, state_scale=(1.0, 2.0)), BRIDGE)


def test_names_are_compared_with_the_contract():
    names = BRIDGE.state_names

    def told(names) -> str:
        found = check_names({"names": names}, (), BRIDGE.state_names, "s", "state_columns")
        return " / ".join(f"{f.message}; {f.cure}" for f in found)

    assert told(list(names)) == "" and told({"motors": list(names)}) == "" and told(None) == ""
    assert "'state_columns: [1, 0, 2, 3, 4, 5, 6, 7]'" in told(["y", "x", *names[2:]])
    joints = ["shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "wrist.pos"]
    assert "has joints (shoulder_pan.pos" in told([*joints, "a", "b", "c", "d"])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ("gripper_range: [1, 0]", "the smaller first"),
        ("gripper_range: [0, .inf]", "inf"),
        ("gripper_range: 100", "two numbers"),
        ("state_scale: [0, 1]", "a list of factors"),
        ("state_columns: [-1]", "counted from 0"),
        ("drop_first: -3", "a number of steps"),
        ("binarize: yes please", "true or false"),
        ("state: [x]", "the name of a feature"),
    ],
)
def test_mappings_are_checked(tmp_path, values, says):
    path = tmp_path / "map.yaml"
    path.write_text(f"cameras: {{front: camera}}\n{values}\n")
    with pytest.raises(DatasetError, match=says):
        read_mapping(path)


# Rows and instructions


def test_sets_of_lerobots_own_converter_are_read():
    """It lists the first episode of a file under the file before; the index tells where it is."""
    data = panda("lerobot-v21-to-v30")
    assert len(data) == 216 and data.episode_ends[-2] == 188
    states = data.states()
    np.testing.assert_allclose(states[187:189, 0], [0.56, 0.3], rtol=1e-6)
    assert data.sample(188, GENERATOR).instruction == "pick the can"
    assert data.sample(21, GENERATOR).instruction == "open the drawer"
    assert data.sample(215, GENERATOR).images["wrist"].shape == (96, 96, 3)
    assert main(["data", "check", str(DATA / "lerobot-v21-to-v30/set")]) == 0


@pytest.mark.parametrize("images", [True, False])
def test_rows_are_found_in_whatever_file_they_lie(tmp_path, images):
    folder = write_v3(tmp_path / "set", images)
    (folder / "data/chunk-000/file-001.parquet").rename(
        folder / "data/chunk-000/file-007.parquet"
    )
    data = LeRobotEpisodes(folder, MAPPING, BRIDGE)
    np.testing.assert_allclose(data.states(), np.concatenate(STATES))
    sample = data.sample(sum(LENGTHS) - 1, GENERATOR)
    assert abs(float(sample.images["front"].mean()) - grey_of(2, LENGTHS[2] - 1)) < 2


def test_the_instruction_of_a_frame_is_that_of_its_row(tmp_path):
    folder = write_v2(tmp_path / "set", images=True)
    path = folder / "data/chunk-000/episode_000001.parquet"
    replace_column(path, "task_index", [0] * 8 + [1] * 4)
    data = LeRobotEpisodes(folder, MAPPING, BRIDGE)
    first = LENGTHS[0]
    told = [data.sample(first + row, GENERATOR).instruction for row in (0, 7, 8, 11)]
    assert told == ["pick the can", "pick the can", "open the drawer", "open the drawer"]
    replace_column(path, "task_index", [5] * 12)
    with pytest.raises(DatasetError, match="episode 1: task 5 is not in the list of tasks"):
        LeRobotEpisodes(folder, MAPPING, BRIDGE)


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_an_instruction_is_never_empty(tmp_path, text):
    folder = write_v2(tmp_path / "set", images=True)
    lines = [{"task_index": 0, "task": "pick the can"}, {"task_index": 1, "task": text}]
    (folder / "meta/tasks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DatasetError, match="episode 1 has no instruction in frame 0"):
        LeRobotEpisodes(folder, MAPPING, BRIDGE)
    data = LeRobotEpisodes(folder, replace(MAPPING, drop_wordless=True), BRIDGE)
    assert len(data) == LENGTHS[0] + LENGTHS[2]
    assert data.sample(LENGTHS[0], GENERATOR).source.endswith("episode 2, frame 0")
    drop_column(folder / "data/chunk-000/episode_000001.parquet", "task_index")
    assert len(LeRobotEpisodes(folder, MAPPING, BRIDGE)) == sum(LENGTHS)


# Images


def png_of(colour: int, bits: int, channels: int) -> bytes:
    """A PNG of a kind that Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", 64, 64, bits, colour, 0, 0, 0)
    rows = zlib.compress(64 * (b"\0" + bytes(64 * channels * bits // 8)))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows)
            + chunk(b"IEND", b""))  # fmt: skip


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


ODD_IMAGES = {
    "16 bits a value": png_of(2, 16, 3),
    "16 bits a pixel": png_of(0, 16, 1),
    "with transparency": encoded(Image.new("RGBA", (64, 64), (1, 2, 3, 255))),
    "with a palette": encoded(Image.new("RGB", (64, 64), (9, 2, 3)).convert("P")),
    "of floats": encoded(Image.new("F", (64, 64), 0.5), "TIFF"),
    "of 1 bit": encoded(Image.new("1", (64, 64), 1)),
    "printing": encoded(Image.new("CMYK", (64, 64)), "JPEG"),
    "cannot be read": b"\x89PNG\r\n",
}


@pytest.mark.parametrize("says", ODD_IMAGES)
def test_images_are_8_bit_colour_or_grey_or_refused(tmp_path, says):
    content = ODD_IMAGES[says]
    with pytest.raises(DatasetError, match=f"the image .*{says}"):
        decode_image(content, "the image")
    folder = write_v3(tmp_path / "set", images=True)
    path = folder / "data/chunk-000/file-000.parquet"
    images = [{"bytes": content, "path": None}] + [png(20)] * (sum(LENGTHS[:2]) - 1)
    replace_column(path, "camera", images[::-1])
    (tmp_path / "map.yaml").write_text("cameras: {front: camera}")
    with pytest.raises(DatasetError, match=f"episode 1, frame 11: camera .*{says}"):
        open_robot(RobotData(str(folder), "lerobot", str(tmp_path / "map.yaml")), BRIDGE, {})


def test_grey_images_become_colour():
    for content in (encoded(Image.new("L", (4, 3), 77)), png_of(0, 8, 1)):
        image = decode_image(content, "the image")
        assert image.shape[2] == 3 and (image == image[..., :1]).all()


def spoil_video(name: str, folder: Path) -> None:
    path = next(folder.glob("videos/**/episode_000001.mp4"))
    greys = [grey_of(1, frame) for frame in range(LENGTHS[1])]
    if name == "missing":
        path.unlink()
    elif name == "cut":
        path.write_bytes(path.read_bytes()[:700])
    elif name == "foreign":
        path.write_bytes(b"no video at all" * 99)
    elif name == "short":
        write_video(path, greys[:6])
    elif name == "slow":
        write_video(path, greys, fps=2)
    elif name == "10 bits":
        write_video(path, greys, pixels="yuv420p10le")
    elif name == "size":
        write_video(path, greys, size=32)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing", "1 of 3 videos are missing, such as .*episode_000001.mp4"),
        ("cut", r"episode_000001\.mp4 cannot be read"),
        ("foreign", r"episode_000001\.mp4 cannot be read"),
        ("short", r"episode_000001\.mp4 has 6 frames, its episodes need 12"),
        ("slow", r"episode_000001\.mp4 has 2 frames a second, meta/info\.json says 5"),
        ("10 bits", r"episode_000001\.mp4 is of 10 bits a value"),
        ("size", r"episode_000001\.mp4 has 32 x 32 pixels, meta/info\.json says 64 x 64"),
    ],
)
def test_videos_are_what_the_data_set_claims(tmp_path, name, says):
    folder = write_v2(tmp_path / "set")
    spoil_video(name, folder)
    (tmp_path / "map.yaml").write_text("cameras: {front: camera}")
    with pytest.raises(DatasetError, match=says):
        open_robot(RobotData(str(folder), "lerobot", str(tmp_path / "map.yaml")), BRIDGE, {})


def test_a_video_of_ten_bits_is_refused_where_a_frame_is_read(tmp_path):
    write_video(tmp_path / "a.mp4", [9] * 5, pixels="yuv420p10le")
    with pytest.raises(DatasetError, match=r"a\.mp4 is of 10 bits a value"):
        VideoFrames().at(tmp_path / "a.mp4", 0.2, 0.1)


# Claims


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"fps": 0}, "fps is 0, not a rate"),
        ({"fps": 1e12}, "fps is 1000000000000.0, not a rate"),
        ({"fps": "fast"}, "fps is 'fast', not a rate"),
        ({"fps": True}, "fps is True"),
        ({"total_episodes": 500}, "total_episodes is 500, but the list of episodes has 3"),
        ({"total_frames": 9}, "total_frames is 9, but the list of episodes has 24"),
        ({"total_frames": -1}, "total_frames is -1, not a whole number"),
        ({"chunks_size": 0}, "chunks_size is 0, not a whole number from 1"),
        ({"features": []}, "features is no mapping"),
        ({"codebase_version": "v9.9"}, "is LeRobot v9.9"),
        ({"data_path": "/etc/{episode_index}"}, "leads out of the data set"),
        ({"data_path": "../{episode_index}"}, "leads out of the data set"),
        ({"data_path": "a/{episode_chunk}/../../../{episode_index}"}, "leads out"),
        ({"data_path": "{episode_index:0999999999d}"}, "a width of at most 99"),
        ({"data_path": "{episode_index.__class__}"}, "something else in braces"),
        ({"data_path": "{episode_index!r}"}, "something else in braces"),
        ({"data_path": "{nothing}"}, "names 'nothing', which is none of"),
        ({"data_path": None}, "data_path is None, not a path"),
    ],
)
def test_what_info_claims_is_bounded(tmp_path, values, says):
    folder = write_v2(tmp_path / "set", images=True)
    edit_info(folder, **values)
    with pytest.raises(DatasetError, match=says) as caught:
        LeRobotEpisodes(folder, MAPPING, BRIDGE)
    assert len(str(caught.value)) < 700 and "\n" not in str(caught.value)


@pytest.mark.parametrize("pattern", ["info.json", "tasks.*", "*.parquet", "*.mp4"])
@pytest.mark.parametrize("write", [write_v2, write_v3])
def test_pipes_are_refused_and_not_waited_for(tmp_path, write, pattern):
    folder = write(tmp_path / "set")
    path = next(folder.rglob(pattern))
    path.unlink()
    os.mkfifo(path)
    (tmp_path / "map.yaml").write_text("cameras: {front: camera}")
    with pytest.raises(DatasetError, match=rf"{path.name}.* is a pipe|{path.name}|missing"):
        open_robot(RobotData(str(folder), "lerobot", str(tmp_path / "map.yaml")), BRIDGE, {})
    assert any(f.level == PROBLEM for f in check_lerobot(folder, BRIDGE, MAPPING))


def test_few_bytes_that_stand_for_very_many_values_are_refused(tmp_path):
    folder = write_v2(tmp_path / "set", images=True)
    path = folder / "data/chunk-000/episode_000001.parquet"
    table = pa.table({"episode_index": pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(120_000_000, np.int8)), pa.array([1]))})  # fmt: skip
    parquet.write_table(table, path, row_group_size=len(table))
    del table
    assert path.stat().st_size < 1_000_000
    with pytest.raises(DatasetError, match=r"000001\.parquet claims 120000000 values"):
        LeRobotEpisodes(folder, MAPPING, BRIDGE)


def test_templates_give_what_they_say(tmp_path):
    names = {"episode_chunk": 2, "episode_index": 17, "video_key": "a.b"}
    path = path_in(tmp_path, "v/{episode_chunk:03d}/{video_key}/{episode_index:06d}.mp4", names)
    assert path == tmp_path / "v/002/a.b/000017.mp4"
    with pytest.raises(DatasetError, match="leads out"):
        path_in(tmp_path, "{video_key}/x", names | {"video_key": "/etc"})


@pytest.mark.parametrize("write", [write_v2, write_v3])
def test_shapes_and_columns_are_compared(tmp_path, write):
    folder = write(tmp_path / "set", images=True)
    features = read_description(folder).features
    edit_info(folder, features=features | {"action": {"dtype": "float32", "shape": [9]}})
    with pytest.raises(DatasetError, match=r"action has 7 columns, meta/info\.json says 9"):
        LeRobotEpisodes(folder, MAPPING, BRIDGE)
    edit_info(folder, features=features | {"action": {"dtype": "int64", "shape": [7]}})
    with pytest.raises(DatasetError, match=r"action is claimed to be int64, but the column holds"):
        LeRobotEpisodes(folder, MAPPING, BRIDGE)
    edit_info(folder, features=features | {"camera": {"dtype": "image", "shape": [48, 64, 3]}})
    data = LeRobotEpisodes(folder, MAPPING, BRIDGE)
    with pytest.raises(DatasetError, match=r"has 64 x 64 pixels, meta/info\.json says 64 x 48"):
        data.sample(0, GENERATOR)
    edit_info(folder, features=features | {"more": {"dtype": "float32", "shape": [1]}})
    assert len(LeRobotEpisodes(folder, MAPPING, BRIDGE)) == sum(LENGTHS)


@pytest.mark.parametrize("write", [write_v2, write_v3])
@pytest.mark.parametrize("images", [True, False])
def test_a_good_set_is_ready_and_a_bad_one_has_all_of_its_problems_told(
    tmp_path, capsys, write, images
):
    folder, mapping = write(tmp_path / "set", images), tmp_path / "map.yaml"
    mapping.write_text("cameras: {front: camera}")
    arguments = ["data", "check", str(folder), "--contract", "widowx_bridge", "--mapping"]
    assert main([*arguments, str(mapping)]) == 0
    assert "ready: 0 problems, 0 warnings" in capsys.readouterr().out
    edit_info(folder, total_tasks=7)
    paths = sorted(folder.glob("data/*/*.parquet"))
    values = actions_of(2)
    values[1, 1] = np.inf
    replace_column(paths[-1], "action", values.tolist())
    first = [actions_of(0)] if write is write_v2 else [actions_of(0), actions_of(1)]
    replace_column(paths[0], "action", scaled(np.vstack(first), slice(6, 7), 100.0).tolist())
    assert main([*arguments, str(mapping)]) == 1
    said = capsys.readouterr().out
    assert "episode 2: action holds NaN or infinity" in said
    assert "gripper_range: [0, 100]" in said and "says 7 tasks, the list has 2" in said
    assert "not ready: 2 problems, 1 warnings" in said


def test_a_folder_that_is_no_data_set_is_named(tmp_path, capsys):
    assert main(["data", "check", str(tmp_path)]) == 1
    assert "holds neither a LeRobot data set nor bags" in capsys.readouterr().out
    assert main(["data", "check"]) == 2
    (tmp_path / "talk.json").write_text(
        json.dumps([{"image": "a.png", "conversations": [{"from": "human", "value": "a?"},
                                                        {"from": "gpt", "value": "b"}]}])
    )  # fmt: skip
    assert main(["data", "check", str(tmp_path / "talk.json")]) == 1
    assert "1 images are missing, such as" in capsys.readouterr().out
    (tmp_path / "a.png").write_bytes(ODD_IMAGES["16 bits a value"])
    assert main(["data", "check", str(tmp_path / "talk.json")]) == 1
    assert "16 bits a value, not 8-bit colour or grey" in capsys.readouterr().out


def mutated(random: Random, folder: Path) -> str:
    """Changes one file of a data set; returns how."""
    file = random.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    if file.suffix == ".json":
        file.write_text(json.dumps(mutate_tree(random, json.loads(file.read_text()))))
    elif file.suffix == ".jsonl":
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("\n".join(json.dumps(line) for line in mutate_tree(random, lines)))
    elif file.suffix == ".parquet" and random.randrange(2):
        table = parquet.read_table(file)
        name = random.choice(table.column_names)
        rows = [random.randrange(len(table)) for _ in range(len(table))]
        index = table.schema.get_field_index(name)
        column = random.choice((table.column(name).take(rows), pa.nulls(len(table)),
                                [NAN] * len(table)))  # fmt: skip
        parquet.write_table(table.set_column(index, name, [column]), file)
        return f"{file.name}, column {name}"
    else:
        file.write_bytes(mutate_bytes(random, file.read_bytes()))
    return file.name


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_wrong_with_a_set_the_check_tells_what_reading_refuses(tmp_path, seed):
    random = Random(seed)
    whole = (write_v2, write_v3)[seed % 2](tmp_path / "whole", images=seed > 1)
    refused = 0
    for number in range(33):
        folder = tmp_path / "set"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        how = mutated(random, folder)
        findings = check_lerobot(folder, BRIDGE, MAPPING)
        told = [f for f in findings if f.level == PROBLEM]
        assert all(len(f.message) < 1000 and "\n" not in f.message for f in findings)
        try:
            data = LeRobotEpisodes(folder, MAPPING, BRIDGE)
            require_images(data.info, ["camera"])
        except DatasetError as error:
            refused += 1
            assert told, f"{number}, {how}: {error}"
        else:
            assert not told, f"{number}, {how}: {told}"
            assert np.isfinite(data.states()).all() and np.isfinite(data.actions()).all()
    assert refused > 10


@pytest.mark.parametrize("write", [write_v2, write_v3])
@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize(
    ("low", "high", "more"),
    [
        (-1.0, 1.0, {}),
        (-1.0, 1.0, {"gripper": "closed"}),
        (0.0, 100.0, {"binarize": True}),
        (0.0, 0.08, {"binarize": True}),
        (0.0, 0.08, {"gripper": "closed", "binarize": True}),
    ],
)
def test_a_gripper_in_other_units_becomes_0_to_1_or_is_refused(
    tmp_path, write, images, low, high, more
):
    folder = write(tmp_path / "set", images, fps=10)
    for path in folder.glob("data/*/*.parquet"):
        actions = np.array(parquet.read_table(path).column("action").to_pylist())
        actions[:, 6] = low + (high - low) * actions[:, 6]
        replace_column(path, "action", actions.tolist())
    mapping = replace(MAPPING, **more)
    with pytest.raises(DatasetError, match=r"the gripper of action .*'gripper_range: \["):
        LeRobotEpisodes(folder, mapping, BRIDGE)
    data = LeRobotEpisodes(folder, replace(mapping, gripper_range=(low, high)), BRIDGE)
    # The last of two steps is the one with 1.
    expected = 0.0 if more.get("gripper") else 1.0
    np.testing.assert_allclose(data.actions()[:, 6], expected, atol=1e-6)


def test_names_with_control_characters_are_shown_escaped(tmp_path, capsys):
    named = str(tmp_path / "a\nb\x1b[31m")
    assert main(["data", "check", named, "--contract", str(contract_path("sim_panda"))]) == 1
    assert main(["data", "convert", named, str(tmp_path / "out")]) == 2
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert shown.out.count(r"a b\x1b[31m") == 2


@pytest.mark.parametrize("write", [write_v2, write_v3])
@pytest.mark.parametrize("pattern", ["data/**/*.parquet", "videos/**/*.mp4"])
def test_a_pipe_in_the_place_of_a_file_is_a_problem(tmp_path, write, pattern):
    folder = write(tmp_path / "set", fps=10)
    path = sorted(folder.glob(pattern))[0]
    path.unlink()
    os.mkfifo(path)
    assert any(f.level == PROBLEM for f in check_lerobot(folder, BRIDGE, MAPPING))
