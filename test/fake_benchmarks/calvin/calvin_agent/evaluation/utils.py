"""The beginning of a chain."""

import numpy as np


def get_env_state_for_initial_condition(initial_condition):
    """`robot_obs` [15] and `scene_obs` [24]."""
    return np.r_[np.zeros(14), 1.0], np.full(24, float(initial_condition["led"]))
