"""Sets vla_ros up: system packages, Python environment, torch, ROS 2, our interfaces.

Started by tools/setup.sh (`make setup`). Each step leaves a stamp with a hash of its inputs in
.venv/setup, so an interrupted set-up resumes and a finished one does nothing. Standard library
only; ROS 2 comes from wheels unless another ROS 2 is sourced.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from machine import (
    ENVIRONMENT,
    PYTHON,
    ROOT,
    TORCH_VERSION,
    Ros,
    SetupError,
    choose_python,
    detect_ros,
    has_nvidia_gpu,
    lock_file,
    missing_system_packages,
)

STAMPS = ENVIRONMENT / "setup"
# Interface packages that installed ROSes have and wheels lack: those of the nodes, those of tests.
INTERFACES = ROOT / "interfaces"
TEST_INTERFACES = ROOT / "test" / "interfaces"
UNITY_BUILD = ROOT / "tools" / "unity_build.cmake"
LOG = STAMPS / "setup.log"
# The public index of torch builds without CUDA; a wheel that pip finds elsewhere is preferred.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def clean_environment(ros: Ros) -> dict[str, str]:
    """Returns the variables for the steps: those of the shell, less what some env.sh has set."""
    variables = dict(os.environ)
    if ros.from_wheels:
        for name in ("PYTHONPATH", "AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH"):
            variables.pop(name, None)
        if variables.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None):
            variables.pop("LD_LIBRARY_PATH", None)
        variables["AMENT_PREFIX_PATH"] = variables["CMAKE_PREFIX_PATH"] = str(ENVIRONMENT)
        variables["ROS_DISTRO"] = ros.distribution
    else:
        variables["AMENT_PREFIX_PATH"] = os.pathsep.join(ros.prefixes)
    variables["VIRTUAL_ENV"] = str(ENVIRONMENT)
    variables["PATH"] = f"{ENVIRONMENT / 'bin'}{os.pathsep}{os.environ['PATH']}"
    variables["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    return variables


def tell(text: str) -> None:
    """Prints one line of progress."""
    print(f"vla_ros set-up: {text}", flush=True)


def run_logged(
    command: list[str], variables: dict[str, str], progress: Callable[[str], str | None]
) -> None:
    """Runs a command, its output into the log; raises SetupError with the last lines if it fails.

    progress: gets each line of output; the text that it returns is shown, in place on a terminal
    and every 15 s elsewhere.
    """
    shown_at = 0.0
    terminal = sys.stdout.isatty()
    lines: list[str] = []
    with LOG.open("a") as log:
        log.write(f"\n$ {' '.join(command)}\n")
        process = subprocess.Popen(
            command, env=variables, cwd=ROOT, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            log.flush()
            lines = [*lines[-30:], line.rstrip()]
            text = progress(line)
            if text and time.monotonic() - shown_at > (0.2 if terminal else 15.0):
                shown_at = time.monotonic()
                print(f"\r\033[K  {text[:90]}" if terminal else f"  {text[:90]}",
                      end="" if terminal else "\n", flush=True)  # fmt: skip
        status = process.wait()
    if terminal:
        print("\r\033[K", end="", flush=True)
    if status:
        tail = "\n  ".join(line for line in lines if "is ignored: it is neither" not in line)
        raise SetupError(f"'{' '.join(command[:6])} ...' failed; its last lines were\n  {tail}\n"
                         f"The whole log is {LOG}. 'make setup' continues from here.")  # fmt: skip


def digest(*parts: object) -> str:
    """Returns a hash of files (by content) and other values (by text)."""
    value = hashlib.sha256()
    for part in parts:
        value.update(part.read_bytes() if isinstance(part, Path) else str(part).encode())
        value.update(b"\0")
    return value.hexdigest()


def step(name: str, key: str, title: str, action: Callable[[], None]) -> bool:
    """Does a step unless its stamp has the same key; returns whether it did."""
    stamp = STAMPS / name
    if stamp.exists() and stamp.read_text() == key:
        return False
    tell(title)
    started = time.monotonic()
    stamp.unlink(missing_ok=True)
    action()
    stamp.write_text(key)
    tell(f"  done in {time.monotonic() - started:.0f} s")
    return True


def install_system_packages(python: str) -> None:
    """Installs missing system packages as root; else raises SetupError with a line to paste."""
    needed, optional = missing_system_packages(python)
    if not needed and not optional:
        return
    paste = f"sudo apt-get install -y {' '.join(needed + optional)}"
    if os.geteuid() == 0 and shutil.which("apt-get"):
        tell(f"system packages: {' '.join(needed + optional)}")
        variables = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        STAMPS.mkdir(parents=True, exist_ok=True)
        run_logged(["apt-get", "update"], variables, str.strip)
        known = [name for name in needed + optional if _apt_knows(name)]
        command = ["apt-get", "install", "-y", "--no-install-recommends", *known]
        run_logged(command, variables, str.strip)
        needed, optional = missing_system_packages(python)
    if needed:
        raise SetupError(f"system packages are missing. Paste this, then 'make setup':\n  {paste}")
    if optional and os.geteuid() != 0 and not (STAMPS / "packages").exists():
        tell(f"'make lint' will want: {paste}")


def _apt_knows(name: str) -> bool:
    found = subprocess.run(["apt-cache", "show", name], capture_output=True)
    return found.returncode == 0


def make_environment(python: str) -> None:
    """Makes .venv; one that is broken or incomplete is replaced."""
    if ENVIRONMENT.exists() and not (ENVIRONMENT / "pyvenv.cfg").exists():
        shutil.rmtree(ENVIRONMENT)
    subprocess.run([python, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
    STAMPS.mkdir(parents=True, exist_ok=True)


def pip(*arguments: str) -> list[str]:
    """Returns a pip command for the environment."""
    return [str(PYTHON), "-m", "pip", "install", "--progress-bar", "off", *arguments]


def install_packages(ros: Ros, variables: dict[str, str]) -> None:
    """Installs the lock exactly: no dependency is looked up, so nothing drifts."""
    requirements = [
        line
        for line in lock_file(ros.distribution if ros.from_wheels else "jazzy")
        .read_text()
        .splitlines()
        if not line.startswith("#") and (ros.from_wheels or not line.startswith("ros-"))
    ]
    wanted = STAMPS / "requirements.txt"
    wanted.write_text("\n".join(requirements) + "\n")
    setuptools = next(line for line in requirements if line.startswith("setuptools=="))
    seen = 0

    def progress(line: str) -> str | None:
        nonlocal seen
        if line.startswith(("Collecting", "Requirement already", "Ignoring")):
            seen += 1
            return f"{seen} of {len(requirements)}: {line.strip()}"
        return "unpacking" if line.startswith("Installing collected") else None

    # Some packages are built on the spot; that must not fetch a newer setuptools.
    run_logged(pip("--no-deps", setuptools), variables, lambda line: None)
    run_logged(
        pip("--no-deps", "--no-build-isolation", "-r", str(wanted)), variables, progress
    )  # fmt: skip
    if ros.from_wheels:
        (ENVIRONMENT / "ros_distro").write_text(ros.distribution + "\n")


def point_cmake_files_here() -> None:
    """Makes the ROS 2 wheels' CMake files name this machine's Python and NumPy headers.

    The files exported by the wheels hold the folders of the machine that built them, and CMake
    refuses a package whose include folder does not exist.
    """
    program = "import sysconfig, numpy; print(sysconfig.get_path('include'), numpy.get_include())"
    found = subprocess.run([str(PYTHON), "-c", program], capture_output=True, text=True, check=True)
    python_headers, numpy_headers = found.stdout.split()
    for path in sorted((ENVIRONMENT / "share").glob("*/cmake/*.cmake")):
        text = path.read_text()
        changed = re.sub(r'/opt/python/[^;"]*/numpy/[^;"]*include', numpy_headers, text)
        changed = re.sub(r'/opt/python/[^;"]*/include/python3[^;"/]*', python_headers, changed)
        changed = changed.replace("/usr/lib64/libtinyxml2.so;", "")
        if changed != text:
            path.write_text(changed)


def torch_build() -> str:
    """Returns "cpu" or "cuda": VLA_TORCH, else the installed build, else what the machine has."""
    recorded = STAMPS / "torch_build"
    if os.environ.get("VLA_TORCH"):
        build = os.environ["VLA_TORCH"]
    elif recorded.exists():
        build = recorded.read_text()
    else:
        build = "cuda" if has_nvidia_gpu() else "cpu"
    if build not in ("cpu", "cuda"):
        raise SetupError(f"VLA_TORCH is '{build}': use cpu or cuda")
    return build


def install_torch(build: str, variables: dict[str, str], lock: Path) -> None:
    """Installs torch, for "cuda" with its dependencies; raises SetupError if no build is found."""

    def progress(line: str) -> str | None:
        return line.strip() if line.startswith(("Collecting", "  Downloading")) else None

    # Three equal signs: two would let the other build in.
    attempts = [pip("--no-deps", f"torch==={TORCH_VERSION}+cpu")]
    attempts.append([*attempts[0], "--index-url", TORCH_CPU_INDEX])
    if build == "cuda":
        attempts = [pip("-c", str(lock), f"torch==={TORCH_VERSION}")]
    for command in attempts:
        try:
            run_logged(command, variables, progress)
            break
        except SetupError as error:
            failure = error
    else:
        advice = "" if build == "cuda" else (
            f"\nNo torch {TORCH_VERSION} without CUDA was found. Put its wheel into a folder and "
            "name that in PIP_FIND_LINKS, or take the CUDA build (several GB): "
            "VLA_TORCH=cuda make setup"
        )  # fmt: skip
        raise SetupError(f"{failure}{advice}")
    (STAMPS / "torch_build").write_text(build)


def build_interfaces(ros: Ros, variables: dict[str, str]) -> None:
    """Builds msg/, srv/ and action/, and what ROS lacks, with colcon into build/ and install/."""
    if ros.from_wheels:
        point_cmake_files_here()

    def progress(line: str) -> str | None:
        return line.strip() if re.match(r"\[ *\d+%\]", line) else None

    command = [
        "colcon", "--log-base", "log", "build",
        "--base-paths", ".", *missing_interfaces(INTERFACES, variables), "--symlink-install",
        "--event-handlers", "console_direct+", "--cmake-args", "-DCMAKE_BUILD_TYPE=Release",
        "-DBUILD_TESTING=OFF", f"-DPython3_EXECUTABLE={PYTHON}", *faster_build(ros),
    ]  # fmt: skip
    run_logged(command, variables, progress)


def faster_build(ros: Ros) -> list[str]:
    """Returns what CMake is told; another ROS 2 than the wheels may generate other files."""
    return [f"-DCMAKE_PROJECT_INCLUDE={UNITY_BUILD}"] if ros.from_wheels else []


def missing_interfaces(folder: Path, variables: dict[str, str]) -> list[str]:
    """Returns the packages in `folder` that no ROS here has, by their folders."""
    prefixes = [Path(prefix) for prefix in variables["AMENT_PREFIX_PATH"].split(os.pathsep)]
    return [
        str(path)
        for path in sorted(folder.iterdir())
        if (path / "package.xml").exists()
        and not any((prefix / "share" / path.name / "package.xml").exists() for prefix in prefixes)
    ]


def build_test_interfaces(ros: Ros, variables: dict[str, str]) -> None:
    """Builds the interface packages that tests need and no ROS here has, into install_test/."""
    missing = missing_interfaces(TEST_INTERFACES, variables)
    install = ROOT / "install_test"
    # What is there is kept and built upon: only what has changed takes time.
    install.mkdir(exist_ok=True)
    if not missing:
        return
    command = [
        "colcon", "--log-base", "log", "build",
        "--base-paths", *missing,
        "--build-base", "build_test", "--install-base", str(install), "--merge-install",
        # Tests send few messages: compiling without optimization saves more than that costs.
        "--cmake-args", "-DCMAKE_C_FLAGS=-O0", "-DCMAKE_CXX_FLAGS=-O0", "-DCMAKE_BUILD_TYPE=",
        "-DBUILD_TESTING=OFF", f"-DPython3_EXECUTABLE={PYTHON}", *faster_build(ros),
        # A test that is running cannot change where its libraries are looked for.
        f"-DCMAKE_INSTALL_RPATH={install / 'lib'}",
    ]  # fmt: skip
    run_logged(command, variables, str.strip)


def set_up(for_tests: bool) -> bool:
    """Does every step that is not done yet, with those for tests; returns whether it did any."""
    ros = detect_ros()
    if ros.from_wheels and platform.machine() != "x86_64":
        raise SetupError("ROS 2 comes as wheels only for x86_64: source an installed ROS 2 first")
    mode = ros.distribution if ros.from_wheels else f"sourced {ros.distribution}"
    made = STAMPS / "mode"
    if made.exists() and made.read_text() != mode:
        raise SetupError(
            f".venv was made for ROS 2 '{made.read_text()}' and this shell asks for '{mode}': "
            "run 'make clean' first, or use a shell in which that other ROS 2 is not sourced"
        )
    # Until the packages are there, pip must be too: making the environment may have been cut short.
    probe = [PYTHON, "-S", "-c", ""] if (STAMPS / "packages").exists() else [PYTHON, "-m", "pip"]
    working = PYTHON.exists() and subprocess.run(probe, capture_output=True).returncode == 0
    python = str(PYTHON) if working else choose_python(ros)
    install_system_packages(python)
    if not working:
        tell(f"Python environment in .venv ({python}), for ROS 2 {mode}")
        make_environment(python)
    STAMPS.mkdir(parents=True, exist_ok=True)
    made.write_text(mode)

    variables = clean_environment(ros)
    lock = lock_file(ros.distribution if ros.from_wheels else "jazzy")
    build = torch_build()
    packages = digest(lock, mode)
    changed = step("packages", packages, "1 of 3: Python packages (a few minutes)",
                   lambda: install_packages(ros, variables))  # fmt: skip
    changed |= step("torch", digest(TORCH_VERSION, build),
                    f"2 of 3: torch {TORCH_VERSION} ({build})",
                    lambda: install_torch(build, variables, lock))  # fmt: skip
    folders = ("msg", "srv", "action")
    sources = sorted(path for name in folders for path in (ROOT / name).iterdir())
    sources += sorted(path for path in INTERFACES.rglob("*") if path.is_file())
    installed = sorted(
        str(path.relative_to(ROOT))
        for folder in ("launch", "config", "scripts", "checkpoints")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not {"__pycache__", "exports"} & set(path.parts)
    )
    place = digest(str(ROOT), mode, sys.version)
    interfaces = digest(ROOT / "CMakeLists.txt", ROOT / "package.xml", UNITY_BUILD, place, sources,
                        installed, *sources)  # fmt: skip
    same_place = (STAMPS / "place").exists() and (STAMPS / "place").read_text() == place

    def build_here() -> None:
        if not same_place:
            for folder in ("build", "install", "build_test", "install_test"):
                shutil.rmtree(ROOT / folder, ignore_errors=True)
            (STAMPS / "place").write_text(place)
        build_interfaces(ros, variables)

    built = ("vla_ros", *(Path(path).name for path in missing_interfaces(INTERFACES, variables)))
    if not all((ROOT / "install" / name).exists() for name in built):
        (STAMPS / "interfaces").unlink(missing_ok=True)
    changed |= step("interfaces", interfaces, "3 of 3: interfaces, built with colcon",
                    build_here)  # fmt: skip
    if not for_tests:
        return changed
    if not (ROOT / "install_test").exists():
        (STAMPS / "test_interfaces").unlink(missing_ok=True)
    declared = sorted(path for path in TEST_INTERFACES.rglob("*") if path.is_file())
    tests = digest(place, *(path.relative_to(ROOT) for path in declared), *declared)
    changed |= step("test_interfaces", tests, "for the tests: other packages' interfaces",
                    lambda: build_test_interfaces(ros, variables))  # fmt: skip
    return changed


def main() -> int:
    """Runs the set-up once; a second one started meanwhile waits for the first."""
    started = time.monotonic()
    with (ROOT / "Makefile").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if set_up(for_tests="--tests" in sys.argv[1:]):
                tell(f"ready after {time.monotonic() - started:.0f} s. Next: 'make demo', or "
                     "'source ./env.sh' for a shell with everything in it.")  # fmt: skip
        except SetupError as error:
            print(f"vla_ros set-up: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(
                "\nvla_ros set-up: interrupted; 'make setup' continues from here.", file=sys.stderr
            )
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
