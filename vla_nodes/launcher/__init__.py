"""Runs ROS 2 launch files written in XML where `ros2 launch` is not installed.

The files are those of `ros2 launch`, unchanged, with the same meaning; what this launcher does
not support is refused with file, line and element.
"""

from vla_nodes.launcher.command import main
from vla_nodes.launcher.document import LaunchError

__all__ = ["LaunchError", "main"]
