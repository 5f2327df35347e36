"""RobotState, as far as a joint target needs it."""

import numpy as np


class RobotState:
    def __init__(self, robot_model):
        self.model, self.positions, self.dirty = robot_model, {}, True

    def set_to_default_values(self):
        self.positions = dict.fromkeys(self.model.joints, 0.0)

    def set_joint_group_positions(self, joint_model_group_name, position_values):
        if not isinstance(position_values, np.ndarray):
            raise TypeError("incompatible function arguments")
        self.model.get_joint_model_group(joint_model_group_name)
        self.positions |= dict(zip(self.model.joints, position_values.tolist(), strict=True))
        self.dirty = True

    def update(self, force=False):
        self.dirty = False
