"""Robots of unlike states and actions in one RoboVLM: what is padding changes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_robovlm import PLAIN, observation, randomise, tiny

from vla.contract.embodiment import ContractError, contract_from_dict, dimension_kinds
from vla.contract.normalization import BINARY, measure
from vla.datasets.sample import RobotSample
from vla.datasets.windows import Timeline
from vla.policies.base import Observation
from vla.policies.checkpoint import build_model, save_checkpoint
from vla.policies.collation import CollationOptions
from vla.policies.config import CheckpointError
from vla.policies.parts import ReasoningPart
from vla.policies.robots import Robot
from vla.policies.robovlms.collation import RoboVLMCollator
from vla.policies.robovlms.config import CommonSizesConfig, MixtureConfig
from vla.policies.robovlms.padding import action_layout
from vla.policies.tokenizer import train_tokenizer
from vla.training.config import RobotData, TrainConfig
from vla.training.loop import train
from vla.training.sources import contract_of, open_data, pads_robots

SIZES = CommonSizesConfig(state=12, motion=9, binary=2)
WORDS = "pick the red block"
HEADS: dict[str, dict] = {
    "policy_head": {},
    "flow": {"layout": "policy_head", "output": "flow"},
    "diffusion": {"layout": "one_step", "output": "diffusion"},
    "interleaved": {"layout": "interleaved"},
    "mixture": {"layout": "one_step", "mixture": MixtureConfig(32, 48)},
    "mixture flow": {"layout": "one_step", "output": "flow", "mixture": MixtureConfig(32, 48)},
}


def config_of(name: str, **changes):
    given = {"layout": name} | HEADS[name]
    return tiny(given.pop("layout"), sizes=SIZES, use_state=True, **given, **changes)


def stats_of(contract):
    generator, kinds = np.random.default_rng(0), dimension_kinds(contract)
    shapes = {"state": contract.state_names, "action": contract.action_names}
    return {
        vector: measure(generator.uniform(-1, 1, (50, len(names))), names, kinds[vector])
        for vector, names in shapes.items()
    }


@pytest.fixture(scope="module")
def part_of(tmp_path_factory, contract):
    parts = {}

    def make(name: str) -> ReasoningPart:
        if name not in parts:
            torch.manual_seed(0)
            config = config_of(name)
            model, folder = build_model(config, contract), tmp_path_factory.mktemp("padded")
            randomise(model)
            tokenizer = train_tokenizer((WORDS,), config.backbone.vocabulary)
            robots = [Robot(contract, stats_of(contract))]
            save_checkpoint(folder, config, model.state_dict(), robots, tokenizer, torch.float32)
            parts[name] = ReasoningPart.from_pretrained(folder)
        parts[name].reset()
        return parts[name]

    return make


def batch_of(part, count: int = 2):
    generator = np.random.default_rng(1)
    shape = part.contract.horizon, len(part.contract.action_names)
    samples = [
        RobotSample(frame.images, frame.state, generator.uniform(-1, 1, shape), WORDS, steps=5)
        for frame in map(observation, range(count))
    ]
    collator = RoboVLMCollator(
        part.config, part._tokenizer._tokenizer, CollationOptions(augmentation=PLAIN)
    )
    return collator.robot_batch(samples, [part._stats] * count, generator)


@pytest.mark.parametrize("name", HEADS)
@settings(max_examples=5)
@given(value=st.sampled_from([-50.0, -1.0, 0.3, 7.0]))
def test_padding_changes_neither_loss_nor_gradient(part_of, name, value):
    part = part_of(name)
    model, batch = part.model, batch_of(part)
    padding = ~batch.frames.used
    assert padding.sum(1).tolist() == [4, 4] and (batch.frames.state[:, 10:] == 0).all()

    def measured(actions: torch.Tensor):
        frames = replace(batch.frames, actions=actions)
        model.zero_grad()
        generator = torch.Generator().manual_seed(3)
        losses = model(replace(batch, frames=frames), 2, generator)
        losses["action"].backward()
        return losses, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    losses, gradients = measured(batch.frames.actions)
    other, changed = measured(batch.frames.actions.masked_fill(padding[:, None], value))
    assert losses.keys() == other.keys()
    for key in losses:
        assert torch.equal(losses[key], other[key]), key
    assert all(map(torch.equal, gradients, changed)) and len(gradients) > 10


@pytest.mark.parametrize("name", HEADS)
def test_places_that_no_robot_uses_do_not_reach_the_chunk(part_of, name):
    part = part_of(name)
    frame = observation(4)
    chunk = part.act(frame, WORDS, seed=0)
    assert chunk.shape == (part.contract.horizon, 7)
    before = {key: value.clone() for key, value in part.model.state_dict().items()}
    unused = torch.from_numpy(~part._layout.used)
    with torch.no_grad():
        part.model.state_token.weight[:, 10:] = 9.0
        for path, module in part.model.head.named_modules():
            leaf = path.rpartition(".")[2]
            if leaf == "action_in":
                module.weight[:, unused] = 5.0
            elif leaf == "action_out":
                module.weight[unused], module.bias[unused] = 3.0, -2.0
    part.reset()
    np.testing.assert_array_equal(part.act(frame, WORDS, seed=0), chunk)
    part.model.load_state_dict(before)


def test_values_find_their_places_and_come_back(contract):
    kinds = dimension_kinds(contract)["action"]
    layout = action_layout(config_of("policy_head"), kinds)
    assert layout.places.tolist() == [0, 1, 2, 3, 4, 5, 9]
    assert layout.binary == (*[False] * 9, True, True)
    chunk = np.random.default_rng(0).normal(size=(3, 7))
    np.testing.assert_array_equal(layout.gather(layout.spread(chunk)), chunk)
    assert layout.spread(chunk)[:, ~layout.used].sum() == 0
    mixed = action_layout(config_of("policy_head"), (BINARY, *kinds[:3], BINARY))
    assert mixed.places.tolist() == [9, 0, 1, 2, 10]


JOINTS = [f"joint{number}" for number in range(1, 8)]


class JointArm:
    """Frames of an arm that is moved by the speeds of seven joints, and has two fingers."""

    def __init__(self, contract):
        values = contract.to_dict() | {"name": "joint_arm", "representation": ""}
        states = [*JOINTS, "left", "right", "middle", "torque"]
        values["state_names"] = states
        values["state_dimensions"] = [{"name": name, "kind": "other"} for name in states]
        values["action_names"] = [*JOINTS, "left", "right"]
        values["action_dimensions"] = [
            *({"name": name, "kind": "joint_velocity"} for name in JOINTS),
            *({"name": name, "kind": "gripper"} for name in ("left", "right")),
        ]
        self.contract = contract_from_dict(values, "the test")
        generator = np.random.default_rng(0)
        self._states = generator.uniform(-1, 1, (20, 11)).astype(np.float32)
        self._actions = generator.uniform(-1, 1, (20, 9)).astype(np.float32)
        self._actions[:, 7:] = self._actions[:, 7:] > 0

    def __len__(self) -> int:
        return 20

    def sample(
        self, index: int, generator: np.random.Generator, images: bool = True
    ) -> RobotSample:
        chunk = np.tile(self._actions[index], (self.contract.horizon, 1))
        seen = observation(index).images if images else {}
        return RobotSample(seen, self._states[index], chunk, WORDS, steps=3)

    def states(self) -> np.ndarray:
        return self._states

    def actions(self) -> np.ndarray:
        return self._actions

    def timeline(self) -> Timeline:
        return Timeline(0.3 * np.arange(20), np.array([20]))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["policy_head", "discrete"])
def test_unlike_robots_train_one_model_that_acts_for_both(
    dataset, checkpoint, contract, tmp_path, layout
):
    arm = JointArm(contract)
    config = TrainConfig(
        stage="policy",
        preset=f"nano_{layout}",
        model={
            "sizes": {"state": 12, "motion": 8, "binary": 2},
            "use_state": True,
            "head": {"hidden": 16, "layers": 1, "widths": [16]},
        },
        backbone="checkpoint",
        backbone_source=str(checkpoint),
        robot=(RobotData(str(dataset)),),
        output=str(tmp_path / "run"),
        steps=2,
        batch_size=4,
        augmentation=PLAIN,
    )
    data = open_data(config, contract)
    data.robot.add(arm, 10.0)
    folder = train(config, contract, data)
    for place, own, values in (
        (folder, contract, 10),
        (folder / "robots" / "joint_arm", arm.contract, 11),
    ):
        part = ReasoningPart.from_pretrained(place)
        shown = Observation(observation(0).images, np.zeros(values))
        assert part.act(shown, WORDS).shape == (own.horizon, len(own.action_names))
    with pytest.raises(CheckpointError, match=r"'joint_arm' has 11 values of state, .* for 10"):
        model = config.model | {"sizes": {"state": 10, "motion": 8, "binary": 2}}
        train(replace(config, model=model, output=str(tmp_path / "other")), contract, data)


def test_only_a_model_that_pads_takes_unlike_robots(contract, tmp_path):
    other = JointArm(contract).contract
    (tmp_path / "arm.yaml").write_text(yaml.safe_dump(other.to_dict()))
    entry = RobotData("somewhere", "bags", contract=str(tmp_path / "arm.yaml"))
    with pytest.raises(ContractError, match=r"'joint_arm' cannot .*: values of state: 11, not 10"):
        contract_of(entry, contract)
    config = TrainConfig(preset="nano_policy_head", robot=(entry,))
    assert not pads_robots(config)
    assert pads_robots(replace(config, model={"sizes": {"state": 12, "motion": 8, "binary": 2}}))
    assert contract_of(entry, contract, padded=True) == other


def test_sizes_that_are_too_small_are_named(contract):
    for entry, own in (("state", 10), ("motion", 6), ("binary", 1)):
        config = replace(config_of("policy_head"), sizes=replace(SIZES, **{entry: 0}))
        says = f"'sim_panda' has {own} values of {entry}, .*set model.sizes.{entry} to {own}"
        with pytest.raises(CheckpointError, match=says):
            build_model(config, contract)
