"""Labels of where the gripper acts next: read from demonstrations, drawn into the image."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.datasets.frames import Shard
from vla.datasets.grounding import EVENTS, grounding_loss, next_places, place_pixels
from vla.envs.tabletop.environment import observation_of
from vla.envs.tabletop.samples import simulated_views
from vla.envs.tabletop.simulator import TableTopSimulator

CONTRACT = load_contract(contract_path("sim_panda"))


@pytest.fixture(scope="module")
def simulator():
    simulator = TableTopSimulator(96)
    yield simulator
    simulator.close()


@pytest.fixture(scope="module")
def views():
    return simulated_views(CONTRACT)


@pytest.mark.parametrize("camera", ["front", "wrist"])
def test_a_projected_object_lies_where_the_image_shows_it(simulator, views, camera):
    """Hiding the object changes the image around the projected place, and hardly elsewhere."""
    seen = 0
    for seed in range(6):
        simulator.reset(seed, "pick")
        name = simulator.objects()[0]
        images, state = observation_of(simulator, CONTRACT)
        position = simulator.object_position(name)[None]
        column, row = views[camera].project(position, state[None])[0]
        if not (5 < column < 90 and 5 < row < 90):
            continue
        address = simulator.model.joint(simulator.scene_objects[name].body).qposadr[0]
        qpos = simulator.qpos
        qpos[address : address + 3] = -2.5, 0.0, 0.5
        simulator.set_qpos(qpos)
        hidden = simulator.render(camera).astype(int)
        rows, columns = np.nonzero(np.abs(hidden - images[camera]).sum(axis=2) > 30)
        assert len(rows) > 5
        assert abs(np.median(columns) - column) < 2.5 and abs(np.median(rows) - row) < 2.5
        seen += 1
    assert seen >= 2


def make_shard(commands: list[float], episodes: list[int]) -> Shard:
    action = np.zeros((len(commands), 16, 7))
    action[:, 0, 6] = commands
    state = np.arange(len(commands) * 10, dtype=float).reshape(-1, 10)
    return Shard(Path(), {}, state, action, np.array(episodes), np.zeros(len(commands)), [], [])


def test_next_places_are_where_the_gripper_closes_and_opens_next_in_the_episode():
    shard = make_shard([1, 1, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1, 1, 1])
    places = next_places(shard)
    closes = [2, 2, None, None, None, 6, None, None]
    opens = [4, 4, 4, 4, None, None, None, None]
    for name, expected in (("close", closes), ("open", opens)):
        for row, event in enumerate(expected):
            place = places[row, EVENTS.index(name)]
            if event is None:
                assert np.isnan(place).all()
            else:
                assert (place == shard.state[event, :3]).all()


def test_pixels_are_of_calibrated_cameras_and_of_places_that_they_show(views):
    shard = make_shard([1, 1, 0, 1], [0, 0, 0, 0])
    shard.state[2, :3] = 0.5, -0.2, 0.02  # closes, left in the image
    shard.state[3, :3] = 1.5, 0.0, 2.0  # opens, behind the camera
    front = place_pixels(shard, [views["front"], None])
    close, reopen = EVENTS.index("close"), EVENTS.index("open")
    assert front.shape == (4, 2, 2, 2)
    assert 40 < front[0, 0, close, 1] < 56 and front[0, 0, close, 0] < 30
    assert np.isnan(front[0, 0, reopen]).all() and np.isnan(front[:, 1]).all()


def test_the_least_loss_puts_the_keypoint_on_the_place_between_cells():
    scores = torch.zeros(1, 1, 3, 144, requires_grad=True)
    pixels = torch.full((1, 1, 2, 2), torch.nan)
    pixels[0, 0, 0] = torch.tensor([30.0, 61.7])
    optimizer = torch.optim.Adam([scores], lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        grounding_loss(scores, pixels, 96).backward()
        optimizer.step()
    shares = scores[0, 0, 0].softmax(dim=0).view(12, 12)
    grid = (torch.arange(12.0) + 0.5) * 8 - 0.5
    assert (shares.sum(dim=0) @ grid).item() == pytest.approx(30.0, abs=0.3)
    assert (shares.sum(dim=1) @ grid).item() == pytest.approx(61.7, abs=0.3)
    assert (scores[0, 0, 1:] == 0).all(), "what has no label is not moved"


def test_places_at_the_border_count_and_without_any_the_loss_is_nought():
    scores = torch.zeros(2, 1, 2, 144, requires_grad=True)
    pixels = torch.full((2, 1, 2, 2), torch.nan)
    assert grounding_loss(scores, pixels, 96).item() == 0.0
    pixels[1, 0, 1] = torch.tensor([-0.5, 95.5])
    loss = grounding_loss(scores, pixels, 96)
    assert loss.item() == pytest.approx(np.log(144), rel=1e-5)
    loss.backward()
    assert scores.grad[1, 0, 1].argmin() == 11 * 12 and scores.grad[0].abs().sum() == 0
