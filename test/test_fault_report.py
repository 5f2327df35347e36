"""The judge of commanded motion: what it takes for a passed limit, and what not."""

import numpy as np
import pytest
from fault_report import Motion, excess_of

from vla.contract.embodiment import load_contract
from vla.control.arm import ArmController, ArmControllerConfig
from vla.control.robot_model import arm_limits, panda_model
from vla.control.robots import panda
from vla.core.resources import contract_path

PERIOD = 0.01
CONTRACT = load_contract(contract_path("sim_panda"))
JOINTS = arm_limits(CONTRACT, panda_model())


@pytest.fixture(scope="module")
def arm():
    return ArmController(ArmControllerConfig(control_rate=1 / PERIOD), CONTRACT)


def motions_with_late_cycles(arm, count):
    """Motions and stops as the safety stage makes them when cycles come up to 40 ms late."""
    rng, stage = np.random.default_rng(0), arm.safety
    for _ in range(count):
        stage.forget()
        stage.anchor(panda.HOME)
        commanded, times = [], []
        for moves in (True, False, True, False):
            target = stage.motion.positions + rng.uniform(-0.4, 0.4, 7)
            for _ in range(30):
                late = 0 if rng.random() < 0.7 else rng.integers(1, 5)
                duration = PERIOD * (1 + late)
                wanted, _ = arm._tracker.step(stage.motion, target, duration)
                stage.advance(wanted if moves else None, duration)
                commanded.append(stage.motion)
                times.append(duration)
        yield Motion(
            np.cumsum(times),
            np.array([motion.positions for motion in commanded]),
            np.array([motion.velocities for motion in commanded]),
            PERIOD,
            np.arange(len(commanded)),
        )


def passed(arm, motion):
    over = excess_of(motion, JOINTS, arm.config.safety, arm.kinematics)
    return {name for name, value in over.items() if value > 0.0}


@pytest.mark.slow
def test_late_cycles_are_no_excess(arm):
    assert [passed(arm, motion) for motion in motions_with_late_cycles(arm, 30)] == [set()] * 30


def test_a_jolt_at_the_end_of_a_stop_is_found(arm):
    motion = next(motions_with_late_cycles(arm, 1))
    positions, velocities = motion.positions.copy(), motion.velocities.copy()
    at, speed = np.flatnonzero(~velocities.any(axis=1))[2], 0.05
    velocities[at, 3] = speed
    positions[at:, 3] += speed * PERIOD / 2
    positions[at + 1 :, 3] += speed * PERIOD / 2
    jolted = Motion(motion.times, positions, velocities, PERIOD, motion.numbers)
    assert "joint_jerk" in passed(arm, jolted)
