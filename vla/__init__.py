"""The ROS-free library of vla_ros: models, data, training, control, evaluation, simulation."""

import ctypes
import os

__version__ = "0.2.0"


def _software_rendering() -> str:
    """MuJoCo's rendering backend that needs no display and no GPU; the faster one where present."""
    for library in ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so"):
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return "osmesa"
    return "egl"


# MuJoCo reads this once, when it is first imported, wherever that happens.
if "MUJOCO_GL" not in os.environ:
    os.environ["MUJOCO_GL"] = _software_rendering()
