"""Masked frames from the data to the report of a run: drawn, never decoded, counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bag_files import write_demonstration
from lerobot_files import write_v3
from masked_samples import repainted
from tiny_checkpoint import save_tiny_checkpoint
from tiny_robovlm import PLAIN

import vla.datasets.lerobot.dataset as lerobot
from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.datasets.frames import DatasetError
from vla.datasets.sources import RobotData
from vla.datasets.video import VideoFrames
from vla.envs.tabletop.samples import SimulatedDemonstrations
from vla.policies.base import PolicyType
from vla.policies.checkpoint import open_checkpoint
from vla.policies.collation import PromptSampling
from vla.policies.config import CheckpointError, LoraConfig
from vla.policies.instructvla.policy import InstructVLAType
from vla.policies.registry import preset
from vla.policies.robots import read_robots
from vla.policies.sequence import IMAGE
from vla.policies.tokenizer import load_tokenizer
from vla.training.batches import Mixture, StepDataset
from vla.training.config import TrainConfig, read_train_config
from vla.training.config_check import check_train_config
from vla.training.effort import read_effort
from vla.training.loop import train
from vla.training.run import train_run
from vla.training.sources import open_data, open_robot

PARADIGMS = Path(__file__).parents[1] / "config" / "training" / "language_action"
BRIDGE = load_contract(contract_path("widowx_bridge"))
MAPPING = "cameras: {front: camera}"


@pytest.fixture
def config(tmp_path, dataset) -> TrainConfig:
    return TrainConfig(
        preset="test",
        lora=LoraConfig(("action",), rank=4, alpha=8.0),
        robot=(RobotData(str(dataset)),),
        output=str(tmp_path / "run"),
        steps=4,
        batch_size=8,
        augmentation=replace(PLAIN, brightness=0.2, state_noise=0.01),
        prompts=PromptSampling(motion=0.5),
        learning_rate=1e-3,
        save_every=100,
    )


def maker(config: TrainConfig, mixture: Mixture, checkpoint) -> StepDataset:
    robots = read_robots(checkpoint)
    return StepDataset(mixture, None, load_tokenizer(checkpoint), robots, preset("test"), config)


# Drawing


def test_shares_change_who_is_masked_and_nothing_else(config, contract, shards, checkpoint):
    data = SimulatedDemonstrations(shards, contract, {})
    batches = {
        share: [
            maker(config, Mixture([data], [1.0], [share]), checkpoint)[i]["robot"] for i in (0, 1)
        ]
        for share in (0.0, 0.3, 0.6, 1.0)
    }
    seen = {
        share: torch.cat([
            torch.ones(8, dtype=torch.bool) if batch.acting.seen is None else batch.acting.seen
            for batch in pair
        ])
        for share, pair in batches.items()
    }  # fmt: skip
    assert seen[0.0].all() and not seen[1.0].any()
    assert 0 < (~seen[0.3]).sum() < (~seen[0.6]).sum() < 16
    assert not (seen[0.6] & ~seen[0.3]).any(), "a larger share masks the same frames and more"
    for pair in batches.values():
        for batch, whole in zip(pair, batches[0.0], strict=True):
            assert torch.equal(batch.acting.actions, whole.acting.actions)
            assert torch.equal(batch.acting.state, whole.acting.state)
            for own, all_seen in zip(batch.text.ids, whole.text.ids, strict=True):
                words = [x[(x != IMAGE) & (x > 0)] for x in (own, all_seen)]
                assert torch.equal(words[0][-20:], words[1][-20:])


def test_a_share_is_of_one_data_set(config, contract, shards, checkpoint):
    one, other = (SimulatedDemonstrations(shards[i : i + 1], contract, {}) for i in (0, 1))
    steps = maker(config, Mixture([one, other], [1.0, 1.0], [1.0, 0.0]), checkpoint)
    known = {tuple(row) for row in one.actions().round(6)}
    batch = steps[0]["robot"]
    drawn = steps.robot.draw(8, np.random.default_rng([config.seed, 0, 0, 0]))
    assert known and {number for number, _ in drawn} == {0, 1}
    assert batch.acting.seen.tolist() == [number == 1 for number, _ in drawn]


def test_exchanged_pixels_of_masked_frames_change_no_batch(config, contract, shards, checkpoint):
    found = []
    for own in (shards, repainted(shards)):
        data = SimulatedDemonstrations(own, contract, {})
        found.append(maker(config, Mixture([data], [1.0], [1.0]), checkpoint)[3]["robot"])
    first, second = found
    assert first.vlm_images.numel() == 0 == first.acting.expert_images.numel()
    for name in ("ids", "mask", "labels"):
        assert torch.equal(getattr(first.text, name), getattr(second.text, name))
    assert torch.equal(first.acting.state, second.acting.state)
    assert torch.equal(first.acting.actions, second.acting.actions)


# Decoding


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """What is decoded of LeRobot data sets, in a list that grows."""
    calls: list[str] = []
    at, decode = VideoFrames.at, lerobot.decode_image
    monkeypatch.setattr(VideoFrames, "at", lambda *given: calls.append("video") or at(*given))
    monkeypatch.setattr(lerobot, "decode_image", lambda *a: calls.append("image") or decode(*a))
    return calls


@pytest.mark.parametrize("stored_images", [False, True], ids=["video", "images"])
def test_masked_frames_of_lerobot_data_are_not_decoded(tmp_path, decoded, stored_images):
    folder = write_v3(tmp_path / "set", images=stored_images)
    (tmp_path / "map.yaml").write_text(MAPPING)
    entry = RobotData(str(folder), "lerobot", str(tmp_path / "map.yaml"), masked_share=1.0)
    config = TrainConfig(robot=(entry,), contract="widowx_bridge")
    (data,) = open_data(config, BRIDGE).robot.datasets
    frames = [data.sample(index, np.random.default_rng(0), images=False) for index in range(8)]
    assert decoded == [], "neither to check the data nor for a frame"
    assert all(frame.images == {} for frame in frames)
    seen = data.sample(3, np.random.default_rng(0))
    assert len(decoded) == 1 and seen.instruction == frames[3].instruction
    np.testing.assert_array_equal(seen.actions, frames[3].actions)
    open_data(replace(config, robot=(replace(entry, masked_share=0.9),)), BRIDGE)
    assert len(decoded) > 1, "where some are seen, images are checked"


class Untouchable:
    """Images that must not be read."""

    def __getitem__(self, row):
        raise AssertionError("an image is read")


def test_masked_frames_of_shards_are_not_read(config, contract, shards, checkpoint):
    blind = [replace(shard, images=dict.fromkeys(shard.images, Untouchable())) for shard in shards]
    data = SimulatedDemonstrations(blind, contract, {})
    steps = maker(config, Mixture([data], [1.0], [1.0]), checkpoint)
    assert steps[0]["robot"].acting.seen.tolist() == [False] * 8
    with pytest.raises(AssertionError, match="an image is read"):
        maker(config, Mixture([data], [1.0], [0.5]), checkpoint)[0]


def test_masked_frames_of_bags_are_not_decoded(tmp_path, contract, monkeypatch):
    write_demonstration(tmp_path / "bags/one", contract)
    entry = RobotData(str(tmp_path / "bags"), "bags")
    seen = open_robot(entry, contract).sample(4, np.random.default_rng(0))

    def decode(*given):
        raise AssertionError("an image is decoded")

    monkeypatch.setattr("vla.bags.frames.camera_image", decode)
    blind = open_robot(replace(entry, masked_share=1.0), contract)
    sample = blind.sample(4, np.random.default_rng(0), images=False)
    assert sample.images == {} and seen.images
    np.testing.assert_array_equal(sample.state, seen.state)
    np.testing.assert_array_equal(sample.actions, seen.actions)
    with pytest.raises(AssertionError, match="an image is decoded"):
        open_robot(replace(entry, masked_share=0.5), contract)


# Runs


@pytest.mark.slow
def test_a_run_reports_its_masked_samples_over_all_of_its_parts(config, contract, tmp_path):
    config = replace(config, robot=(replace(config.robot[0], masked_share=0.5),), steps=6)
    shares: dict[int, float] = {}

    def note(step: int, figures: dict[str, float]) -> None:
        shares[step] = figures.get("robot/masked_share", 0.0)

    train(config, contract, open_data(config, contract), until=3, on_step=note)
    first = json.loads((tmp_path / "run" / "time.json").read_text())
    train(config, contract, open_data(config, contract), on_step=note)
    second = json.loads((tmp_path / "run" / "time.json").read_text())
    for facts, steps in ((first, 3), (second, 6)):
        masked = round(sum(8 * shares[step] for step in range(1, steps + 1)))
        assert (facts["samples"], facts["masked_samples"]) == (8 * steps, masked)
        assert facts["samples_per_second"] > 0
    assert 0 < second["masked_samples"] < 48 and first["masked_samples"] > 0


def test_a_report_of_an_earlier_version_is_read(tmp_path):
    (tmp_path / "time.json").write_text('{"steps": 3, "seconds": 7}')
    effort = read_effort(tmp_path)
    assert (effort.seconds, effort.samples, effort.masked_samples) == (7, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "masks"),
    [("vla", (0, 0)), ("la_head", (1, 1)), ("mixed", (0.1, 0.9)), ("half", (0.1, 0.9))],
)
def test_shipped_paradigms_mask_what_they_say(name, masks, dataset, checkpoint, contract, tmp_path):
    config = read_train_config(PARADIGMS / f"{name}.yaml")
    options = {"episodes": 4, "episodes_per_shard": 2}
    small = {"structure": {"window": 2}, "head": {"hidden": 16, "layers": 1, "widths": [16]}}
    config = replace(
        config,
        model=config.model | small,
        backbone_source=str(checkpoint),
        robot=tuple(
            replace(entry, path=str(dataset), kind="simulated", options=options)
            for entry in config.robot
        ),
        output=str(tmp_path / name),
        steps=2,
        batch_size=8,
        precision="no",
    )
    folder = train_run(config, contract)
    facts = json.loads((folder.parent / "time.json").read_text())
    assert masks[0] <= facts["masked_samples"] / facts["samples"] <= masks[1]
    assert open_checkpoint(folder).config.structure.window == 2


def test_paradigms_have_the_same_steps_and_batch():
    runs = {path.stem: read_train_config(path) for path in PARADIGMS.glob("*.yaml")}
    steps = {name: run.steps for name, run in runs.items()}
    assert steps["la_head"] + steps["la"] == steps["vla"] == steps["mixed"] == steps["half"]
    assert steps["la_head"] + steps["la_vla_first"] + steps["la_vla"] == steps["vla"]
    own = [run for name, run in runs.items() if not name.startswith("instructvla")]
    assert (
        len({(run.batch_size, run.learning_rate, run.preset, run.grounding_weight) for run in own})
        == 1
    )


# What does not go together


def refused(change) -> str:
    with pytest.raises(CheckpointError) as caught:
        change()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("share", [-0.1, 1.5, "all"])
def test_a_share_is_from_0_to_1(tmp_path, share):
    path = tmp_path / "train.yaml"
    path.write_text(json.dumps({"robot": [{"path": "here", "masked_share": share}]}))
    assert "masked_share" in refused(lambda: read_train_config(path))


def test_grounding_needs_frames_that_see(config):
    blind = replace(config.robot[0], masked_share=1.0)
    wrong = replace(config, robot=(blind,), grounding_weight=0.3)
    assert "set grounding_weight to 0" in refused(lambda: check_train_config(wrong))
    check_train_config(replace(wrong, robot=(blind, *config.robot)))


def test_a_policy_that_never_sees_is_not_corrected(config):
    options = {"corrections": {"after_steps": [2]}}
    blind = replace(config.robot[0], masked_share=1.0, options=options)
    wrong = replace(config, robot=(blind,))
    assert "leave its corrections out" in refused(lambda: check_train_config(wrong))
    check_train_config(replace(wrong, robot=(replace(blind, masked_share=0.5),)))


def test_a_policy_that_needs_images_refuses_masks_and_data_without(
    config, contract, shards, checkpoint, monkeypatch
):
    monkeypatch.setattr(InstructVLAType, "needs_images", PolicyType.needs_images)
    masked = replace(config, robot=(replace(config.robot[0], masked_share=0.2),))
    text = refused(lambda: train(masked, contract, open_data(masked, contract)))
    assert "masked_share is 0.2, but a policy of type instructvla is made for observations" in text

    class Blind(SimulatedDemonstrations):
        """As a data set that stores no images."""

        def sample(self, index, generator, images=True):
            return super().sample(index, generator, images=False)

    data = Blind(shards, contract, {})
    with pytest.raises(DatasetError, match=r"robot data 1 has no images, but .* its twin with"):
        maker(config, Mixture([data], [1.0]), checkpoint)[0]


@pytest.mark.slow
def test_a_checkpoint_starts_a_run_of_another_share(config, contract, tmp_path):
    """LA-VLA: what was learned without vision goes on with it."""
    start = save_tiny_checkpoint(tmp_path / "start")
    blind = replace(config, robot=(replace(config.robot[0], masked_share=1.0),), steps=1)
    blind = replace(blind, initialize_from=str(start), output=str(tmp_path / "blind"))
    first = train(blind, contract, open_data(blind, contract))
    sees = replace(blind, robot=config.robot, initialize_from=str(first))
    sees = replace(sees, output=str(tmp_path / "sees"))
    figures: list[dict[str, float]] = []
    train(sees, contract, open_data(sees, contract), on_step=lambda _, own: figures.append(own))
    assert np.isfinite(figures[-1]["robot/flow"]) and "robot/masked_share" not in figures[-1]
