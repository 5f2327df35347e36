"""Drives the simulated robot through its services, as an operator at a terminal would."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from vla_ros.msg import PolicyStatus, Response
from vla_ros.srv import Ask, CheckTask, ResetScene, SetInstruction, StartEpisode, StopEpisode

from vla_nodes.client.graph import RobotClient, UnreachableError
from vla_nodes.core import qos

NODES = ("sim", "perception", "reasoning", "action_expert", "controller", "recorder")
POLL_PERIOD = 0.2


@dataclass
class Trial:
    """One instruction of the demonstration and what came of it. Times in simulated seconds."""

    seed: int
    family: str
    instruction: str = ""
    mode: str = "act"
    question: str = ""
    question_answer: str = ""
    answer: str = ""
    task: str = ""
    objects: list[str] = field(default_factory=list)
    success: bool = False
    wrong_object: bool = False
    seconds: float = 0.0
    message: str = ""
    bag: str = ""


class DemoClient(RobotClient):
    """Runs trials in the simulator and has them recorded.

    Like its base class it is used from one thread; messages are taken while a call waits.
    """

    def __init__(self, wait: float = 20.0, namespace: str = ""):
        """wait: longest time for a service to be found [s]. namespace: of the graph's nodes."""
        super().__init__(namespace, wait)
        self._responses: dict[int, str] = {}
        self._status = PolicyStatus()

        def take_response(message: Response) -> None:
            self._responses[message.instruction_id] = message.text

        def take_status(message: PolicyStatus) -> None:
            self._status = message

        self.node.create_subscription(Response, "vla/response", take_response, qos.RESPONSE)
        self.node.create_subscription(PolicyStatus, "vla/status", take_status, qos.LATCHED)

    def wait_until_active(
        self,
        timeout: float,
        keep_waiting: Callable[[], None],
        progress: Callable[[], object] = lambda: None,
    ) -> None:
        """Wait until every node is active.

        keep_waiting: called again and again; may raise to end the wait. progress: whatever changes
        while the nodes get on. Raises UnreachableError that names the nodes which are not active
        `timeout` seconds after that changed last.
        """
        deadline, reached = time.monotonic() + timeout, progress()
        missing = list(NODES)
        while missing:
            keep_waiting()
            if (now_at := progress()) != reached:
                deadline, reached = time.monotonic() + timeout, now_at
            if time.monotonic() > deadline:
                raise UnreachableError(f"not active after {timeout:.0f} s: {', '.join(missing)}")
            service = f"{missing[0]}/get_state"
            if not self._spin_until(self._client(GetState, service).service_is_ready, 0.5):
                continue
            try:
                state = self.call(GetState, service, GetState.Request(), 2.0)
            except UnreachableError:
                # Loading a model can keep a node from answering; the deadline above decides.
                continue
            if state.current_state.id == State.PRIMARY_STATE_ACTIVE:
                missing.pop(0)
            else:
                self.spin(POLL_PERIOD)

    def configure_recorder(self, directory: str) -> None:
        """Have the recorder write to `directory` and keep the observations, which delays need."""
        values = {"directory": directory, "record_observation": True}
        request = SetParameters.Request(
            parameters=[Parameter(name, value=v).to_parameter_msg() for name, v in values.items()]
        )
        for result in self.call(SetParameters, "recorder/set_parameters", request).results:
            if not result.successful:
                raise UnreachableError(f"the recorder refused a parameter: {result.reason}")

    def run_trial(self, trial: Trial, time_limit: float, tell: Callable[[str], None]) -> None:
        """Carry out one instruction and fill in what came of it.

        time_limit: longest simulated time to wait for success [s]. tell: gets a line of text
        whenever something is worth showing. Raises UnreachableError when the graph refuses.
        """
        scene = self.accepted(
            ResetScene, "sim/reset_scene", ResetScene.Request(seed=trial.seed, family=trial.family)
        )
        trial.task, trial.objects = scene.task, list(scene.objects)
        trial.instruction = trial.instruction or scene.instruction
        if trial.question:
            tell(f"question:     {trial.question}")
            reply = self.accepted(Ask, "vla/ask", Ask.Request(question=trial.question))
            trial.question_answer = reply.answer
            tell(f"answer:       {reply.answer}")
        tell(f"instruction:  {trial.instruction}" + (" (think)" if trial.mode == "think" else ""))
        episode = self.start_episode(f"{trial.family}, seed {trial.seed}")
        trial.bag = episode.uri
        try:
            self._follow_trial(trial, time_limit, tell)
        finally:
            outcome = "success" if trial.success else "failure"
            self.stop()
            self.accepted(StopEpisode, "vla/stop_episode", StopEpisode.Request(outcome=outcome))

    def _follow_trial(self, trial: Trial, time_limit: float, tell: Callable[[str], None]) -> None:
        started = self.check(trial.task).elapsed
        accepted = self.accepted(
            SetInstruction,
            "vla/set_instruction",
            SetInstruction.Request(instruction=trial.instruction, mode=trial.mode),
        )
        # A dead simulator stops simulated time, so the wall clock limits the wait as well.
        deadline = time.monotonic() + 3.0 * time_limit + 10.0
        while True:
            check = self.check(trial.task)
            answer = self._responses.get(accepted.instruction_id, "")
            if answer and answer != trial.answer:
                trial.answer = answer
                tell(f"answer:       {answer}")
            trial.success, trial.wrong_object = check.success, check.wrong_object
            trial.seconds = round(check.elapsed - started, 2)
            if check.success:
                trial.message = ""
                return
            trial.message = self._status.message
            refused = answer and self._status.hold_reason == PolicyStatus.HOLD_REFUSED
            if refused or trial.seconds > time_limit or time.monotonic() > deadline:
                return
            self.spin(POLL_PERIOD)

    def check(self, task: str) -> CheckTask.Response:
        """Whether a task is done now. Raises UnreachableError when the simulator refuses it."""
        check = self.call(CheckTask, "sim/check_task", CheckTask.Request(task=task))
        if not check.valid:
            raise UnreachableError(f"sim/check_task refused {task!r}: {check.message}")
        return check

    def start_episode(self, note: str, instruction: str = "") -> StartEpisode.Response:
        """Has an episode recorded. Raises UnreachableError when it is refused for 10 s.

        instruction: what is demonstrated; empty where a policy follows the one in force.
        """
        request = StartEpisode.Request(note=note, instruction=instruction)
        # The scene has just changed: give the cameras a moment before the recorder judges them.
        deadline = time.monotonic() + 10.0
        while True:
            episode = self.call(StartEpisode, "vla/start_episode", request)
            if episode.success:
                return episode
            if time.monotonic() > deadline:
                raise UnreachableError(f"vla/start_episode was refused: {episode.message}")
            self.spin(POLL_PERIOD)

    def accepted(self, service_type, name: str, request):
        """The answer of a service. Raises UnreachableError when there is none, or a refusal."""
        response = self.call(service_type, name, request, timeout=60.0)
        if not response.success:
            raise UnreachableError(f"{name} was refused: {response.message}")
        return response
