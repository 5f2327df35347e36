"""Differential inverse kinematics of an arm, by mink over a MuJoCo model."""

from __future__ import annotations

import mink
import mujoco
import numpy as np

from vla.core.rotations import matrix_to_quaternion

# Largest share of the distance to the end of a joint's range that one step may cover.
RANGE_GAIN = 0.95


class _JointLimit(mink.Limit):
    """ConfigurationLimit and VelocityLimit together, in half as many rows.

    model: of hinge and slide joints only. velocities [nv]: top speeds, infinite for none.
    """

    def __init__(self, model: mujoco.MjModel, velocities: np.ndarray):
        limited = model.jnt_limited.astype(bool)
        self._lower = np.where(limited, model.jnt_range[:, 0], -np.inf)
        self._upper = np.where(limited, model.jnt_range[:, 1], np.inf)
        self._velocities = velocities
        # A joint without limits gets no rows.
        self._rows = np.isfinite(velocities) | limited
        rows = np.eye(model.nv)[self._rows]
        self._matrix = np.concatenate([rows, -rows])  # [2 rows, nv]

    def compute_qp_inequalities(
        self, configuration: mink.Configuration, dt: float
    ) -> mink.Constraint:
        """Bounds of each joint's change within `dt` [s]; one outside of its range may stay."""
        positions, fastest = configuration.data.qpos, dt * self._velocities
        up = np.clip(RANGE_GAIN * (self._upper - positions), 0.0, fastest)
        down = np.clip(RANGE_GAIN * (positions - self._lower), 0.0, fastest)
        return mink.Constraint(self._matrix, np.concatenate([up[self._rows], down[self._rows]]))


class DifferentialIK:
    """Turns tool targets into joint positions, one small step at a time.

    model_xml: MJCF of the arm alone. tool_site: site that the targets are for. max_joint_velocity
    [n] [rad/s] and the model's joint ranges are never exceeded. posture [n]: weakly attracts the
    redundant joint.
    """

    def __init__(
        self,
        model_xml: str,
        tool_site: str,
        max_joint_velocity: np.ndarray,
        posture: np.ndarray,
    ):
        self.model = mujoco.MjModel.from_xml_string(model_xml)
        self.arm_joints = len(max_joint_velocity)
        self.configuration = mink.Configuration(self.model)
        self._task = mink.FrameTask(
            tool_site, "site", position_cost=1.0, orientation_cost=0.3, gain=0.9, lm_damping=1e-3
        )
        self._posture = mink.PostureTask(self.model, cost=1e-3)
        self._posture.set_target(self._full(posture))
        velocities = np.full(self.model.nv, np.inf)
        velocities[: self.arm_joints] = max_joint_velocity
        self._limits = [_JointLimit(self.model, velocities)]
        self._tool_site = tool_site
        self._tool_id = self.model.site(tool_site).id
        self._jacobian = np.zeros((6, self.model.nv))

    def _full(self, joint_positions: np.ndarray) -> np.ndarray:
        full = np.zeros(self.model.nq)
        full[: self.arm_joints] = joint_positions
        return full

    def tool_pose(self, joint_positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Forward kinematics: position [3] in metres and quaternion [4] x y z w of the tool."""
        self.configuration.update(self._full(joint_positions))
        site = self.configuration.data.site(self._tool_site)
        return site.xpos.copy(), matrix_to_quaternion(site.xmat)

    def tool_velocity(
        self, joint_positions: np.ndarray, joint_velocities: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] and velocity [6] of the tool: metres, m/s and rad/s in the base frame."""
        model, data = self.model, self.configuration.data
        data.qpos[: self.arm_joints] = joint_positions
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_jacSite(model, data, self._jacobian[:3], self._jacobian[3:], self._tool_id)
        velocity = self._jacobian[:, : self.arm_joints] @ joint_velocities
        return data.site_xpos[self._tool_id].copy(), velocity

    def step(
        self,
        joint_positions: np.ndarray,
        position: np.ndarray,
        quaternion_xyzw: np.ndarray,
        duration: float,
    ) -> np.ndarray:
        """Joint positions [n] after moving for `duration` seconds from these towards a target.

        Raises mink.MinkError where no step within the limits exists.
        """
        self.configuration.update(self._full(joint_positions))
        wxyz = quaternion_xyzw[[3, 0, 1, 2]]
        self._task.set_target(
            mink.SE3.from_rotation_and_translation(mink.SO3(wxyz), np.asarray(position))
        )
        velocity = mink.solve_ik(
            self.configuration,
            [self._task, self._posture],
            duration,
            solver="daqp",
            damping=1e-4,
            limits=self._limits,
        )
        return joint_positions + velocity[: self.arm_joints] * duration
