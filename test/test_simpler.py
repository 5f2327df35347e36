"""SimplerEnv, faked by test/fake_benchmarks: episodes, grippers, instructions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_workers import fake_python
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vla.contract.embodiment import ContractError
from vla.contract.image_fit import prepare_image
from vla.envs.base import SuiteError
from vla.envs.simpler.episodes import DRAWER_PLACES, FAMILIES, visual_matching
from vla.envs.simpler.gripper import SlowToOpenGripper, StickyGripper
from vla.envs.simpler.suite import SimplerSuite
from vla.evaluation.benchmark import evaluate, summarize

COUNTS = {
    "coke_can": (75, 80),
    "move_near": (60, 80),
    "drawers": (54, 113),
    "apple_in_drawer": (27, 200),
    "spoon": (24, 60),
    "carrot": (24, 60),
    "stack": (24, 60),
    "eggplant": (24, 120),
}

# Episodes


@pytest.mark.parametrize(("family", "count", "steps"), [(f, *n) for f, n in COUNTS.items()])
def test_families_have_the_published_episodes(family, count, steps):
    episodes = visual_matching(family, {"": "recolor_tabletop_visual_matching_1"})
    assert len(episodes) == count and {episode["steps"] for episode in episodes} == {steps}
    assert len({str(episode) for episode in episodes}) == count, "each is another one"
    google = family in FAMILIES["google"]
    versions = {episode["build"].get("urdf_version") for episode in episodes}
    assert versions == ({"recolor_tabletop_visual_matching_1"} if google else {None})
    rates = {episode["build"]["control_freq"] for episode in episodes}
    assert rates == ({3} if google else {5})


def test_the_robot_stands_where_simplerenv_puts_it():
    first = visual_matching("drawers")[0]
    assert first["environment"] == "OpenTopDrawerCustomInScene-v0"
    assert first["robot"]["init_xy"] == [0.644, -0.179] and first["picture"] == "open_drawer_a0.png"
    for place, (_, _, yaw) in DRAWER_PLACES.items():
        (episode,) = (e for e in visual_matching("drawers")[:9] if place in e["picture"])
        w, x, y, z = episode["robot"]["init_rot_quat"]
        # SimplerEnv multiplies the yaw with a turn by half a circle about z.
        expected = Rotation.from_euler("z", yaw) * Rotation.from_quat([0.0, 0.0, 1.0, 0.0])
        np.testing.assert_allclose(
            Rotation.from_quat([x, y, z, w]).as_matrix(), expected.as_matrix(), atol=1e-12
        )
    cans = visual_matching("coke_can")
    assert cans[0]["object"]["init_xy"] == [-0.35, -0.02]
    assert cans[24]["object"]["init_xy"] == [-0.12, 0.42]
    assert cans[0]["build"]["lr_switch"] and cans[74]["build"]["laid_vertically"]


# Grippers


def test_a_change_of_the_gripper_is_held_and_another_in_between_is_lost():
    gripper = StickyGripper(3)
    wanted = [1, 1, 0, 0, 0, 0, 1, 0, 1, 1, 1, 0]
    #        first, same, closes for three, rests, opens for three: 0 and 1 within are lost, ...
    assert [gripper.command(w) for w in wanted] == [0, 0, 1, 1, 1, 0, -1, -1, -1, 0, 0, 1]
    gripper.reset()
    assert gripper.command(0.0) == 0.0, "the first step of an episode is no change"


@given(st.lists(st.floats(0, 1), max_size=60), st.integers(1, 20))
def test_the_sticky_gripper_equals_the_published_rule(wanted, steps):
    """As SimplerEnv states it: latched, repeated so many times, then released."""
    gripper = StickyGripper(steps)
    previous, latched, repeated, held = None, False, 0, 0.0
    for opening in wanted:
        current = 1.0 if opening > 0.5 else 0.0
        relative = 0.0 if previous is None else previous - current
        previous = current
        if abs(relative) > 0.5 and not latched:
            latched, held = True, relative
        if latched:
            repeated, relative = repeated + 1, held
        if repeated == steps:
            latched, repeated = False, 0
        assert gripper.command(opening) == relative


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 4))
def test_the_widowx_opens_only_after_so_many_in_a_row(wanted, steps):
    gripper = SlowToOpenGripper(steps)
    for number, opening in enumerate(wanted):
        recent = wanted[max(0, number - steps + 1) : number + 1]
        expected = 1.0 if len(recent) == steps and all(recent) else -1.0
        assert gripper.command(float(opening)) == expected


# Episodes in the fake environment


class Lifter:
    """Lifts by 1 cm a step and closes the gripper after `open_steps`, if it does anything."""

    said, refused, window = None, False, 1

    def __init__(self, contract, lift: float = 0.01, closes: bool = True, open_steps: int = 2):
        self.contract, self.lift, self.closes, self.open_steps = contract, lift, closes, open_steps
        self.resets: list[str] = []
        self.states: list[np.ndarray] = []
        self.steps = 0

    def reset(self, instruction, seed=None, think=False):
        self.resets.append(instruction)
        if len(self.resets) == 1:
            self.steps = 0

    def chunk(self, images, state, time):
        self.states.append(state)
        assert images["front"].shape == (224, 224, 3)
        self.steps += 1
        action = np.zeros(7)
        action[2] = self.lift
        action[6] = float(self.steps <= self.open_steps or not self.closes)
        return np.tile(action, (self.contract.horizon, 1))


@pytest.fixture
def suite(tmp_path):
    def make(fault: str = "", **settings) -> SimplerSuite:
        python = fake_python(tmp_path, "simpler", fault=fault)
        return SimplerSuite(python=str(python), **settings)

    return make


@pytest.mark.slow
def test_success_is_that_after_the_last_step(suite):
    benchmark = suite(sticky_steps=2)
    policy = Lifter(benchmark.contract)
    (done,) = evaluate(policy, benchmark, ["coke_can"], range(1))
    assert done.success and done.seconds == pytest.approx(80 / 3) and policy.steps == 80
    assert done.figures == {"grasped": True} and done.instruction.startswith("do GraspSingle")
    # Up for the first steps, down again at the end: it was done, and is not.
    policy = Lifter(benchmark.contract)
    policy.chunk = lambda *seen, usual=policy.chunk: (
        usual(*seen) * [1, 1, 1 if policy.steps <= 40 else -1, 1, 1, 1, 1]
    )
    (undone,) = evaluate(policy, benchmark, ["coke_can"], range(1))
    assert not undone.success and undone.failure == "not_placed"
    (idle,) = evaluate(Lifter(benchmark.contract, closes=False), benchmark, ["coke_can"], range(1))
    assert not idle.success and idle.failure == "missed_grasp"
    assert idle.figures == {"grasped": False}


@pytest.mark.slow
def test_the_instruction_switches_at_half_time(suite):
    benchmark = suite(steps_per_chunk=8)
    policy = Lifter(benchmark.contract, open_steps=1)
    (result,) = evaluate(policy, benchmark, ["apple_in_drawer"], range(26, 40))
    assert policy.resets == ["open top drawer", "place apple into top drawer"]
    assert result.seed == 26 and result.instruction == "place apple into top drawer"
    # Chunks of eight, the thirteenth cut after the 101st step, then thirteen for the other 99.
    assert policy.steps == 13 + 13


@pytest.mark.slow
def test_the_state_is_that_of_the_contract(suite):
    google = suite()
    policy = Lifter(google.contract)
    evaluate(policy, google, ["move_near"], range(1))
    # Position and quaternion x y z w of the tool in the base, and how far the gripper is closed.
    np.testing.assert_allclose(policy.states[0], [0, 0, 0, 0, 0, 0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(policy.states[5][[2, 7]], [0.05, 1.0], atol=1e-6)
    widowx = suite(robot="widowx")
    policy = Lifter(widowx.contract)
    (result,) = evaluate(policy, widowx, ["stack"], range(1))
    assert result.success and result.seconds == pytest.approx(12.0)
    # Measured from where the tool points down: a quarter of a turn about y away from the base's.
    expected = Rotation.from_matrix([[0, 0, -1], [0, 1, 0], [1, 0, 0]])
    turned = Rotation.from_euler("xyz", policy.states[0][3:6])
    np.testing.assert_allclose(turned.as_matrix(), expected.as_matrix(), atol=1e-6)
    assert policy.states[0][6:].tolist() == [0.0, 1.0], "padding, and open at first"
    # The gripper opens with the second prediction and closes with the third.
    assert [state[7] for state in policy.states[1:4]] == [0.0, 1.0, 0.0]


def test_turns_become_rotation_vectors(suite):
    benchmark = suite()
    environment = benchmark.make("coke_can")
    (episode,) = benchmark.episodes("coke_can", range(1))
    environment.reset(seed=0, options=episode.options)
    worker, sent = environment.unwrapped.worker, []
    call = worker.call
    worker.call = lambda name, fields, arrays: (
        sent.append(arrays["action"]),
        call(name, fields, arrays),
    )[1]
    turn = np.array([0.3, -0.2, 0.5])
    environment.step(np.array([[0.01, 0.0, 0.0, *turn, 1.0]]))
    expected = Rotation.from_euler("xyz", turn).as_rotvec()
    np.testing.assert_allclose(sent[0], [0.01, 0, 0, *expected, 0.0])
    environment.close()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill step", "kill reset", "raise step"])
def test_an_episode_is_repeated_when_the_process_dies(suite, fault):
    benchmark = suite(fault=fault, robot="widowx")
    results = evaluate(Lifter(benchmark.contract), benchmark, ["carrot"], range(2))
    assert [(result.success, result.error) for result in results] == [(True, "")] * 2


def test_actions_that_are_not_finite_fail_the_policy(suite):
    benchmark = suite(robot="widowx")
    policy = Lifter(benchmark.contract, lift=np.inf)
    results = evaluate(policy, benchmark, ["spoon"], range(2))
    assert [(r.failure, r.error, r.seconds) for r in results] == [("not_finite", "", 0.2)] * 2
    assert summarize(results)[0].failures == {"not_finite": 2}


def test_images_are_squashed_and_not_cropped():
    contract = SimplerSuite().contract
    image = np.zeros((480, 640, 3), np.uint8)
    image[:, :80] = 200
    seen = prepare_image(image, contract.cameras[0])
    assert seen.shape == (224, 224, 3) and (seen[:, :24] > 195).all() and (seen[:, 32:] < 5).all()


def test_settings_that_can_not_be_are_refused(suite):
    with pytest.raises(SuiteError, match="unknown robot 'panda'; known: google, widowx"):
        SimplerSuite(robot="panda")
    with pytest.raises(SuiteError, match="sticky_steps and open_after must be 1 or more"):
        SimplerSuite(sticky_steps=-1)
    benchmark = suite(robot="widowx")
    assert benchmark.families == FAMILIES["widowx"] and "families" not in benchmark.settings()
    with pytest.raises(SuiteError, match="unknown family 'coke_can'; known: spoon, carrot, stack"):
        benchmark.require_families(["coke_can"])
    with pytest.raises(SuiteError, match="spoon has the episodes 0 to 23; give lower seeds"):
        list(benchmark.episodes("spoon", range(24, 30)))
    assert len(list(benchmark.episodes("spoon", range(20, 30)))) == 4
    with pytest.raises(
        ContractError, match=r"differ .*rate: the benchmark's 5.0, the policy's 3.0"
    ):
        benchmark.for_contract(suite().contract)
    small = replace(benchmark.contract.cameras[0], width=64, height=64)
    assert benchmark.for_contract(replace(benchmark.contract, cameras=(small,))).robot == "widowx"
