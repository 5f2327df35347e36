"""The table top as a gymnasium environment: action chunks in, observations out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.core import RenderFrame

from vla.contract.embodiment import EmbodimentContract, state_vector
from vla.contract.image_fit import prepare_image
from vla.control.arm import ArmController, ArmControllerConfig
from vla.control.chunk import ActionChunk
from vla.envs.base import action_space, observation_space
from vla.envs.execution import Execution
from vla.envs.tabletop.failures import Attempt
from vla.envs.tabletop.simulator import TableTopSimulator
from vla.envs.tabletop.tasks import FAMILIES, FIRST_TRAINING_SEED, Task

# A task is done when it has been done for so many time steps, half a second.
STEADY_STEPS = 5
VIDEO_SIZE = 480


class TableTopEnv(gymnasium.Env):
    """A Panda at a table that follows action chunks in time, as the robot's controller does.

    `reset` takes the options "family", one of SCENE_FAMILIES ("pick"), "instruction", other words
    for the task, and "split", "unseen" for another look. `info` also holds "answer", what the robot
    should say that it will do, and "wrong_object", whether another object than the task's was
    lifted; "failure" is one of vla.envs.tabletop.failures. The reward is 1 for success.
    `simulator`, `controller` and `task` are the truth, for the scripted expert.
    """

    # See vla.envs.base.
    on_observation: Callable[[dict[str, Any], float], None] | None = None
    is_due: Callable[[float], bool] | None = None

    def __init__(
        self,
        contract: EmbodimentContract,
        steps_per_chunk: int = 3,
        delay_steps: int = 0,
        time_limit: float = 20.0,
        control: ArmControllerConfig | None = None,
        render_mode: str | None = None,
        simulator: TableTopSimulator | None = None,
    ):
        """Makes an environment.

        contract: of the observations and actions; without cameras nothing is rendered.
        steps_per_chunk: time steps that one `step` takes. delay_steps: time steps between an
        observation and the arrival of its chunk, as on a robot whose model needs that long.
        time_limit: of a task, in simulated time [s]. render_mode: see Suite.make, or
        "rgb_array" for the present frame. simulator: of scenes of its own kind, with camera images
        as large as the contract's.
        """
        self.metadata = {
            "render_modes": ["rgb_array", "rgb_array_list"],
            "render_fps": contract.rate,
        }
        self.render_mode = render_mode
        self.contract = contract
        self._control = control or ArmControllerConfig()
        self._usual_steps, self.delay_steps = steps_per_chunk, delay_steps
        self.execution = None
        self.simulator = simulator or TableTopSimulator(image_size(contract))
        # What the controller follows without cutting it: a move, a turn and the gripper.
        limits = self.controller.config.safety
        move, turn = (
            contract.time_step * speed
            for speed in (limits.max_linear_speed, limits.max_angular_speed)
        )
        self.action_space = action_space(
            contract, [*[-move] * 3, *[-turn] * 3, 0.0], [*[move] * 3, *[turn] * 3, 1.0]
        )
        self.observation_space = observation_space(contract)
        self.task = self.simulator.task
        self._time_limit = time_limit
        self._frames: list[np.ndarray] = []
        self.begin(self.task)

    @property
    def execution(self) -> Execution | None:
        """How chunks are followed; None: as `steps_per_chunk` and `control` say.

        Raises SuiteError when set to what the length of chunks and the delay do not allow.
        """
        return self._execution

    @execution.setter
    def execution(self, execution: Execution | None) -> None:
        self._execution, self._steps_per_chunk = execution, self._usual_steps
        control, contract = self._control, self.contract
        if execution is not None:
            self._steps_per_chunk = execution.steps_of(contract.horizon, self.delay_steps)
            follow = execution.of(control.execution, contract.horizon, contract.time_step)
            control = replace(control, execution=follow)
        self.controller = ArmController(control, contract)

    def begin(self, task: Task) -> None:
        """A task begins in the present scene: chunks that were made before count no longer."""
        self.task, self._began = task, self.simulator.time
        self._step, self._done_steps = 0, 0
        self._pending: list[tuple[int, ActionChunk]] = []
        self.controller.hold()
        self.simulator.begin()
        self._attempt = Attempt.begin(self.simulator, task)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Lays out the scene of a seed and family. Raises ValueError for an unknown family."""
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(FIRST_TRAINING_SEED))
        options = options or {}
        family, split = options.get("family", FAMILIES[0]), options.get("split", "seen")
        task = self.simulator.reset(seed, family, split=split)
        self.controller.reset(self.simulator.commanded_width)
        self._frames.clear()
        self.begin(replace(task, instruction=options.get("instruction", task.instruction)))
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Follows chunks for some time steps, the given one [H, A] from when it has arrived.

        Raises ValueError for an action that is no chunk of the contract.
        """
        simulator = self.simulator
        chunk = ActionChunk(
            simulator.time, self.contract.time_step, action, *simulator.end_effector_pose()
        )
        self._pending.append((self._step + self.delay_steps, chunk))
        for number in range(self._steps_per_chunk):
            if self._is_late or self._is_done or self._is_lost:
                break
            if number:
                self._show()
            while self._pending and self._pending[0][0] <= self._step:
                self.controller.accept(self._pending.pop(0)[1], simulator.time)
            self.advance()
            self._step += 1
            self._attempt.note(simulator)
            self._done_steps = self._done_steps + 1 if simulator.check(self.task).success else 0
        terminated = self._is_done or self._is_lost
        truncated = not terminated and self._is_late
        return self._observation(), float(self._is_done), terminated, truncated, self._info()

    def advance(self) -> None:
        """One time step in which the arm follows the chunks that it has."""
        run_step(self.simulator, self.controller)
        if self.render_mode == "rgb_array_list":
            self._frames.append(self.simulator.qpos)

    def _show(self) -> None:
        """Shows what is seen between two chunks to a policy that would read it."""
        seconds = self.simulator.time
        if self.on_observation is not None and (self.is_due is None or self.is_due(seconds)):
            self.on_observation(self._observation(), seconds)

    @property
    def _is_late(self) -> bool:
        return self.simulator.time >= self._began + self._time_limit

    @property
    def _is_lost(self) -> bool:
        return self.simulator.check(self.task).is_lost

    @property
    def _is_done(self) -> bool:
        return self._done_steps >= STEADY_STEPS

    def _observation(self) -> dict[str, Any]:
        images, state = observation_of(self.simulator, self.contract)
        return {"images": images, "state": state}

    def _info(self) -> dict[str, Any]:
        return {
            "instruction": self.task.instruction,
            "answer": self.task.answer(),
            "seconds": self.simulator.time,
            "success": self._is_done,
            "wrong_object": self.simulator.check(self.task).wrong_object,
            "failure": "" if self._is_done else self._attempt.failure(self.simulator),
        }

    def render(self) -> RenderFrame | list[RenderFrame] | None:
        """The overview, uint8 [480, 480, 3], or all those since the last call; see render_mode."""
        if self.render_mode == "rgb_array":
            return self.simulator.render("overview", VIDEO_SIZE, detailed=True)
        if self.render_mode is None:
            return None
        # Drawn only now, since it takes longer than the physics and few episodes are watched.
        drawn = mujoco.MjData(self.simulator.model)
        frames: list[RenderFrame] = []
        for qpos in self._frames:
            drawn.qpos[:] = qpos
            mujoco.mj_forward(self.simulator.model, drawn)
            frames.append(self.simulator.render("overview", VIDEO_SIZE, detailed=True, data=drawn))
        self._frames.clear()
        return frames

    def close(self) -> None:
        """Frees the rendering contexts."""
        self.simulator.close()


def image_size(contract: EmbodimentContract) -> int:
    """Side of the images that the simulator renders for a contract [px]."""
    return contract.cameras[0].width if contract.cameras else 16


def run_step(simulator: TableTopSimulator, controller: ArmController) -> None:
    """Lets the controller drive the arm for one time step of its contract.

    Raises ValueError when a time step is no whole number of the controller's cycles.
    """
    period = 1.0 / controller.config.control_rate
    cycles = controller.contract.time_step * controller.config.control_rate
    ticks = round(cycles)
    if abs(cycles - ticks) > 1e-6:
        raise ValueError(
            f"control_rate {controller.config.control_rate:g} Hz gives {cycles:g} cycles per "
            "policy step; choose one that gives a whole number"
        )
    for _ in range(ticks):
        command = controller.step(simulator.time, simulator.joint_positions)
        simulator.command(command.joint_positions, command.gripper_width)
        simulator.step(period)


def observation_of(
    simulator: TableTopSimulator, contract: EmbodimentContract
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Images (uint8 [h, w, 3] by camera name) and the state vector, as perception gives them."""
    images = {
        camera.name: prepare_image(simulator.render(camera.name), camera)
        for camera in contract.cameras
    }
    state = state_vector(
        *simulator.end_effector_pose(),
        simulator.gripper_width,
        contract.state_names,
        contract.gripper_open_width,
    )
    return images, state
