"""The paper's ablations as configuration: what each leaves out, and that each is trained."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vla.datasets.sources import ConversationData, RobotData
from vla.evaluation.errors import GridError
from vla.evaluation.grid import cells_of, read_grid
from vla.policies.checkpoint import build_model
from vla.policies.config import CheckpointError, LoraConfig, with_entries
from vla.policies.instructvla.film_vision import FiLM
from vla.policies.instructvla.vision_language_action import sample_actions
from vla.policies.policy import Policy
from vla.policies.registry import policy_type, preset
from vla.training.config import TrainConfig
from vla.training.config_check import check_train_config
from vla.training.loop import train
from vla.training.sources import open_data, open_robot

GRID = Path(__file__).parents[1] / "config/compare/instructvla_ablations.yaml"
NO_VISION = {"vision": "none", "keypoints": 0}
DINOV2 = {"vision": "dinov2", "patch": 14, "image_size": 56, "keypoints": 0, "vision_mlp": 64}
DINOV2 |= {"vision_feature_block": 0}


def expert_of(contract, **changes):
    """The action expert of the preset "test" with changes, in which every weight matters."""
    torch.manual_seed(0)
    config = with_entries(preset("test"), {"expert": changes}, "test")
    return build_model(config, contract).expert.eval()


def acted(expert, images, latent, state):
    generator = torch.Generator().manual_seed(1)
    return sample_actions(expert, images, latent, state, preset("test").flow, generator)


@pytest.fixture
def given(contract):
    """Images [2, C, 3, S, S], latent actions and states of two rows, and others."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (4, 2, 3, 96, 96), generator=generator, dtype=torch.uint8)
    latent = torch.randn(4, 4, 32, generator=generator)
    state = torch.randn(4, len(contract.state_names), generator=generator)
    return [(images[:2], latent[:2], state[:2]), (images[2:], latent[2:], state[2:])]


@pytest.mark.parametrize(
    "changes, ignores",
    [
        ({}, ()),
        (NO_VISION, ("images",)),
        (NO_VISION | {"use_state": False}, ("images", "state")),
        ({"use_state": False}, ("state",)),
        (DINOV2 | {"use_state": False, "film": False}, ("state",)),
        ({"film": False}, ()),
    ],
    ids=str,
)
def test_an_expert_ignores_just_what_it_is_to_do_without(contract, given, changes, ignores):
    expert, (first, second) = expert_of(contract, **changes), given
    names = ("images", "latent", "state")
    plain = acted(expert, *first)
    for index, name in enumerate(names):
        mixed = [*first]
        mixed[index] = second[index]
        assert torch.equal(acted(expert, *mixed), plain) == (name in ignores), name


@pytest.mark.parametrize("vision", [{}, DINOV2])
def test_without_film_the_latent_action_does_not_change_what_is_seen(contract, given, vision):
    (images, latent, _), (_, other, _) = given
    for film in (True, False):
        expert = expert_of(contract, film=film, **vision)
        assert any(isinstance(part, FiLM) for part in expert.modules()) == film
        seen = [expert._look(images, given)[0] for given in (latent, other)]
        assert torch.equal(*seen) != film


def test_an_expert_without_vision_asks_for_no_image_of_its_own(contract):
    config = with_entries(preset("test"), {"expert": NO_VISION}, "test")
    features = policy_type("instructvla").features(config, contract)
    assert features.cameras == ("front",)
    with pytest.raises(CheckpointError, match="set keypoints to 0 for 'none'"):
        expert_of(contract, vision="none")
    with pytest.raises(CheckpointError, match=r"unknown expert\.vision 'eyes'"):
        expert_of(contract, vision="eyes")


def test_full_fine_tuning_takes_no_experts():
    robot = (RobotData("somewhere"),)
    check_train_config(TrainConfig(stage="full", preset="test", robot=robot))
    new = TrainConfig(stage="full", preset="test", robot=robot, lora=LoraConfig(("action",)))
    with pytest.raises(CheckpointError, match="stage 'full' trains no new LoRA experts"):
        check_train_config(new)
    check_train_config(replace(new, initialize_from="checkpoints/nano"))


def test_full_fine_tuning_may_go_without_frames_where_there_are_conversations():
    config = TrainConfig(
        stage="full", preset="test", robot=(RobotData("somewhere"),), batch_size=0,
        conversation_batch_size=2,
    )  # fmt: skip
    with pytest.raises(CheckpointError, match="a batch size of it or of conversations"):
        check_train_config(config)
    check_train_config(replace(config, conversations=(ConversationData("talks.json"),)))


@pytest.mark.slow
def test_a_share_of_annotations_leaves_all_actions(dataset, contract):
    def annotated(share):
        entry = RobotData(str(dataset), annotations="truth", annotation_share=share)
        robot, generator = open_robot(entry, contract), np.random.default_rng(0)
        samples = [robot.sample(index, generator) for index in range(len(robot))]
        return [sample.annotation is not None and sample.answer is not None for sample in samples]

    shares = {share: annotated(share) for share in (0.0, 0.25, 0.5, 1.0)}
    assert len({len(flags) for flags in shares.values()}) == 1
    assert all(shares[1.0]) and not any(shares[0.0])
    ends = open_robot(RobotData(str(dataset), annotation_share=0.5), contract).episode_ends
    counts = {
        share: [set(part.tolist()) for part in np.split(np.array(flags), ends[:-1])]
        for share, flags in shares.items()
    }
    # Whole episodes, and the fewer are among the more.
    assert sum(part == {True} for part in counts[0.25]) == 1
    assert sum(part == {True} for part in counts[0.5]) == 2
    assert all(len(part) == 1 for parts in counts.values() for part in parts)
    assert all(more or not few for few, more in zip(shares[0.25], shares[0.5], strict=True))


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    """A file of two conversations, one of which has an image."""
    folder = tmp_path_factory.mktemp("talks")
    Image.new("RGB", (96, 96), "red").save(folder / "red.png")
    turns = [
        {"from": "human", "value": "<image>\nwhich color ?"},
        {"from": "gpt", "value": "red"},
    ]
    rows = [
        {"id": "1", "image": "red.png", "conversations": turns},
        {"id": "2", "conversations": [{"from": "human", "value": "hello"}, turns[1]]},
    ]
    (folder / "talks.json").write_text(json.dumps(rows))
    return ConversationData(str(folder / "talks.json"), images=str(folder))


TRAININGS = {cell.training.name: cell for cell in cells_of(read_grid(GRID), GRID.name)}


@pytest.mark.slow
def test_the_grid_varies_one_thing_at_a_time():
    cells = cells_of(read_grid(GRID), GRID.name)
    assert len(cells) == 40 and len(TRAININGS) == 15
    for cell in cells:
        kind = cell.kind
        usual = [kind["structure"] == "base", kind["recipe"] in ("expert", "generalist")]
        assert any(usual) and (all(usual) or not kind["evaluation"].startswith("rate_"))
        assert (kind["evaluation"] == "implied_think") == cell.evaluation.think
    rates = {cell.evaluation.latent_every for cell in cells}
    assert rates == {1, 2, 4, 8}


@pytest.mark.slow
def test_a_list_of_what_is_left_out_names_what_there_is():
    grid = read_grid(GRID)
    wrong = replace(grid, leave_out=({"structure": ("base", "no_arms")},))
    with pytest.raises(GridError, match="leave_out 1: unknown structure 'no_arms'"):
        cells_of(wrong, "grid")


@pytest.fixture(scope="module")
def trained(contract, dataset, talks, tmp_path_factory):
    """The checkpoint of a configuration after one tiny step; of equal ones there is one."""
    folder, done = tmp_path_factory.mktemp("runs"), {}

    def make(config, start):
        tiny = replace(
            config,
            preset="test",
            backbone="",
            backbone_source="",
            initialize_from=start,
            lora=replace(config.lora, rank=2, alpha=4.0),
            robot=tuple(replace(entry, path=str(dataset), options={}) for entry in config.robot),
            conversations=(talks,) if config.conversations else (),
            output="",
            steps=1,
            batch_size=2,
            conversation_batch_size=min(1, config.conversation_batch_size),
            validation_share=0.0,
            precision="no",
        )
        key = repr(tiny)
        if key not in done:
            run = replace(tiny, output=str(folder / str(len(done))))
            done[key] = str(train(run, contract, open_data(run, contract)))
        return done[key]

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_each_cell_of_the_grid_is_trained_and_acts(name, contract, trained):
    checkpoint = ""
    for config in TRAININGS[name].training.parts:
        checkpoint = trained(config, checkpoint)
    policy = Policy.from_pretrained(checkpoint, latent_every=2)
    images = {camera: np.zeros((96, 96, 3), np.uint8) for camera in policy.features.cameras}
    for think in (False, True):
        policy.reset("pick the red block", seed=0, think=think)
        for _ in range(3):
            chunk = policy.chunk(images, np.zeros(len(contract.state_names)))
            assert chunk.shape == (contract.horizon, 7) and np.isfinite(chunk).all()
