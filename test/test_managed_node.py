"""Settings, diagnostics and transitions of the node base, in process."""

import array
import asyncio

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import TransitionCallbackReturn as Transition
from rclpy.parameter import Parameter
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from vla_ros.msg import Instruction

from vla_nodes.core import diagnostics, qos
from vla_nodes.core.diagnostics import Diagnostics
from vla_nodes.core.instruction_watch import InstructionWatch
from vla_nodes.core.node import ManagedNode, Setting
from vla_nodes.models.model_node import ModelNode


class Example(ManagedNode):
    SETTINGS = (
        Setting("rate", 10.0, "Rate [Hz].", bounds=(1.0, 100.0)),
        Setting("mode", "slow", "Mode.", choices=("slow", "fast")),
        Setting("weights", [0.5, 0.5], "Weights.", bounds=(0.0, 100.0)),
        Setting("patience", 1.0, "Patience [s].", live=True),
    )

    def __init__(self, **options):
        self.calls = []
        self.fail_in = None
        super().__init__("example", **options)

    def _note(self, step):
        self.calls.append(step)
        if self.fail_in == step:
            raise ValueError(f"{step} went\nwrong")

    def configure(self):
        self.output = self.create_lifecycle_publisher(Bool, "light", qos.LATCHED)
        self.create_subscription(Bool, "switch", lambda _: None, qos.SENSOR)
        self._note("configure")

    def activate(self):
        self.create_steady_timer(10.0, lambda: None)
        self._note("activate")

    def deactivate(self):
        self._note("deactivate")

    def cleanup(self):
        self._note("cleanup")


@pytest.fixture(scope="module")
def context():
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=39)
    yield context
    rclpy.try_shutdown(context=context)


@pytest.fixture
def make(context):
    nodes = []

    def build(**overrides):
        parameters = [Parameter(name, value=value) for name, value in overrides.items()]
        nodes.append(Example(context=context, parameter_overrides=parameters))
        return nodes[-1]

    yield build
    for node in nodes:
        node.destroy_node()


def count_entities(node):
    groups = (node.timers, node.subscriptions, node.services, node.clients, node.publishers)
    return [len(list(group)) for group in groups]


def test_transitions_call_the_hooks_in_order_and_leave_nothing_behind(make):
    node = make()
    before = count_entities(node)
    for _ in range(3):
        node.trigger_configure()
        assert (node.state, node.is_active) == ("inactive", False)
        node.trigger_activate()
        assert (node.state, node.is_active) == ("active", True)
        node.trigger_deactivate()
        assert node.state == "inactive"
        node.trigger_cleanup()
        assert node.state == "unconfigured"
        assert count_entities(node) == before
    assert node.calls == ["configure", "activate", "deactivate", "cleanup"] * 3


def test_a_failed_configure_leaves_the_node_unconfigured_and_can_be_repeated(make):
    node = make()
    before = count_entities(node)
    node.fail_in = "configure"
    assert node.trigger_configure() == Transition.FAILURE
    assert node.state == "unconfigured"
    assert node.calls == ["configure", "cleanup"]
    assert count_entities(node) == before
    status = node.diagnostics.status()
    assert status.level == DiagnosticStatus.ERROR
    assert status.message == "configure failed: configure went wrong"
    node.fail_in = None
    assert node.trigger_configure() == Transition.SUCCESS
    assert node.diagnostics.status().level == DiagnosticStatus.OK


def test_a_failed_activate_leaves_the_node_inactive(make):
    node = make()
    node.trigger_configure()
    configured = count_entities(node)
    node.fail_in = "activate"
    assert node.trigger_activate() == Transition.FAILURE
    assert (node.state, node.is_active) == ("inactive", False)
    assert count_entities(node) == configured
    node.fail_in = None
    assert node.trigger_activate() == Transition.SUCCESS


def test_an_error_in_deactivate_still_deactivates(make):
    node = make()
    node.trigger_configure()
    node.trigger_activate()
    node.fail_in = "deactivate"
    assert node.trigger_deactivate() == Transition.SUCCESS
    assert node.state == "inactive"


def test_close_and_shutdown_work_from_every_state(make):
    for steps in ([], ["configure"], ["configure", "activate"]):
        for end in ("close", "trigger_shutdown"):
            node = make()
            for step in steps:
                getattr(node, f"trigger_{step}")()
            getattr(node, end)()
            assert node.state == ("unconfigured" if end == "close" else "finalized")
            assert ("cleanup" in node.calls) == bool(steps)
            assert ("deactivate" in node.calls) == ("activate" in steps)


def test_parameters_of_a_file_are_used(make):
    node = make(rate=20, mode="fast", weights=[1.0, 2.0])
    assert node.settings["rate"] == 20.0
    assert isinstance(node.settings["rate"], float)
    assert node.settings["mode"] == "fast"
    assert node.settings["weights"] == [1.0, 2.0]
    assert node.describe_parameter("rate").floating_point_range[0].to_value == 100.0
    assert node.describe_parameter("rate").description == "Rate [Hz]."


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("rate", 1000.0, 50.0),
        ("rate", "quick", 50.0),
        ("rate", float("nan"), 50.0),
        ("mode", "hasty", "fast"),
        ("mode", 3, "fast"),
        ("weights", [-1.0, 1.0], [1.0, 1.0]),
        ("weights", [float("nan"), 1.0], [1.0, 1.0]),
        ("rate", float("inf"), 50.0),
    ],
)
def test_a_bad_parameter_is_named_and_a_good_one_repairs(make, name, bad, good):
    node = make(**{name: bad})
    assert node.trigger_configure() == Transition.FAILURE
    assert f"parameter '{name}' cannot be {bad!r}: it must be" in node.diagnostics.status().message
    assert not node.set_parameters([Parameter(name, value=bad)])[0].successful
    assert node.set_parameters([Parameter(name, value=good)])[0].successful
    assert node.trigger_configure() == Transition.SUCCESS
    assert node.settings[name] == good


def test_only_live_parameters_change_while_configured(make):
    node = make()
    node.trigger_configure()
    result = node.set_parameters([Parameter("rate", value=20.0)])[0]
    assert not result.successful
    assert "read by configure" in result.reason
    assert node.set_parameters([Parameter("patience", value=2.0)])[0].successful
    node.trigger_cleanup()
    assert node.set_parameters([Parameter("rate", value=20.0)])[0].successful


def test_a_nodes_own_values_can_be_loaded_again(make):
    """As by `ros2 param load` with what `ros2 param dump` wrote; both services end here."""
    node = make()
    node.trigger_configure()
    names = node.list_parameters([], 0).names
    assert {"autostart", "use_sim_time", "start_type_description_service"} < set(names)
    own = [Parameter.from_parameter_msg(node.get_parameter(n).to_parameter_msg()) for n in names]
    assert isinstance(own[names.index("weights")].value, array.array)
    assert node.set_parameters_atomically(own).successful
    assert all(node.set_parameters_atomically([each]).successful for each in own)
    others = [Parameter("autostart", value=False), Parameter("weights", value=[0.5, 0.6])]
    for changed in (*others, Parameter("rate", value=10), Parameter("mode", value="slow ")):
        before = node.get_parameter(changed.name).value
        assert not node.set_parameters_atomically([*own, changed]).successful
        assert node.get_parameter(changed.name).value == before


class SteadyTime:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def values(status):
    return {entry.key: entry.value for entry in status.values}


def test_diagnostics_give_rate_latency_ages_and_counts(make):
    clock = SteadyTime()
    report = Diagnostics(make(), clock)
    for number in range(100):
        clock.now += 0.1
        report.output(0.001 * number)
        report.input_age("image", 0.02)
    report.drop("replaced", 3)
    found = values(report.status())
    # The window of five seconds holds the last fifty: latencies of 50 to 99 ms.
    assert float(found["rate_hz"]) == pytest.approx(10.0, rel=0.03)
    assert float(found["latency_p50_ms"]) == pytest.approx(74.5, abs=1)
    assert float(found["latency_p99_ms"]) == pytest.approx(98.5, abs=1)
    assert float(found["age_image_p50_ms"]) == pytest.approx(20.0)
    assert (found["drops"], found["drops_replaced"]) == ("3", "3")
    clock.now += 10
    found = values(report.status())
    assert float(found["rate_hz"]) == 0
    assert "latency_p50_ms" not in found


def test_reports_raise_the_level_for_a_while_and_are_counted(make):
    clock = SteadyTime()
    report = Diagnostics(make(), clock)
    report.report("slow", "it is slow", diagnostics.WARN)
    assert report.status().level == DiagnosticStatus.WARN
    report.report("bad_image", "it is bad")
    report.report("bad_image", "it is still bad")
    status = report.status()
    assert (status.level, status.message) == (DiagnosticStatus.ERROR, "it is still bad")
    assert values(status)["errors_bad_image"] == "2"
    clock.now += diagnostics.REPORT_SHOWN + 0.1
    status = report.status()
    assert (status.level, status.message) == (DiagnosticStatus.OK, "ok")
    assert values(status)["errors"] == "3"


def test_diagnostics_are_named_as_diagnostic_updater_does(make):
    node = make()
    status = node.diagnostics.status()
    assert (status.name, status.hardware_id) == ("example: state", "none")
    named = Diagnostics(node, task="motion", hardware_id=lambda: "fr3").status()
    assert (named.name, named.hardware_id) == ("example: motion", "fr3")


def test_a_cause_is_not_hidden_by_what_follows_from_it(make):
    clock = SteadyTime()
    report = Diagnostics(make(), clock)
    report.report("clock_jump", "the clock jumped")
    clock.now += 0.1
    report.report("silent", "no image comes")
    report.report("slow", "it is slow", diagnostics.WARN)
    assert report.status().message == "no image comes; the clock jumped"


def test_a_fault_stays_until_it_is_cleared(make):
    clock = SteadyTime()
    report = Diagnostics(make(), clock)
    report.fault("no checkpoint")
    clock.now += 100
    assert report.status().message == "no checkpoint"
    report.fault(None)
    assert report.status().level == DiagnosticStatus.OK


def test_a_repeated_report_is_logged_only_now_and_then(make):
    clock, node = SteadyTime(), make()
    logged = []

    class Logger:
        def error(self, text):
            logged.append(text)

    node.get_logger = Logger
    report = Diagnostics(node, clock)
    for _ in range(100):
        clock.now += 0.1
        report.report("bad_image", "it is bad")
    assert len(logged) == 2


class Hiding(Example):
    """Hides a method of the base, which rclpy alone would not mention."""

    _stop = None


def test_an_exception_within_a_transition_is_told(context, capfd):
    node = Hiding(context=context)
    try:
        node.trigger_configure()
        node.trigger_activate()
        node.trigger_deactivate()
        assert "on_deactivate failed: 'NoneType' object is not callable" in capfd.readouterr().err
    finally:
        node.destroy_node()


FORGED = "topic\x1b[31m\n[INFO] [safety]: all is well \u202e" + "A" * 3_000_000 + " mend it"


def test_no_text_ends_colours_or_fills_a_line_of_the_log(make, capfd):
    node = make()
    node.get_logger().info(FORGED)
    node.diagnostics.report("forged", FORGED)
    node.diagnostics.values["checkpoint"] = FORGED
    status = node.diagnostics.status()
    node.diagnostics.fault(FORGED)
    try:
        raise KeyError(FORGED) from ValueError(FORGED)
    except KeyError as error:
        node.report_failure(error)
    said = capfd.readouterr()
    lines = (said.out + said.err).splitlines()
    assert max(map(len, lines)) < 1200 and len(lines) < 20
    assert not [line for line in lines if line.startswith("[INFO] [safety]")]
    assert "\x1b[31m" not in said.out + said.err and "\u202e" not in said.out + said.err
    assert any("test_managed_node.py" in line for line in lines), "no traceback"
    for text in (status.message, values(status)["checkpoint"], node.diagnostics.status().message):
        assert len(text) <= 1000 and text.isprintable() and text.endswith("mend it")
    assert len(values(status)["checkpoint"]) <= 500


def test_log_lines_are_told_apart_by_where_they_come_from(make, capfd):
    """As rclpy does, so that each may have its own severity and its own pauses."""
    logger = make().get_logger()
    for _ in range(3):
        logger.info("now and then", throttle_duration_sec=60.0)
        logger.warning("each time")
        logger.info("once", once=True)
    said = "".join(capfd.readouterr())
    assert [said.count(text) for text in ("now and then", "each time", "once")] == [1, 3, 1]


@pytest.fixture
def model_node():
    rclpy.init(domain_id=39)
    node = ModelNode("model")
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


def test_a_model_node_follows_no_instruction_that_the_services_would_refuse(model_node):
    model_node._instructions = InstructionWatch(model_node)
    model_node._on_instruction(Instruction(instruction_id=5, instruction="pick it", mode="act"))
    refused = [("", "act"), ("pick\x1b[2K", "act"), ("A" * 3_000_000, "act"), ("pick", "m" * 9999)]
    for text, mode in refused:
        model_node._on_instruction(Instruction(instruction_id=6, instruction=text, mode=mode))
    assert model_node.instruction.instruction == "pick it"
    assert model_node.diagnostics.count("bad_instruction") == len(refused)
    said = model_node.diagnostics.status().message
    assert said.startswith("refused vla/instruction: mode 'mmm") and len(said) < 300
    model_node._on_instruction(Instruction())
    assert model_node.instruction.instruction_id == 0


def test_a_service_whose_callback_fails_answers_so(make):
    node = make()

    async def fail_later(request, response):
        raise OSError("the disk\nis full")

    def fail(request, response):
        raise KeyError

    for callback, says in (
        (fail_later, "it failed: the disk is full"),
        (fail, "it failed: KeyError"),
    ):
        service = node.create_service(Trigger, "press", callback)
        done = service.callback(Trigger.Request(), Trigger.Response())
        answer = asyncio.run(done) if callback is fail_later else done
        assert not answer.success and answer.message == says
        assert service.qos_profile.depth == qos.SERVICE.depth
        node.destroy_service(service)
