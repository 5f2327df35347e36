"""Labels of where the gripper acts next: read from demonstrations, drawn into the image."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vla.data.frames import Shard
from vla.sim.simulator import TableTopSimulator
from vla.training.grounding import NO_CELL, CameraView, cells, grounding_loss, next_interactions


@pytest.fixture(scope="module")
def simulator():
    simulator = TableTopSimulator(96)
    yield simulator
    simulator.close()


@pytest.fixture(scope="module")
def view(simulator):
    return CameraView(*simulator.camera_pose("front"), simulator.camera_matrix("front"), 96)


def test_a_projected_object_lies_where_the_image_shows_its_colour(simulator, view):
    """Hiding the object changes the image around the projected place, and hardly elsewhere."""
    for seed in range(3):
        simulator.reset(seed, "pick")
        name = simulator.objects()[0]
        column, row = view.project(simulator.object_position(name)[None])[0]
        before = simulator.render("front").astype(int)
        address = simulator.model.joint(simulator.scene_objects[name].body).qposadr[0]
        qpos = simulator.qpos
        qpos[address : address + 3] = -2.5, 0.0, 0.5
        simulator.set_qpos(qpos)
        changed = np.abs(simulator.render("front").astype(int) - before).sum(axis=2) > 30
        rows, columns = np.nonzero(changed)
        assert len(rows) > 5
        assert abs(np.median(columns) - column) < 2.5 and abs(np.median(rows) - row) < 2.5


def make_shard(commands: list[float], episodes: list[int]) -> Shard:
    action = np.zeros((len(commands), 16, 7))
    action[:, 0, 6] = commands
    state = np.arange(len(commands) * 10, dtype=float).reshape(-1, 10)
    return Shard(Path(), {}, state, action, np.array(episodes), np.zeros(len(commands)), [], [])


def test_next_interaction_is_the_next_change_of_the_gripper_in_the_episode():
    shard = make_shard([1, 1, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1, 1, 1])
    rows = next_interactions(shard)
    for row, event in enumerate([2, 2, 4, 4, None, 6, None, None]):
        if event is None:
            assert np.isnan(rows[row]).all()
        else:
            assert (rows[row] == shard.state[event, :3]).all()


def test_cells_count_rows_from_the_top_and_leave_out_what_is_not_seen(view):
    centre = np.array([0.5, 0.0, 0.02])
    left = centre - np.array([0.0, 0.2, 0.0])
    behind = np.array([1.5, 0.0, 2.0])
    found = cells(np.array([centre, left, [np.nan] * 3, behind]), view, 12)
    assert found[0] // 12 in (5, 6) and found[0] % 12 in (5, 6)
    assert found[1] // 12 == found[0] // 12 and found[1] % 12 < found[0] % 12
    assert found[2] == NO_CELL and found[3] == NO_CELL


def test_the_loss_leaves_unlabelled_rows_out():
    scores = torch.zeros(2, 144, requires_grad=True)
    loss = grounding_loss(scores, torch.tensor([7, NO_CELL]))
    assert loss.item() == pytest.approx(np.log(144), rel=1e-5)
    loss.backward()
    assert scores.grad[0, 7] < 0 and scores.grad[1].abs().sum() == 0
    assert grounding_loss(scores, torch.tensor([NO_CELL, NO_CELL])).item() == 0.0
