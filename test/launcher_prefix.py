"""A made-up install prefix with small executables, for the tests of the launcher."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import yaml

from vla_nodes.launcher.expansion import Expansion, expand
from vla_nodes.launcher.process import ProcessDescription

PACKAGE = "demo_package"
SHOW = f'pkg="{PACKAGE}" exec="show"'

EXECUTABLES = {
    # Tells as one line of JSON what it was started with.
    "show": """
        import json, os, sys
        files = [b for a, b in zip(sys.argv, sys.argv[1:]) if a == "--params-file"]
        told = {"argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}
        told["files"] = [open(name).read() for name in files]
        print(json.dumps(told))
    """,
    # Runs until it is asked to end, as a node does.
    "node": """
        import signal, sys, threading
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        print("ready", flush=True)
        ended.wait()
        print("bye", flush=True)
    """,
    # Does not let itself be asked, and has a child of the same kind.
    "stubborn": """
        import os, signal
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        child = os.fork()
        if child:
            print("ready child", child, flush=True)
        while True:
            signal.pause()
    """,
    # Ends with the status in its first argument; a negative one is a signal to itself.
    "fail": """
        import os, sys
        status = int(sys.argv[1])
        print("failing", file=sys.stderr, flush=True)
        if status < 0:
            os.kill(os.getpid(), -status)
        sys.exit(status)
    """,
    # Leaves a child behind in its group.
    "deserter": """
        import os, signal, sys
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            os.write(writer, b"x")
            while True:
                signal.pause()
        os.read(reader, 1)
        print("ready child", child, flush=True)
    """,
    # Fails at its first start, then runs. The first argument is a file that remembers.
    "fail_once": """
        import os, signal, sys
        if not os.path.exists(sys.argv[1]):
            open(sys.argv[1], "w").close()
            sys.exit(7)
        signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
        print("running again", flush=True)
        while True:
            signal.pause()
    """,
    # Many lines on both streams, and a last one without its end.
    "talk": """
        import sys
        for number in range(2000):
            print("line", number)
            print("error line", number, file=sys.stderr)
        sys.stdout.write("last")
    """,
}


def make_prefix(folder: Path) -> dict[str, str]:
    """Create the prefix and return an environment in which its package is found."""
    marker = folder / "share/ament_index/resource_index/packages" / PACKAGE
    marker.parent.mkdir(parents=True)
    marker.touch()
    (folder / "share" / PACKAGE / "launch").mkdir(parents=True)
    library = folder / "lib" / PACKAGE
    library.mkdir(parents=True)
    for name, source in EXECUTABLES.items():
        lines = [line[8:] for line in source.splitlines()]
        path = library / name
        path.write_text(f"#!{sys.executable} -S\n" + "\n".join(lines))
        path.chmod(0o755)
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AMENT_") and name != "NO_COLOR"
    }
    environment["AMENT_PREFIX_PATH"] = str(folder)
    environment["ROS_LOG_DIR"] = str(folder / "logs")
    return environment


def install_vla_ros(prefix: Path, root: Path) -> None:
    """Add our package to a prefix, with executables that only tell what they were started with."""
    (prefix / "share/ament_index/resource_index/packages/vla_ros").touch()
    (prefix / "share/vla_ros").mkdir()
    for folder in ("launch", "config"):
        (prefix / "share/vla_ros" / folder).symlink_to(root / folder)
    library = prefix / "lib/vla_ros"
    library.mkdir()
    for script in (root / "scripts").iterdir():
        (library / script.name).symlink_to(prefix / "lib" / PACKAGE / "show")


def parameters_of(command: tuple[str, ...] | list[str]) -> dict[str, object]:
    """Merge the parameter files that a node's command line names, later ones winning."""
    values: dict[str, object] = {}
    for flag, path in pairwise(command):
        if flag == "--params-file":
            for node in yaml.safe_load(Path(path).read_text()).values():
                values.update(node["ros__parameters"])
    return values


def shown(lines: list[str]) -> list[dict]:
    """Return what the `show` processes of a launch told, in order."""
    return [json.loads(line[line.index("{") :]) for line in lines if '{"argv"' in line]


def alive(process: int) -> bool:
    """Say whether a process runs; one that only waits to be reaped does not."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def wait_until(condition: Callable[[], bool], timeout: float) -> bool:
    """Poll a condition until it holds; False when it does not within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def write(folder: Path, body: str, name: str = "main.launch.xml") -> Path:
    """Write a launch file; the first line of its body is line 2."""
    path = folder / name
    path.write_text(f"<launch>\n{body}\n</launch>\n")
    return path


def expander(folder: Path, environment: dict[str, str]) -> Callable[..., Expansion]:
    """Return a function that expands the body of a launch file, with launch arguments."""
    scratch = folder / "scratch"
    scratch.mkdir()

    def expand_body(body: str, **arguments: str) -> Expansion:
        return expand(write(folder, body), arguments, environment, scratch)

    return expand_body


def own_words(process: ProcessDescription) -> list[str]:
    """Return the arguments of a process, those of ROS left out."""
    command = list(process.command[1:])
    return command[: command.index("--ros-args")] if "--ros-args" in command else command


def words(expansion: Expansion) -> list[str]:
    """Return the arguments of the only process, those of ROS left out."""
    (process,) = expansion.processes
    return own_words(process)
