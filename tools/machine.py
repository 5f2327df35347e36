"""What the set-up needs to know of this machine: ROS 2, Python, GPU, system packages.

Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
TORCH_VERSION = "2.13.0"
PYTHON_VERSIONS = ("3.12", "3.11", "3.10")


class SetupError(Exception):
    """The set-up cannot go on; the text says why and what to do."""


@dataclass(frozen=True)
class Ros:
    """The ROS 2 to set up for: its distribution, and whether it comes from wheels."""

    distribution: str
    from_wheels: bool
    prefixes: tuple[str, ...] = ()
    python_version: str | None = None


def detect_ros() -> Ros:
    """Returns the ROS 2 that is sourced in this shell, or else the one to take from wheels.

    Prefixes inside a Python environment or an installed vla_ros are ours (a shell in which env.sh
    was sourced) and do not count.
    """
    prefixes = []
    for entry in filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)):
        ours = (Path(entry) / "pyvenv.cfg").exists() or Path(entry).name == "vla_ros"
        if not ours:
            prefixes.append(entry)
    for prefix in prefixes:
        for package in Path(prefix).glob("lib/python3*/site-packages/rclpy"):
            distribution = os.environ.get("ROS_DISTRO", "unknown")
            version = package.parent.parent.name.removeprefix("python")
            return Ros(distribution, False, tuple(prefixes), version)
    recorded = ENVIRONMENT / "ros_distro"
    default = recorded.read_text().strip() if recorded.exists() else "jazzy"
    distribution = os.environ.get("VLA_ROS_DISTRO", default)
    sources = (ROOT / "requirements").glob("ros-*.in")
    known = sorted(path.stem.removeprefix("ros-") for path in sources)
    if distribution not in known:
        raise SetupError(
            f"there is no ROS 2 '{distribution}' as wheels: use one of {', '.join(known)}"
        )
    return Ros(distribution, True)


def lock_file(distribution: str) -> Path:
    """Returns the lock of a distribution."""
    return ROOT / "requirements" / f"{distribution}.lock"


def has_nvidia_gpu() -> bool:
    """Says whether an NVIDIA driver with a device is at hand."""
    if shutil.which("nvidia-smi") is None:
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return listed.returncode == 0 and "GPU" in listed.stdout


def missing_system_packages(python: str) -> tuple[list[str], list[str]]:
    """Returns the Debian packages that are missing: those needed, and those for the linter.

    Args:
        python: The interpreter that the environment is or will be made with.
    """
    needed = []
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        needed.append("g++")
    needed += [tool for tool in ("cmake", "make") if shutil.which(tool) is None]
    probe = (
        "import sysconfig, os, importlib.util as u, sys;"
        "print('%d.%d' % sys.version_info[:2],"
        " os.path.exists(os.path.join(sysconfig.get_path('include'), 'Python.h')),"
        " u.find_spec('ensurepip') is not None)"
    )
    found = subprocess.run([python, "-S", "-c", probe], capture_output=True, text=True, check=True)
    version, headers, ensurepip = found.stdout.split()
    if headers == "False":
        needed.append(f"python{version}-dev")
    if ensurepip == "False" and not PYTHON.exists():
        needed.append(f"python{version}-venv")
    ldconfig = shutil.which("ldconfig") or "/sbin/ldconfig"
    libraries = subprocess.run([ldconfig, "-p"], capture_output=True, text=True).stdout
    if "libEGL.so.1" not in libraries and "libOSMesa.so.8" not in libraries:
        needed += ["libosmesa6", "libegl1", "libgl1", "libopengl0"]
    elif "libGL.so.1" not in libraries and "libOpenGL.so.0" not in libraries:
        needed += ["libgl1", "libopengl0"]
    return needed, [] if shutil.which("xmllint") else ["libxml2-utils"]


def choose_python(ros: Ros) -> str:
    """Returns the interpreter to make the environment with.

    A sourced ROS 2 fixes the version. Otherwise a version for which pip's local folders hold a
    torch wheel comes first, then the newest.
    """
    if os.environ.get("VLA_PYTHON"):
        return os.environ["VLA_PYTHON"]
    usable: dict[str, str] = {}
    for name in [f"python{version}" for version in PYTHON_VERSIONS] + ["python3", sys.executable]:
        program = "import sys; print('%d.%d' % sys.version_info[:2])"
        try:
            found = subprocess.run([name, "-S", "-c", program], capture_output=True, text=True)
        except OSError:
            continue
        version = found.stdout.strip()
        if found.returncode == 0 and version in PYTHON_VERSIONS:
            usable.setdefault(version, shutil.which(name) or name)
    if ros.python_version is not None:
        if ros.python_version not in usable:
            raise SetupError(
                f"the sourced ROS 2 {ros.distribution} is for Python {ros.python_version}, which "
                f"is not here: install python{ros.python_version}"
            )
        return usable[ros.python_version]
    preferred = [version for version in PYTHON_VERSIONS if version in usable]
    for folder in os.environ.get("PIP_FIND_LINKS", "").split():
        for version in preferred:
            tag = "cp" + version.replace(".", "")
            if any(Path(folder).glob(f"torch-{TORCH_VERSION}*-{tag}-*.whl")):
                return usable[version]
    return usable[preferred[0]]
