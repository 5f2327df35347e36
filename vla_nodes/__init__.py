"""The ROS 2 nodes of vla_ros: thin processes around the library `vla`."""
