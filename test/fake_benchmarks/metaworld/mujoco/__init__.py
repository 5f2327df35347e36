"""What of MuJoCo draws MetaWorld's scenes; FAKE_MUJOCO is its version."""

import os
from types import SimpleNamespace

import faults
import numpy as np

__version__ = os.environ.get("FAKE_MUJOCO", "3.3.0")
mjtRndFlag = SimpleNamespace(mjRND_SHADOW=0, mjRND_REFLECTION=1)


class Renderer:
    """Red in the upper left quarter, before it is turned; grey with shadows."""

    def __init__(self, model, height, width):
        assert model.vis.global_.offwidth >= width and height == width
        assert (model.vis.quality.shadowsize == 0) == (os.environ.get("FAKE_SHADOWS") != "yes")
        self.scene = SimpleNamespace(flags=[1, 1])
        self.size, self.angle, self.data = height, model.camera("corner2").fovy[0], None

    def update_scene(self, data, camera):
        assert camera == 7
        self.data = data

    def render(self):
        faults.here("image")
        image = np.full((self.size, self.size, 3), 80 if any(self.scene.flags) else 0, np.uint8)
        image[: self.size // 2, : self.size // 2] = [200, 0, 0]
        image[-1, -1] = [0, round(self.angle), int(1e6 * self.data.goal[0]) % 250]
        return image

    def close(self):
        self.data = None
