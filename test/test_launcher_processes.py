"""How the launcher runs processes: output, deaths, respawns, and bringing all of them down."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from background_launch import BackgroundLaunch, start_launch
from launcher_prefix import PACKAGE, alive, make_prefix, shown, wait_until, write

from vla_nodes.launcher.process import SIGKILL_TIMEOUT, SIGTERM_TIMEOUT

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def environment(tmp_path):
    return make_prefix(tmp_path / "prefix")


@pytest.fixture
def launch(tmp_path, environment):
    """Starts the body of a launch file; whatever is left at the end of the test is killed."""
    started: list[BackgroundLaunch] = []

    def start(body: str, *words: str) -> BackgroundLaunch:
        path = write(tmp_path, body)
        started.append(start_launch([str(path), *words], environment=environment))
        return started[-1]

    yield start
    for running in started:
        if running.running():
            running.process.kill()
            running.process.wait()


def node(executable: str, attributes: str = "") -> str:
    return f'<node pkg="{PACKAGE}" exec="{executable}" output="screen" {attributes}/>'


def finish(running: BackgroundLaunch, timeout: float = 20.0) -> int:
    status = running.process.wait(timeout)
    running.stop()
    return status


def number_after(line: str, word: str) -> int:
    return int(re.search(re.escape(word) + r"(\d+)", line).group(1))


def test_a_process_gets_its_arguments_environment_and_folder(tmp_path, launch):
    running = launch(
        f'<node pkg="{PACKAGE}" exec="show" args="$(var a)" output="screen" cwd="{tmp_path}">'
        '<env name="COLOUR" value="red"/></node>',
        "a:=some words",
    )
    assert finish(running) == 0
    (told,) = shown(running.lines)
    assert told["argv"] == ["some words", "--ros-args"]
    assert told["cwd"] == str(tmp_path) and told["env"]["COLOUR"] == "red"


def test_every_line_has_the_prefix_of_its_process(launch):
    running = launch(node("talk") + node("talk"))
    assert finish(running) == 0
    for label in ("talk-1", "talk-2"):
        lines = [line for line in running.lines if line.startswith(f"[{label}] ")]
        expected = [f"[{label}] line {number}" for number in range(2000)]
        assert [line for line in lines if " line" in line and "error" not in line] == expected
        assert sum("error line" in line for line in lines) == 2000
        assert f"[{label}] last" in lines
    assert not any("\x1b" in line for line in running.lines)


def test_output_goes_where_the_file_says(launch, environment):
    talk = f'<node pkg="{PACKAGE}" exec="talk" output="OUTPUT"/>'
    running = launch("".join(talk.replace("OUTPUT", name) for name in ("log", "own_log", "both")))
    assert finish(running) == 0
    (folder,) = Path(environment["ROS_LOG_DIR"]).iterdir()
    log = (folder / "launch.log").read_text()
    on_screen = "\n".join(running.lines)
    assert "[talk-1] line 7" in log and "[talk-1] line 7" not in on_screen
    assert "[talk-1] error line 7" in log and "[talk-1] error line 7" in on_screen
    assert "[talk-2] " not in log and "[talk-2] " not in on_screen
    assert "line 7\n" in (folder / "talk-2-stdout.log").read_text()
    assert "[talk-3] line 7" in log and "[talk-3] line 7" in on_screen


def test_a_terminal_gets_colours(tmp_path, environment):
    path = write(tmp_path, node("talk"))
    terminal, screen = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "vla_nodes.launcher", str(path)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=screen,
        stderr=screen,
        start_new_session=True,
    )
    os.close(screen)
    text = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            break
        if not data:
            break
        text += data
    os.close(terminal)
    assert process.wait(10) == 0
    assert b"\x1b[36m[talk-1]\x1b[0m line 7\r\n" in text


@pytest.mark.parametrize(
    "status, reported, expected",
    [("3", "exit code 3,", 3), ("-9", r"exit code -9 \(killed by SIGKILL\),", 137)],
)
def test_a_death_is_reported_and_gives_the_exit_status(launch, status, reported, expected):
    running = launch(node("show") + node("fail", f'args="{status}"') + node("show"))
    line = running.wait_for(r"\[ERROR\] \[fail-2\]: process has died \[pid \d+, " + reported, 20)
    assert f"lib/{PACKAGE}/fail {status}" in line
    assert finish(running) == expected
    assert "[fail-2] failing" in running.lines


def test_the_others_live_on_after_a_death(launch):
    running = launch(node("node") + node("fail", 'args="3"'))
    running.wait_for(r"fail-2\]: process has died", 20)
    running.wait_for(r"\[node-1\] ready", 20)
    assert running.running() and alive(running.node_process("node"))
    assert running.stop() == 3
    assert "[node-1] bye" in running.lines


def test_a_program_that_cannot_be_started_is_reported(launch):
    running = launch('<executable cmd="/missing/program" respawn="true"/>')
    assert finish(running) == 127
    assert any("[ERROR] [program-1]: could not be started" in line for line in running.lines)


def test_respawn(tmp_path, launch):
    memory = tmp_path / "memory"
    running = launch(node("fail_once", f'args="{memory}" respawn="true" respawn_delay="0.3"'))
    running.wait_for(r"\[fail_once-1\] running again", 20)
    first = running.wait_for("process has died", 1)
    running.wait_for(r"respawning in 0.3 s", 1)
    process = running.node_process("fail_once")
    assert "exit code 7" in first and number_after(first, "[pid ") != process
    assert alive(process)
    # A death that a respawn made good is no failure of the launch.
    assert running.stop() == 0


def test_a_killed_node_comes_back_and_the_others_stay(launch):
    running = launch(node("node", 'respawn="true"') + node("node"))
    running.wait_for(r"\[node-1\] ready", 20)
    running.wait_for(r"\[node-2\] ready", 20)
    killed = number_after(running.wait_for(r"\[node-1\]: process started", 1), "pid [")
    died_at = len(running.lines)
    os.kill(killed, signal.SIGKILL)
    running.wait_for(r"\[node-1\]: process has died .*SIGKILL", 20)
    running.wait_for(r"\[node-1\] ready", 20, start=died_at)
    assert not any(line.startswith("[ERROR] [node-2]") for line in running.lines)
    assert running.stop() == 0


def test_respawns_are_limited(launch):
    running = launch(node("fail", 'args="3" respawn="true" respawn_max_retries="2"'))
    assert finish(running) != 0
    assert sum("process has died" in line for line in running.lines) == 3


def test_a_stop_cancels_a_respawn_that_waits(launch):
    running = launch(node("fail", 'args="3" respawn="true" respawn_delay="600"'))
    running.wait_for("respawning in 600 s", 20)
    # Ends long before the 600 s, since each wait in here is shorter.
    assert running.stop() == 0
    assert sum("process has died" in line for line in running.lines) == 1


def test_on_exit_shutdown_brings_all_down(launch):
    running = launch(node("node") + node("fail", 'args="4" on_exit="shutdown"'))
    assert finish(running) == 4
    assert any("shutting down: process [fail-2] was required" in line for line in running.lines)
    assert not alive(running.node_process("node"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_brings_all_down_cleanly(launch, number):
    running = launch(node("node") + node("node", 'respawn="true"'))
    for label in ("node-1", "node-2"):
        running.wait_for(rf"\[{label}\] ready", 20)
    running.process.send_signal(number)
    assert finish(running, 5) == 0
    assert f"[INFO] [launch]: shutting down: received {number.name}" in running.lines
    assert sum("process has finished cleanly" in line for line in running.lines) == 2


def test_what_ignores_signals_is_killed(launch):
    running = launch(node("stubborn") + node("node"))
    line = running.wait_for(r"\[stubborn-1\] ready child", 20)
    running.wait_for(r"\[node-2\] ready", 20)
    processes = [running.node_process("stubborn"), number_after(line, "child ")]
    running.process.send_signal(signal.SIGINT)
    status = finish(running, 60)
    assert status == 128 + signal.SIGKILL
    assert SIGTERM_TIMEOUT + SIGKILL_TIMEOUT < 7  # What the documentation promises [s].
    assert [alive(process) for process in processes] == [False, False]
    reports = [line for line in running.lines if "process did not end" in line]
    assert [report.split()[-1] for report in reports] == ["SIGTERM", "SIGKILL"]


def test_an_impatient_user_is_heard(launch):
    waiting = 'sigterm_timeout="600" sigkill_timeout="600"'
    running = launch(node("stubborn", waiting))
    running.wait_for("ready child", 20)
    for expected in ("shutting down", "sending SIGTERM", "sending SIGKILL"):
        running.process.send_signal(signal.SIGINT)
        running.wait_for(expected, 5)
    assert finish(running) == 137


def test_children_of_a_node_end_with_it(launch):
    running = launch(node("deserter") + node("node"))
    child = number_after(running.wait_for("ready child", 20), "child ")
    running.wait_for(r"\[deserter-1\]: process has finished cleanly", 20)
    assert wait_until(lambda: not alive(child), 5)
    assert running.stop() == 0


def test_no_orphan_is_left_when_the_launcher_is_killed(launch):
    running = launch(node("stubborn") + node("node"))
    child = number_after(running.wait_for("ready child", 20), "child ")
    running.wait_for(r"\[node-2\] ready", 20)
    processes = [running.node_process("stubborn"), running.node_process("node"), child]
    assert all(alive(process) for process in processes)
    running.process.kill()
    assert wait_until(lambda: not any(alive(process) for process in processes), 20)


def test_all_ends_when_nobody_reads_the_output_any_more(tmp_path, environment):
    path = write(tmp_path, node("node"))
    process = subprocess.Popen(
        [sys.executable, "-m", "vla_nodes.launcher", str(path)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    started = ""
    while "process started" not in started:
        started = process.stdout.readline()
    child = int(started.split("pid [")[1].split("]")[0])
    process.stdout.close()
    process.wait(10)
    assert not alive(child)


def test_the_background_launch_tells_what_it_waited_for(launch):
    with launch(node("node")) as running:
        running.wait_for("ready", 20)
        with pytest.raises(TimeoutError, match=r"no line matches 'never'(.|\n)*ready"):
            running.wait_for("never", 0.1)
    assert running.process.returncode == 0 and not running.running()


def test_a_log_file_follows_the_output(tmp_path, environment):
    path = write(tmp_path, node("show"))
    log = tmp_path / "output.log"
    running = start_launch([str(path)], environment=environment, log=log)
    assert finish(running) == 0
    assert log.read_text().splitlines() == running.lines


def test_a_wrong_file_starts_nothing(launch):
    running = launch(node("show") + '\n<include file="/missing.launch.xml"/>')
    assert finish(running) == 1
    (line,) = running.lines
    assert "main.launch.xml:3: <include>: there is no launch file" in line
