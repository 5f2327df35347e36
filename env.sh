# Source this file (bash or zsh, from any folder) to use vla_ros: it puts the Python environment,
# the executables and the interfaces of this checkout on the search paths of the current shell.

_vla_prepend() {  # VARIABLE FOLDER: puts FOLDER first in VARIABLE, and nowhere else in it
  eval "_vla_value=:\${$1-}:"
  _vla_value=${_vla_value//":$2:"/:}
  _vla_value=${_vla_value#:}
  _vla_value=${_vla_value%:}
  eval "export $1=\"\$2\${_vla_value:+:\$_vla_value}\""
}

if [ -n "${ZSH_VERSION-}" ]; then
  eval '_vla_root=${(%):-%x}'
else
  _vla_root=${BASH_SOURCE[0]}
fi
_vla_root=$(cd "$(dirname "$_vla_root")" > /dev/null && pwd)
_vla_environment=$_vla_root/.venv
_vla_install=$_vla_root/install/vla_ros

if [ ! -x "$_vla_environment/bin/python" ] || [ ! -d "$_vla_install" ]; then
  echo "vla_ros is not set up yet: run 'make setup' in $_vla_root, then source env.sh again." >&2
  unset -f _vla_prepend
  unset _vla_root _vla_environment _vla_install _vla_value
  return 1
fi

# ROS 2 from wheels serves only where setup found no other one; its libraries lie in the environment.
if [ -d "$_vla_environment/share/rclpy" ]; then
  export ROS_VERSION=2 ROS_PYTHON_VERSION=3
  ROS_DISTRO=$(cat "$_vla_environment/ros_distro" 2> /dev/null || echo jazzy)
  export ROS_DISTRO
  _vla_prepend AMENT_PREFIX_PATH "$_vla_environment"
  _vla_prepend CMAKE_PREFIX_PATH "$_vla_environment"
  for _vla_folder in "$_vla_environment"/lib/python3.*/site-packages/ros_*.libs; do
    _vla_prepend LD_LIBRARY_PATH "$_vla_folder"
  done
  _vla_prepend LD_LIBRARY_PATH "$_vla_environment/lib"
  # The wheels start Python a second time to set the library path, unless this says it is set.
  export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
fi

if [ -z "${AMENT_PREFIX_PATH-}" ]; then
  echo "vla_ros was set up for an installed ROS 2 ($(cat "$_vla_environment/setup/mode"))," \
    "which this shell has not sourced: source its setup script, then env.sh again." >&2
fi
# Our package, and the interfaces that setup built because no ROS here has them.
for _vla_install in "$_vla_root"/install/*/; do
  _vla_install=${_vla_install%/}
  _vla_prepend AMENT_PREFIX_PATH "$_vla_install"
  _vla_prepend CMAKE_PREFIX_PATH "$_vla_install"
  _vla_prepend LD_LIBRARY_PATH "$_vla_install/lib"
  for _vla_folder in "$_vla_install"/lib/python3.*/site-packages; do
    _vla_prepend PYTHONPATH "$_vla_folder"
  done
done
# Before the installed copy, so that an edit takes effect without a build.
_vla_prepend PYTHONPATH "$_vla_root"
_vla_prepend PATH "$_vla_root/scripts"
_vla_prepend PATH "$_vla_environment/bin"
export VIRTUAL_ENV="$_vla_environment"

# Nothing leaves this machine, and no other robot is heard, unless the user asks for it.
export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"

unset -f _vla_prepend
unset _vla_root _vla_environment _vla_install _vla_value _vla_folder
