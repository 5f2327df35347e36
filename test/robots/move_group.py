"""A fake check_state_validity of move_group, for a Panda with a wall at `wall_x`.

Joints that are not named stay where MoveIt has them, an unknown group is valid nowhere. Faults:
silent (no answer), forbid (nothing is valid, without a contact, as by constraints).
"""

from __future__ import annotations

import time

import numpy as np
from moveit_msgs.msg import ContactInformation
from moveit_msgs.srv import GetStateValidity
from plain_node import FakeNode, run

from vla.control.kinematics import DifferentialIK
from vla.control.robots import panda


class MoveGroup(FakeNode):
    def __init__(self):
        super().__init__("move_group", wall_x=10.0, silent=False, forbid=False)
        self.arm = DifferentialIK(
            panda.arm_model_xml(), panda.TOOL_SITE, panda.JOINT_MAX_VELOCITY, panda.HOME
        )
        self.create_service(GetStateValidity, "check_state_validity", self.check)

    def check(self, request, response):
        if self.fault("silent"):
            time.sleep(0.5)
        state = request.robot_state.joint_state
        by_name = dict(zip(state.name, state.position, strict=True))
        place, _ = self.arm.tool_pose(np.array([by_name[name] for name in panda.ARM_JOINTS]))
        free = bool(place[0] < self.fault("wall_x"))
        known = request.group_name == "panda_arm" and request.robot_state.is_diff
        response.valid = free and known and not self.fault("forbid")
        if not free:
            response.contacts = [
                ContactInformation(contact_body_1="panda_hand", contact_body_2="wall")
            ]
        return response


if __name__ == "__main__":
    run(MoveGroup)
