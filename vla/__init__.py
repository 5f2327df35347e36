"""vla: the ROS-free library of vla_ros (models, data, training, control, evaluation, simulation)."""

__version__ = "0.1.0"
