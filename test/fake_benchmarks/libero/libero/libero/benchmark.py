"""Suites of ten tasks with fifty initial states, as LIBERO lists them."""

from types import SimpleNamespace

import numpy as np


class Suite:
    n_tasks = 10

    def __init__(self, name):
        self.name = name

    def get_task(self, number):
        return SimpleNamespace(
            name=f"{self.name}_task_{number}",
            language=f"do task {number} of {self.name}",
            problem_folder=self.name,
            bddl_file=f"task_{number}.bddl",
        )

    def get_task_init_states(self, number):
        return [np.array([number, state]) for state in range(50)]


NAMES = ("libero_spatial", "libero_object", "libero_goal", "libero_90", "libero_10")


def get_benchmark_dict():
    return {name: lambda name=name: Suite(name) for name in NAMES}
