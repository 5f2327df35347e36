"""Tasks with the calls and the conventions of MetaWorld's."""

from types import SimpleNamespace

import faults
import numpy as np


class Camera:
    def __init__(self, id, fovy):
        self.id, self._fovy = id, np.array([fovy])

    @property
    def fovy(self):
        return self._fovy

    @fovy.setter
    def fovy(self, value):
        self._fovy[:] = value


class FakeTask:
    """Done while the hand is within 2 cm of the goal and the fingers are told to close.

    MetaWorld's world has x to the right and y forward.
    """

    def __init__(self):
        faults.here("open")
        camera = Camera(7, 60.0)
        quality = SimpleNamespace(shadowsize=4096, offsamples=4)
        vis = SimpleNamespace(global_=SimpleNamespace(offwidth=640, offheight=480), quality=quality)
        self.model = SimpleNamespace(camera=lambda name: camera, vis=vis)
        self._partially_observable, self._set_task_called = True, False
        self._freeze_rand_vec, self.seeded_rand_vec = True, False
        self.sawyer_observation_space = "of before"
        self.seed_used = None

    def seed(self, seed):
        self.seed_used = seed

    def reset(self):
        faults.here("reset")
        assert self.seeded_rand_vec and not self._freeze_rand_vec, "another scene at each reset"
        assert not self._partially_observable and "sawyer_observation_space" not in vars(self)
        self.data = SimpleNamespace(hand=np.array([0.0, 0.6, 0.2]))
        shift = np.random.default_rng(self.seed_used).uniform(-0.1, 0.1, 3)
        self.goal, self.opening, self.steps = self.data.hand + shift, 1.0, 0
        self.data.goal = self.goal
        return self._observation(), {}

    def step(self, action):
        faults.here("step")
        assert self._set_task_called and action.shape == (4,) and np.abs(action).max() <= 1.0
        self.data.hand = self.data.hand + 0.01 * action[:3]
        self.opening = float(np.clip(self.opening - 0.2 * action[3], 0, 1))
        self.steps += 1
        assert self.steps <= 500, "MetaWorld allows no more"
        near = np.linalg.norm(self.goal - self.data.hand) < 0.02
        return (
            self._observation(),
            0.0,
            False,
            self.steps == 500,
            {"success": float(near and action[3] > 0)},
        )

    def _observation(self):
        now = np.concatenate([self.data.hand, [self.opening], [0.1, 0.7, 0.02, 0.5], np.zeros(10)])
        return np.concatenate([now, now, self.goal])


NAMES = ("reach", "push", "drawer-open", "sweep-into", "stick-pull", "assembly")
ALL_V3_ENVIRONMENTS = {f"{name}-v3": FakeTask for name in NAMES}
