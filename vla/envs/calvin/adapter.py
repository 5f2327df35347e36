"""CALVIN in its own Python environment: run by vla/envs/worker/served.py, on Python 3.8.

Everything that makes the benchmark is CALVIN's own: the scene, the 1000 chains, the first of the
annotations of each task, and when a task is done.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

CHAINS = 1000  # What get_sequences gives depends on how many are asked for.
Chains = Any  # Pairs of an initial state and five tasks
CAMERAS = ("static", "gripper")


class Calvin:
    """The table of scene D with the tasks of its chains."""

    CALLS = ("reset", "begin", "step")

    def __init__(self, data: str):
        """data: a CALVIN data set, whose validation split names the scene. Raises ImportError."""
        import calvin_agent
        import hydra
        from calvin_agent.evaluation import multistep_sequences
        from calvin_agent.evaluation.utils import get_env_state_for_initial_condition
        from calvin_env.envs.play_table_env import get_env
        from omegaconf import OmegaConf

        configured = Path(calvin_agent.__file__).absolute().parents[1] / "conf"
        tasks = configured / "callbacks/rollout/tasks/new_playtable_tasks.yaml"
        annotations = configured / "annotations/new_playtable_validation.yaml"
        self._oracle = hydra.utils.instantiate(OmegaConf.load(tasks))
        self._annotations = OmegaConf.load(annotations)
        self._chains = _chains(multistep_sequences)
        self._initial = get_env_state_for_initial_condition
        seen = {"rgb_obs": ["rgb_" + camera for camera in CAMERAS], "depth_obs": []}
        self._environment = get_env(Path(data) / "validation", obs_space=seen, show_gui=False)
        self._task, self._begun = "", None

    def reset(self, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
        """Lays out the scene of a chain; "chain" is its number. Gives tasks and instructions."""
        initial, tasks = self._chains[fields["chain"]]
        robot, scene = self._initial(initial)
        observation = self._environment.reset(robot_obs=robot, scene_obs=scene)
        instructions = [str(self._annotations[task][0]) for task in tasks]
        self.begin({"task": tasks[0]}, {})
        told = {"tasks": [str(task) for task in tasks], "instructions": instructions}
        return told, _arrays(observation)

    def begin(self, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
        """A "task" begins, from how the scene is now."""
        self._task, self._begun = fields["task"], self._environment.get_info()
        return {}, {}

    def step(self, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
        """Takes a relative "action" [7]. Gives whether the task is done."""
        action = arrays["action"].copy()
        observation, _, _, info = self._environment.step(action)
        done = self._oracle.get_task_info_for_set(self._begun, info, {self._task})
        return {"done": bool(done)}, _arrays(observation)


def _chains(sequences: Any) -> Chains:
    """CALVIN's chains. Drawing them takes it minutes each time, so they are kept in a file."""
    content = Path(sequences.__file__).read_bytes() + str(np.__version__).encode()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vla_ros"
    kept = cache / f"calvin_chains_{hashlib.sha256(content).hexdigest()[:16]}.json"
    try:
        return json.loads(kept.read_text())
    except (OSError, ValueError):
        pass
    chains = [
        [initial, [str(t) for t in tasks]] for initial, tasks in sequences.get_sequences(CHAINS)
    ]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Several evaluations may begin at once: whole files only.
        with tempfile.NamedTemporaryFile("w", dir=cache, delete=False) as file:
            json.dump(chains, file)
        os.replace(file.name, kept)
    except OSError as error:
        print(f"the chains can't be kept in {kept}: {error}")
    return chains


def _arrays(observation: dict[str, Any]) -> dict[str, np.ndarray]:
    images = {camera: observation["rgb_obs"]["rgb_" + camera] for camera in CAMERAS}
    return {**images, "state": np.asarray(observation["robot_obs"], np.float64)}


def open_benchmark(data: str) -> Calvin:
    """The benchmark. data: the folder of a CALVIN data set."""
    return Calvin(data)
