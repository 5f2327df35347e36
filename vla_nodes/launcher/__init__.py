"""Runs ROS 2 launch files written in XML where `ros2 launch` is not installed.

The files are those of `ros2 launch`, unchanged, with the same meaning; what this launcher does
not support is refused with file, line and element. `main` is the command line, `start_launch`
runs a launch file in the background.
"""

from vla_nodes.launcher.background import BackgroundLaunch, start_launch
from vla_nodes.launcher.command import main
from vla_nodes.launcher.document import LaunchError

__all__ = ["BackgroundLaunch", "LaunchError", "main", "start_launch"]
