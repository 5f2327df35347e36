"""An environment with LIBERO's calls: done when the tool is 10 cm higher and the gripper closed."""

import faults
import numpy as np


class OffScreenRenderEnv:
    def __init__(self, bddl_file_name, camera_heights, camera_widths):
        faults.here("open")
        assert bddl_file_name.startswith("/files/libero_") and camera_heights == camera_widths
        self.size, self.seeded = camera_heights, None

    def seed(self, seed):
        self.seeded = seed

    def reset(self):
        # As published with images of the policy's size, or of 256 pixels.
        assert self.seeded == (0 if self.size == 256 else 42)
        self.state = None
        return {}

    def set_init_state(self, state):
        faults.here("reset")
        self.state, self.waited = state, 0
        self.place, self.fingers, self.turned = np.array([0.0, 0.01 * state[1], 1.0]), 0.04, 0.0
        return self._observation()

    def step(self, action):
        faults.here("step")
        assert self.state is not None and len(action) == 7 and np.abs(action).max() <= 1.0
        if self.waited < 10:
            opening = -1.0 if self.size == 256 else 0.0
            assert list(action) == [0.0] * 6 + [opening], "ten steps without a motion come first"
            self.waited += 1
        elif action[6] not in (-1.0, 1.0):
            raise ValueError("the gripper is told to open or to close")
        self.place = self.place + 0.05 * np.asarray(action[:3])
        self.turned += 0.5 * action[5]
        self.fingers = float(np.clip(self.fingers - 0.01 * action[6], 0, 0.04))
        done = self.place[2] > 1.0999 and self.fingers < 0.001
        return self._observation(), float(done), done, {}

    def _observation(self):
        front = np.zeros((self.size, self.size, 3), np.uint8)
        front[: self.size // 2, : self.size // 2] = 200
        half = self.turned / 2
        # The tool downwards: half a turn about x, then one about z.
        quaternion = np.array([np.cos(half), np.sin(half), 0.0, 0.0])
        return {
            "agentview_image": front,
            "robot0_eye_in_hand_image": front[:, ::-1],
            "robot0_eef_pos": self.place,
            "robot0_eef_quat": quaternion,
            "robot0_gripper_qpos": np.array([self.fingers, -self.fingers]),
        }

    def close(self):
        pass
